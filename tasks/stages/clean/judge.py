"""Finds wrong given labels, from out-of-fold probabilities and models of the label noise.

N samples, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tasks.models import probe
from tasks.models.folds import assign_folds, training_masks
from tasks.models.probe import Features, Probe
from tasks.stages.clean import label_noise
from tasks.stages.clean.cut import best_cut
from tasks.stages.clean.image_noise import EitherNoise, fit_either_noise
from tasks.stages.clean.label_noise import TINY, NoiseModel, fit_noise_model, plausible_noise

Model = NoiseModel | EitherNoise

L2 = 0.1  # strong: an underconfident probe follows wrong labels less, and the noise model corrects the confidence
FIRST, SECOND = 10, 8  # iterations of the two rounds; more take time and find nothing new
LEAST_WEIGHT = 0.05  # of a suspicious sample in the second round: a class must not lose all its samples


@dataclass(frozen=True)
class Judgement:
    """Verdict on N given labels. Labels are class numbers (N,), or (N, K) of 0 and 1 for multi-label."""

    predicted: np.ndarray  # most probable label, from the image alone
    confidence: np.ndarray  # (N,) P(`predicted` is right | image, given label)
    quality: np.ndarray  # (N,) P(given label is right | image, given label); multi-label: for the most doubtful class
    cut: float = 0.5  # P(given label is wrong) above which a label looks wrong (cut.py)

    @property
    def is_issue(self) -> np.ndarray:
        """(N,) bool: looks wrong."""
        return self.quality < 1 - self.cut


class Judged(NamedTuple):
    """Verdicts on the N training labels, and the Judge for other splits."""

    suspicion: Judgement  # by all the noise that the labels allow, also of images hard to tell: what looks wrong
    proven: Judgement  # by only the noise that the labels bear out: what may be repaired
    confusion: np.ndarray  # (N,) how much the probe itself confuses the given class with the predicted one, 0..1
    judge: "Judge"

    @property
    def hard_to_tell(self) -> np.ndarray:
        """(N,) bool: looks wrong, but is likelier right than wrong by the noise that the labels bear out."""
        return self.suspicion.is_issue & (self.proven.quality >= 0.5)


@dataclass(frozen=True)
class Judge:
    """A probe trained on the training split with the noise models of its labels; judges samples of any split."""

    probe: Probe
    models: Sequence[Model]  # one; multi-label: one per class
    cut: float  # of the training labels

    def __call__(self, x: Features, y: np.ndarray) -> Judgement:
        return replace(judge_labels(y, self.probe.probabilities(x), self.models), cut=self.cut)


def judge_labels(y: np.ndarray, probabilities: np.ndarray, models: Sequence[Model]) -> Judgement:
    """Judge labels `y` by the `probabilities` (N, K) of a probe that was not trained on them."""
    n = np.arange(len(y))
    if y.ndim == 1:
        posterior = models[0].posterior(y, probabilities)
        predicted = models[0].true_class(probabilities).argmax(axis=1)
        return Judgement(predicted, posterior[n, predicted], posterior[n, y])
    predicted, confidence, quality = np.zeros_like(y), np.ones(len(y)), np.ones(len(y))
    for k, model in enumerate(models):  # each class is judged by itself: present or absent
        given, both = y[:, k].astype(int), _absent_present(probabilities[:, k])
        posterior, best = model.posterior(given, both), model.true_class(both).argmax(axis=1)
        predicted[:, k] = best
        confidence = np.minimum(confidence, posterior[n, best])
        quality = np.minimum(quality, posterior[n, given])
    return Judgement(predicted, confidence, quality)


def judge_training(
    x: Features, y: np.ndarray, classes: list[str], groups: np.ndarray, clusters: np.ndarray, folds: int, seed: int
) -> Judged:
    """Judge the training labels `y` out of fold, and return a Judge for other splits. `groups`, `clusters`: (N,) names.

    Trains F + 1 probes, one for each held-out fold and one on everything, in two rounds. The second round weighs each
    label by the first round's trust in it. Raises DataError if the labels cannot be judged.
    """
    members = y[:, None] == np.arange(len(classes)) if y.ndim == 1 else y > 0
    fold = assign_folds(members, groups, folds, seed)
    masks = np.vstack([training_masks(fold, clusters, members, folds), np.ones(len(y))]).astype(np.float32)

    probes = probe.fit_many(x, y, len(classes), masks, l2=L2, iterations=FIRST)
    first = _out_of_fold(probes, x, fold)
    label_noise.check_judgeable(y, first, classes)
    trust = judge_labels(y, first, _noise_models(y, first, first)).quality
    trust = np.maximum(trust, LEAST_WEIGHT).astype(np.float32)

    probes = probe.fit_many(x, y, len(classes), masks * trust, l2=L2, iterations=SECOND, start=probes)
    second = _out_of_fold(probes, x, fold)
    label_noise.check_judgeable(y, second, classes)
    models = _noise_models(y, second, first, fit_either_noise)
    suspicion = judge_labels(y, second, models)
    suspicion = replace(suspicion, cut=best_cut(1 - suspicion.quality))
    plausible = _plausible_models(y, second, first, _noise_models(y, second, first), groups)
    proven = judge_labels(y, second, plausible)
    overlap = confusion(y, suspicion.predicted, second, plausible)
    return Judged(suspicion, proven, overlap, Judge(probes[-1], models, suspicion.cut))


def confusion(y: np.ndarray, other: np.ndarray, probabilities: np.ndarray, models: list[NoiseModel]) -> np.ndarray:
    """(N,) how much a probe doubts between the labels `y` and `other`, both as in `y`; multi-label: in the worst class.

    For two classes: the mean probability of one of them where the other is probable, the larger of both directions.
    Where labels are wrong at random the probe stays sure, so these values stay low.
    """
    if y.ndim == 1:
        return _overlap(models[0].true_class(probabilities))[y, other]
    found = np.zeros(len(y))
    for k, model in enumerate(models):
        overlap = _overlap(model.true_class(_absent_present(probabilities[:, k])))[0, 1]
        found = np.where(y[:, k] != other[:, k], np.maximum(found, overlap), found)
    return found


def _overlap(true: np.ndarray) -> np.ndarray:
    """(K, K) symmetric, from P(true class | image) (N, K)."""
    mean = true.T @ true / np.maximum(true.sum(axis=0), TINY)[:, None]
    return np.maximum(mean, mean.T)


def _out_of_fold(probes: list[Probe], x: Features, fold: np.ndarray) -> np.ndarray:
    logits = probe.select_logits(probes, x, fold)
    return probe.sigmoid(logits) if probes[0].multilabel else probe.softmax(logits)


def _noise_models(
    y: np.ndarray, probabilities: np.ndarray, as_given: np.ndarray, fit: Callable[..., Model] = fit_noise_model
) -> list[Model]:
    if y.ndim == 1:
        return [fit(y, probabilities, as_given)]
    return [
        fit(y[:, k].astype(int), _absent_present(probabilities[:, k]), _absent_present(as_given[:, k]))
        for k in range(y.shape[1])
    ]


def _plausible_models(
    y: np.ndarray, probabilities: np.ndarray, as_given: np.ndarray, models: list[NoiseModel], groups: np.ndarray
) -> list[NoiseModel]:
    if y.ndim == 1:
        return [plausible_noise(y, probabilities, as_given, models[0], groups)]
    return [
        plausible_noise(
            y[:, k].astype(int), _absent_present(probabilities[:, k]), _absent_present(as_given[:, k]), model, groups
        )
        for k, model in enumerate(models)
    ]


def _absent_present(probability: np.ndarray) -> np.ndarray:
    """One label's probability (N,) as the probabilities of two classes, (N, 2)."""
    return np.stack([1 - probability, probability], axis=1)
