"""What people said about the samples under validation: effective labels, exclusions, confirmations.

N samples, in the order of artifacts/inspect/samples.parquet.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common.files import content_key
from tasks.dataset.shards import read_tombstones
from tasks.labels.agreed import Method
from tasks.labels.annotations import Decision, decide_all, read_annotations, replaced
from tasks.labels.reading import read_column
from tasks.labels.taxonomy import Taxonomy

EXCLUDED = "by_people"  # in the column `excluded`
CONFIRMED = (
    pa.schema(  # artifacts/validate/network/confirmed.parquet: labels that a reviewer or several annotators gave
        [
            ("id", pa.string()),
            ("since", pa.int32()),  # number of the batch of annotations that confirmed it
            ("by", pa.string()),
            ("disputed", pa.string()),  # what an annotator said against it since; null: nothing
        ]
    )
)


def decisions(root: Path, samples: pa.Table, taxonomy: Taxonomy, method: Method) -> dict[int, Decision]:
    """Row of `samples` -> what people's annotations decide about it, in the names of `taxonomy`.

    method: how annotators who differ are settled.
    """
    annotations = read_annotations(root / "data", read_tombstones(root))
    return decide_all(samples["id"], samples["label"], annotations, taxonomy, method)


def with_decisions(samples: pa.Table, found: dict[int, Decision], taxonomy: Taxonomy) -> pa.Table:
    """`samples` with effective labels, and EXCLUDED where a person excluded the sample."""
    labels = replaced(read_column(samples["label"], taxonomy), found)
    samples = samples.set_column(samples.column_names.index("label"), "label", labels)
    if not found:
        return samples
    excluded = np.array(samples["excluded"].to_pylist(), object)
    excluded[[row for row, decision in found.items() if decision.excluded]] = EXCLUDED
    return samples.set_column(samples.column_names.index("excluded"), "excluded", pa.array(excluded, pa.string()))


def confirmed_table(ids: pa.ChunkedArray, found: dict[int, Decision]) -> pa.Table:
    """CONFIRMED, in the order of the samples with these `ids` (N,)."""
    rows = [
        {
            "id": ids[row].as_py(),
            "since": decision.confirmed,
            "by": ", ".join(dict.fromkeys(one["annotator"] or one["role"] for one in decision.deciding)),
            "disputed": decision.disputed,
        }
        for row, decision in sorted(found.items())
        if decision.confirmed is not None
    ]
    return pa.Table.from_pylist(rows, schema=CONFIRMED)


def label_figures(given: pa.Table, found: dict[int, Decision], taxonomy: Taxonomy, changes: list[str]) -> dict:
    """What people changed against the labels as first given (N,), and the revision: a digest of exactly that.

    changes: ids of the changes of classes.
    """
    given = given.set_column(given.column_names.index("label"), "label", read_column(given["label"], taxonomy))
    changed = []
    for row, decision in found.items():
        if decision.excluded or decision.label != given["label"][row].as_py():
            changed.append([given["id"][row].as_py(), decision.label, decision.excluded])
    return {
        "label_revision": content_key([*sorted(changed, key=lambda one: one[0]), *changes])[:12],
        "corrected": sum(not excluded for _, _, excluded in changed),
        "excluded_by_people": sum(excluded for _, _, excluded in changed),
    }
