"""Judges given labels by out-of-sample probabilities and models of the label noise.

N samples, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.stages.clean.image_noise import EitherNoise
from tasks.stages.clean.joint import spans
from tasks.stages.clean.label_noise import TINY, NoiseModel, fit_noise_model, plausible_noise

Model = NoiseModel | EitherNoise

COLUMNS = ("predicted", "confidence", "quality")  # of a Judgement
AT_ONCE = 1 << 16  # probabilities that are judged at once: a model holds ten arrays of them


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


def judge_labels(y: np.ndarray, probabilities: np.ndarray, models: Sequence[Model]) -> Judgement:
    """Judge labels `y` by the `probabilities` (N, K) of a probe that was not trained on them."""
    found = [_judge_labels(y[part], probabilities[part], models) for part in spans(*probabilities.shape, AT_ONCE)]
    return Judgement(*(np.concatenate([getattr(one, name) for one in found]) for name in COLUMNS))


def _judge_labels(y: np.ndarray, probabilities: np.ndarray, models: Sequence[Model]) -> Judgement:
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


def noise_models(
    y: np.ndarray, probabilities: np.ndarray, as_given: np.ndarray, fit: Callable[..., Model] = fit_noise_model
) -> list[Model]:
    if y.ndim == 1:
        return [fit(y, probabilities, as_given)]
    return [
        fit(y[:, k].astype(int), _absent_present(probabilities[:, k]), _absent_present(as_given[:, k]))
        for k in range(y.shape[1])
    ]


def plausible_models(
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
