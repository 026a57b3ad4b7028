"""How much of a model's accuracy each corruption leaves. N is the number of images, K of classes."""

from collections.abc import Callable, Sequence

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.common.params import EvaluateParams
from tasks.inference.thresholds import answers
from tasks.scoring import metrics
from tasks.stages.evaluate import figures
from tasks.stages.evaluate.figures import Results

THREADS = 4  # corruptions at once, at most: each holds a block of images twice


def corrupted(
    probabilities: Callable[[str, np.ndarray], np.ndarray],
    ids: Sequence[str],
    results: Results,
    evaluate: EvaluateParams,
) -> dict[str, dict]:
    """{accuracy, n, kept} under each corruption; `kept` is the share of the same images' clean accuracy.

    probabilities: (corruption, (n,) rows of `results`) -> (n, K), from CorruptedAnswers; called from several threads.
    ids: of the N images of `results`.
    """
    rows = chosen_rows(ids, evaluate)
    part = results.part(rows)
    clean = metrics.accuracy(part.targets, part.predicted, len(results.classes))

    def accuracy(name: str) -> float:
        predicted = answers(probabilities(name, rows), results.rule)
        return metrics.accuracy(part.targets, predicted, len(results.classes))

    found = zip(evaluate.corruptions, on_all_cores(accuracy, evaluate.corruptions, THREADS), strict=True)
    return figures.tidy(
        {name: {"accuracy": own, "n": len(rows), "kept": own / clean if clean else 0.0} for name, own in found}
    )


def chosen_rows(ids: Sequence[str], evaluate: EvaluateParams) -> np.ndarray:
    """(n,) places in `ids`, ascending, of the images that are corrupted: those of the smallest ids.

    Ids are hashes, so these images are a random sample, and the same for every model.
    """
    return np.sort(np.argsort(np.array(ids), kind="stable")[: evaluate.corruption_images])
