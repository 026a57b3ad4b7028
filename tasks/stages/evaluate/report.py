"""What `evaluate` writes for people: report.json, plots, and CSV files for `dvc plots`.

N images, K classes.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tasks.common.files import write_json
from tasks.dataset.shard_table import ShardTable
from tasks.scoring import metrics
from tasks.stages.evaluate import figures, plots
from tasks.stages.evaluate.figures import Results

WORST = 24  # mistakes shown


def write(
    folder: Path, test: Results, table: list[dict], ece: float | None, ids: list[str], pixels: ShardTable
) -> None:
    """Write everything but predictions.parquet into the new `folder`.

    table: of figures.by_class; ids: of the N images, the first N of `pixels`.
    """
    bins = metrics.reliability(test.probabilities, test.targets)
    error = "" if ece is None else f", debiased calibration error {ece:.3f}"
    confidence, _ = metrics.events(test.probabilities, test.targets)
    plots.reliability(folder / "plots/reliability.png", bins, confidence, f"{len(ids)} test images{error}")
    plots.per_class(folder / "plots/per_class.png", table)
    truth = metrics.one_hot(test.targets, len(test.classes))
    curves = {}
    for k in np.flatnonzero(truth.any(axis=0)):
        precision, recall, _ = metrics.precision_recall(truth[:, k], test.probabilities[:, k])
        curves[test.classes[k]] = precision, recall, table[k]["average_precision"]
    plots.precision_recall(folder / "plots/precision_recall.png", curves)
    if test.task == "multiclass":
        matrix = metrics.confusion(test.targets, test.predicted, len(test.classes))
        plots.confusion(folder / "plots/confusion.png", matrix, test.classes)
    else:
        plots.label_errors(folder / "plots/confusion.png", table)
    worst = _mistakes(test)
    answer = metrics.one_hot(test.predicted, len(test.classes))
    wrong = truth ^ answer  # with one label per image: the given and the predicted label
    plots.worst(
        folder / "plots/worst.png",
        pixels[np.array([row for row, _ in worst], int)],
        [
            (_labels(test.classes, truth[row] & wrong[row]), _labels(test.classes, answer[row] & wrong[row]), sure)
            for row, sure in worst
        ],
        "given → predicted" if test.task == "multiclass" else "labels missed → labels wrongly given",
    )
    pairs = _pairs(test.classes, truth, answer)
    _write_csv(
        folder / "reliability.csv",
        ("confidence", "accuracy", "count"),
        figures.tidy(list(zip(bins.confidence, bins.accuracy, bins.count, strict=True))),
    )
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), pairs)
    write_json(
        folder / "report.json",
        figures.tidy(
            {
                "classes": table,
                "confusions": [
                    {"actual": actual, "predicted": predicted, "images": number}
                    for (actual, predicted), number in Counter(pairs).most_common()
                    if actual != predicted
                ],
                "reliability": bins._asdict(),
                "mistakes": [
                    {
                        "id": ids[row],
                        "actual": _labels(test.classes, truth[row]),
                        "predicted": _labels(test.classes, answer[row]),
                        "confidence": sure,
                    }
                    for row, sure in worst
                ],
            }
        ),
    )


def _mistakes(test: Results) -> list[tuple[int, float]]:
    """(row, confidence) of the WORST most confident mistakes. Multi-label: by the confidence of the worst label."""
    if test.task == "multiclass":
        wrong = test.predicted != test.targets
        sure = test.probabilities.max(axis=1)
    else:
        missed = test.predicted != test.targets.astype(bool)
        wrong = missed.any(axis=1)
        sure = np.where(test.predicted, test.probabilities, 1 - test.probabilities)
        sure = np.where(missed, sure, 0).max(axis=1)
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(-sure[rows], kind="stable")][:WORST]
    return [(int(row), float(sure[row])) for row in rows]


def _labels(classes: Sequence[str], there: np.ndarray) -> str:
    """Names of the labels in `there`, (K,) bool."""
    return ", ".join(classes[k] for k in np.flatnonzero(there)) or "(none)"


def _pairs(classes: Sequence[str], truth: np.ndarray, answer: np.ndarray) -> list[tuple[str, str]]:
    """(actual, predicted) for `dvc plots`' confusion template; truth, answer: (N, K) bool.

    A label that an image has and got is paired with itself. Missed labels are paired with false ones in order: with one
    label per image, that is the confusion matrix itself.
    """
    pairs = []
    for there, given in zip(truth, answer, strict=True):
        pairs += [(classes[k], classes[k]) for k in np.flatnonzero(there & given)]
        missed, false = np.flatnonzero(there & ~given), np.flatnonzero(given & ~there)
        for place in range(max(len(missed), len(false))):
            actual = classes[missed[place]] if place < len(missed) else "(none)"
            pairs.append((actual, classes[false[place]] if place < len(false) else "(none)"))
    return pairs


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:  # the folder is new: this overwrites nothing
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
