"""Does a drift remain when the sources that people marked as expected are left out?"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import Window
from monitoring.drift.judged_measures import LEAST
from monitoring.drift.reference import Reference
from monitoring.drift.window import measure_window
from tasks.common.params import DriftParams


def drifts_elsewhere(
    table: pa.Table, window: Window, reference: Reference, params: DriftParams, marked: Mapping[str, frozenset[str]]
) -> list[str]:
    """The measures of `marked` that drift in the window's other rows, too.

    marked: drifted measure -> the sources whose rows are left out. Too few other rows show no drift.
    """
    found = []
    for sources in set(marked.values()):
        rest = without_sources(table, sources)
        if len(rest) < LEAST:
            continue
        about = window.model_copy(update={"rows": len(rest), "used": len(rest)})
        drifted = {finding.name for finding in measure_window(rest, about, reference, params).drifted()}
        found += [name for name, left_out in marked.items() if left_out == sources and name in drifted]
    return sorted(found)


def without_sources(table: pa.Table, sources: frozenset[str]) -> pa.Table:
    """The rows of other sources; rows without a source have the source ""."""
    named = table["source"].cast(pa.string()).fill_null("")
    return table.filter(pc.invert(pc.is_in(named, pa.array(sorted(sources), pa.string()))))
