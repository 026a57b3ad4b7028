"""What the page of a window shows besides measures: sources, images next to similar ones, plots."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from monitoring.contracts import Bins, MovedImage, WindowDetails
from monitoring.drift.arrays import log_arrays
from monitoring.drift.by_source import by_source
from monitoring.drift.matched import nearest_alike
from monitoring.drift.reference import Reference
from monitoring.pages import plots
from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.window_page import PLOTS, compared
from tasks.common.text import one_line

LETTERS = 200  # of a class, kept with an image


def window_details(
    shown: MeasuredWindow, reference: Reference, done: Sequence[str] = (), images: int = 12
) -> WindowDetails:
    """The details of a window. done: what was started because of it; images: at most so many."""
    table = shown.window_table
    arrays = log_arrays(table, reference.classes, reference.arrays.features.shape[1], reference.task)
    sources = np.array(table["source"].fill_null("").to_pylist(), str)
    readable = np.array([reason is None for reason in table["reason"].to_pylist()], bool)
    return WindowDetails(
        sources=by_source(arrays.take(readable), sources[readable], reference),
        moved=_moved(shown, reference, arrays, sources, images),
        plots=_plots(shown),
        done=list(done),
    )


def _moved(shown: MeasuredWindow, reference: Reference, arrays, sources: np.ndarray, images: int) -> list[MovedImage]:
    place: dict[str, int] = {}
    for row, name in enumerate(arrays.ids.tolist()):
        place.setdefault(name, row)
    chosen = [place[name] for name in shown.measures.moved if name in place][:images]
    width = reference.arrays.predicted.shape[1]
    beside = nearest_alike(
        arrays.features[chosen], arrays.predicted[chosen][:, :width], reference.arrays.features,
        reference.arrays.predicted,
    )  # fmt: skip
    answers = shown.window_table["prediction"].take(pa.array(chosen, pa.int64())).to_pylist()
    return [
        MovedImage(
            id=str(arrays.ids[row]),
            prediction=one_line(_words(answer), LETTERS),
            confidence=_number(arrays.numbers["confidence"][row]),
            ood=_number(arrays.numbers["ood"][row]),
            source=str(sources[row]),
            beside=[str(name) for name in reference.arrays.ids[near]],
        )
        for row, answer, near in zip(chosen, answers, beside, strict=True)
    ]


def _plots(shown: MeasuredWindow) -> list[Bins]:
    found = []
    for finding, was, now in compared(shown):
        if (bins := plots.binned(was, now)) is not None:
            low, high, *shares = bins
            rounded = [[round(share, 4) for share in side] for side in shares]
            medians = {"median_was": float(np.median(was)), "median_now": float(np.median(now))}
            found.append(Bins(name=finding.name, low=low, high=high, was=rounded[0], now=rounded[1], **medians))
    return found[:PLOTS]


def _words(answer: str | list[str] | None) -> str:
    if isinstance(answer, list):
        return " + ".join(answer) or "(none)"
    return answer or "(none)"


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
