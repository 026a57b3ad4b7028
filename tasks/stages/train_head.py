"""Stage `train_head`: a class-balanced classifier on the frozen stage-1 features.

Reads what train_backbone read and wrote; writes artifacts/train_head/{head.safetensors: weight (K, D), bias (K,);
head.json: the method and every candidate's score} and metrics/train_head.json. N is the number of samples, K of
classes, D of feature dimensions.

Long-tailed data harms the classifier more than the features (Kang et al. 2020, "Decoupling representation and
classifier for long-tailed recognition"), so only the classifier is replaced. The methods:

- crt: trained again on the features, with the same total weight for every class (Kang et al.)
- logit_adjust: stage 1's, minus the log of the class's share (Menon et al. 2021, "Long-tail learning via logit
  adjustment")
- tau_norm: stage 1's, each class's weights divided by their norm to the power tau (Kang et al.)
- stage1: stage 1's, unchanged

Multi-label classes do not compete for one answer, so there only crt and stage1 apply.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.errors import DataError
from tasks.common.files import atomic_path, write_json
from tasks.common.params import ImagesParams, TrainHeadParams
from tasks.dataset.shard_table import ShardTable
from tasks.models import probe
from tasks.models.head import Head
from tasks.models.stage1 import load, stage1_features
from tasks.scoring.metrics import balanced_accuracy, mean_average_precision
from tasks.scoring.targets import class_counts, encode

FOLDER = Path("artifacts/train_head")
PREFERENCE = {"multiclass": ("crt", "logit_adjust", "tau_norm", "stage1"), "multilabel": ("crt", "stage1")}
L2S = (0.1, 0.03, 0.01)  # of crt, on standardised features: the best differs with the backbone's training
TAUS = (0.25, 0.5, 0.75, 1.0)  # of tau_norm
FOLDS = 5
RESAMPLES = 200


@dataclass(frozen=True)
class Candidate:
    """A method's head, and what the choice among methods needs.

    logits (N, K) are cross-fitted: each row comes from a head whose setting was chosen without that sample.
    """

    head: Head
    logits: np.ndarray
    score: float


def run(root: Path, *, train_head: TrainHeadParams, images: ImagesParams) -> None:
    """Fit the candidates, choose one, write it. Raises DataError for a method that does not fit the task."""
    rows, (classes, task) = training_rows(root), classes_and_task(root)
    if train_head.method not in ("auto", *PREFERENCE[task]):
        raise DataError(
            f"train_head.method is {train_head.method}, which needs classes that exclude each other: for "
            f"data.task: {task} set it to auto or one of {', '.join(PREFERENCE[task])}"
        )
    x = {split: stage1_features(root, rows[split], images) for split in ("train", "calibration")}
    y = {split: encode(rows[split]["label"], classes, task) for split in x}
    stage1 = stage1_head(root)
    makers: dict[str, Callable[[], list[Head]]] = {
        "crt": lambda: retrained(x["train"], y["train"], len(classes), train_head.epochs),
        "logit_adjust": lambda: [logit_adjusted(stage1, class_counts(y["train"], len(classes)))],
        "tau_norm": lambda: [tau_normalised(stage1, tau) for tau in TAUS],
        "stage1": lambda: [stage1],
    }
    found = {
        name: candidate(makers[name](), x["calibration"], y["calibration"], train_head.seed)
        for name in PREFERENCE[task]
    }
    method = choose(found, y["calibration"], train_head.seed) if train_head.method == "auto" else train_head.method
    write(root, found, method, "balanced_accuracy" if task == "multiclass" else "mean_average_precision")


def stage1_head(root: Path) -> Head:
    """The classifier that train_backbone trained."""
    from tasks.backbones import timm_models

    last = timm_models.classifier(load(root)[0])
    bias = np.zeros(len(last.weight), np.float32) if last.bias is None else last.bias.detach().numpy()
    return Head(last.weight.detach().numpy(), bias)


def retrained(x: ShardTable | np.ndarray, y: np.ndarray, classes: int, iterations: int) -> list[Head]:
    """crt: new classifiers of `x` (N, D) on `y`, one for each of L2S, with the same total weight for every class.

    For multi-label `y`, a sample has the weight of its rarest label, or of the most common one if it has none.
    """
    share = 1 / np.maximum(class_counts(y, classes), 1)
    weight = share[y] if y.ndim == 1 else np.maximum((y * share).max(axis=1), share.min())
    heads, fitted = [], None
    for l2 in L2S:  # each starts from the one before, which has a stronger penalty
        fitted = probe.fit(x, y, classes, sample_weight=weight, l2=l2, iterations=iterations, start=fitted)
        heads.append(Head(fitted.weight, fitted.bias, l2))
    return heads


def logit_adjusted(stage1: Head, counts: np.ndarray) -> Head:
    """`stage1` as if all classes were equally common; `counts` (K,) training samples."""
    prior = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    return Head(stage1.weight, (stage1.bias - np.log(prior)).astype(np.float32))


def tau_normalised(stage1: Head, tau: float) -> Head:
    """`stage1` with each class's norm to the power 1 - tau, and no bias: common classes grow larger norms.

    Scaled by the mean norm, so that the logits keep their size and calibration starts from sensible values.
    """
    norms = np.linalg.norm(stage1.weight, axis=1, keepdims=True)
    weight = stage1.weight * (norms.mean() / np.maximum(norms, 1e-12)) ** tau
    return Head(weight.astype(np.float32), np.zeros_like(stage1.bias), tau)


def candidate(heads: list[Head], x: ShardTable | np.ndarray, y: np.ndarray, seed: int) -> Candidate:
    """The best of a method's `heads` (one per setting) on calibration samples `x` (N, D), `y`.

    Its logits, and so its score, are cross-fitted: each fold gets those of the head that is best on the other folds.
    A setting that only fits one or two images of a rare class gains nothing from that.
    """
    logits = [head.logits(x) for head in heads]
    fold = folds(y, seed)
    mixed = np.empty_like(logits[0])
    for number in np.unique(fold):
        others = fold != number
        mixed[~others] = logits[_best(logits, y, others)][~others] if len(heads) > 1 else logits[0][~others]
    best = heads[_best(logits, y, np.ones(len(y), bool))]
    return Candidate(best, mixed, score(y, mixed))


def _best(logits: list[np.ndarray], y: np.ndarray, rows: np.ndarray) -> int:
    """Index of the logits with the best score on `rows`; the first one on a tie."""
    if not y[rows].size:
        return 0
    return int(np.argmax([score(y[rows], one[rows]) for one in logits]))


def folds(y: np.ndarray, seed: int) -> np.ndarray:
    """(N,) fold numbers: the samples of each class (multi-label: all samples) dealt evenly in random order."""
    rng = np.random.default_rng(seed)
    group = y if y.ndim == 1 else np.zeros(len(y), np.int64)
    order = np.concatenate([rng.permutation(np.flatnonzero(group == value)) for value in np.unique(group)])
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % FOLDS
    return fold


def score(y: np.ndarray, logits: np.ndarray) -> float:
    """Balanced accuracy; for multi-label mean average precision, which needs no thresholds."""
    if y.ndim == 1:
        return balanced_accuracy(y, logits.argmax(axis=1), logits.shape[1])
    return mean_average_precision(y, logits)


def choose(found: dict[str, Candidate], y: np.ndarray, seed: int) -> str:
    """The first method, in `found`'s order of preference, that is within one standard error of the best.

    With few calibration images of a rare class, the best score is often luck; the paired error shows how much (the
    one-standard-error rule of Breiman et al. 1984). Deterministic, including ties.
    """
    best = max(found.values(), key=lambda one: one.score)  # the first one on a tie
    for name, one in found.items():
        if best.score - one.score <= standard_error(y, best.logits, one.logits, seed):
            return name
    raise AssertionError("the best candidate is within any error of itself")


def standard_error(y: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """Standard error of the difference between the scores of logits `a` and `b` (N, K) on the same samples.

    Multi-class: from the samples' differences (right or wrong), with their variance pooled over classes, because a
    class with one image has none of its own. Multi-label: from paired bootstrap resamples.
    """
    if y.ndim == 1:
        difference = (a.argmax(axis=1) == y).astype(float) - (b.argmax(axis=1) == y)
        _, number, count = np.unique(y, return_inverse=True, return_counts=True)
        spread = difference - (np.bincount(number, difference) / count)[number]
        variance = np.square(spread).sum() / max(len(y) - len(count), 1)
        return float(np.sqrt(variance * (1 / count).sum()) / len(count))
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(y), size=(RESAMPLES, len(y)))
    return float(np.std([score(y[rows], a[rows]) - score(y[rows], b[rows]) for rows in draws if y[rows].any()]))


def write(root: Path, found: dict[str, Candidate], method: str, metric: str) -> None:
    """Write the head of `method` and every candidate's score."""
    from safetensors.numpy import save_file

    head = found[method].head
    with atomic_path(root / FOLDER / "head.safetensors") as temporary:
        save_file({"weight": head.weight.astype(np.float32), "bias": head.bias.astype(np.float32)}, temporary)
    scores = {name: one.score for name, one in found.items()}
    settings = {name: one.head.setting for name, one in found.items() if one.head.setting is not None}
    write_json(
        root / FOLDER / "head.json", {"method": method, "metric": metric, "scores": scores, "settings": settings}
    )
    write_json(
        root / "metrics" / "train_head.json", {"score": scores[method], **{f"score_{k}": v for k, v in scores.items()}}
    )
