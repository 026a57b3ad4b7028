"""Measures of each source of a window against the reference: which camera moved, and in what.

They are shown and decide nothing. N rows of the window, M of the reference, S sources.
"""

import numpy as np

from monitoring.contracts import Cell, SourceMeasures
from monitoring.drift import distances
from monitoring.drift.arrays import NUMBERS, SampleArrays
from monitoring.drift.calibration import share_measures
from monitoring.drift.judged_measures import LEAST
from monitoring.drift.reference import Reference

LEVEL = 0.001  # chance of a cell beyond its bound without drift: a table has hundreds of cells
MOST = 40  # sources: those that moved most
COLUMNS = (*(f"image.{name}" for name in NUMBERS), "confidence", "ood.rate", "prediction.mix")


def by_source(
    window: SampleArrays, sources: np.ndarray, reference: Reference, most: int = MOST
) -> list[SourceMeasures]:
    """The measures of at most `most` sources, those that moved most first. sources: (N,) names, "" for none."""
    found = []
    for source in np.unique(sources):
        rows = np.flatnonzero(sources == source)
        part = window.take(rows[: len(reference)])  # more rows would show what is odd in the reference itself
        cells = {name: _cell(name, part, reference) for name in COLUMNS}
        known = {name: cell for name, cell in cells.items() if cell is not None}
        found.append(SourceMeasures(source=str(source), rows=len(rows), cells=known))
    found.sort(key=lambda one: (-one.worst(), -one.rows, one.source))
    return found[:most]


def _cell(name: str, part: SampleArrays, reference: Reference) -> Cell | None:
    """One measure of one source; None if there is nothing to compare."""
    if name in ("ood.rate", "prediction.mix"):
        sides = [share_measures(side, reference.ood_threshold)[name].sum(axis=0) for side in (part, reference.arrays)]
        return _shares(name, *sides)
    column = name.removeprefix("image.")
    now, was = (side.numbers[column][np.isfinite(side.numbers[column])] for side in (part, reference.arrays))
    if not len(now) or not len(was):
        return None
    ratio = None
    if min(len(now), len(was)) >= LEAST:
        bound = distances.ks_at(LEVEL, distances.effective(len(now), len(was)))
        ratio = round(distances.ks(now, np.sort(was)) / bound, 3)
    return Cell(value=_figure(np.median(now)), was=_figure(np.median(was)), ratio=ratio)


def _shares(name: str, now: np.ndarray, was: np.ndarray) -> Cell | None:
    """now, was: (C,) counts. The value is the share of unfamiliar images, or by how much the mix of answers differs."""
    if not now.sum() or not was.sum():
        return None
    ratio = None
    if min(now.sum(), was.sum()) >= LEAST:
        bound = distances.psi_at(LEVEL, distances.effective(now.sum(), was.sum()), len(now))
        ratio = round(float(distances.psi(now, was)) / bound, 3)
    shares = [counts / counts.sum() for counts in (now, was)]
    if name == "prediction.mix":
        return Cell(value=_figure(np.abs(shares[0] - shares[1]).sum() / 2), was=0.0, ratio=ratio)
    return Cell(value=_figure(shares[0][1]), was=_figure(shares[1][1]), ratio=ratio)


def _figure(value: float) -> float:
    return float(f"{value:.4g}")
