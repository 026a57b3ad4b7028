"""Estimates the probability that each given label is right, by confident learning.

N samples, K classes. Three steps, each needing only (N,) labels and (N, K) out-of-fold probabilities:

1. The confident joint (Northcutt et al. 2021; joint.py) counts how often class j is labelled i: Q (K, K), rows given.
   Small classes have too few images for that: `smooth` draws their rates towards the overall rate.
2. A probe trained on noisy labels predicts noisy labels, is underconfident, and repeats the given class frequencies.
   One temperature and one offset per class turn its output into probabilities of the true class. They are chosen so
   that the noise model, T(given | true) p(true | image), gives the given labels the highest likelihood (forward
   correction, Patrini et al. 2017, with Platt's scaling for the network).
3. Bayes: P(true | image, given) is proportional to T(given | true) p(true | image).

This model proves repairs: it is cautious. Errors that depend on the image look like doubt to it, and it leaves them
alone. What looks wrong to a person is judged by `image_noise`.

The confident joint takes every confident mistake of the probe for a wrong label: from features that cannot tell the
classes apart it estimates much noise where there is none. `plausible_noise` measures how much of that noise the given
labels bear out. Wrong labels and doubt differ in shape: noise limits the agreement even where the probe is sure,
doubt does not.
"""

from dataclasses import dataclass

import numpy as np

from tasks.common.errors import DataError
from tasks.models.probe import softmax
from tasks.stages.clean.joint import confident_joint, spans

STRENGTH = 50  # prior, in images, that a class is mislabelled as often as the others, by their frequency
OFFSET_PENALTY = 1e-3  # keeps class offsets near 0 where there are few data
FIT_ROWS = 50_000  # enough rows to fit K + 1 numbers
TINY = 1e-12
TOLERANCE = 1e-7  # relative gain of a step that ends a fit
AT_ONCE = 1 << 15  # probabilities that a model is evaluated on at once: its arrays then stay in the cache
EVIDENCE = 1.645  # standard errors (one-sided 95 %) by which noise must explain the labels better than doubt does


def check_judgeable(y: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> None:
    """Raise DataError for input for which cleanlab would silently report no issue at all.

    `y` (N,) class numbers or (N, K) of 0 and 1; `probabilities` (N, K).
    """
    n, k = len(y), len(classes)
    if probabilities.shape != (n, k):
        raise DataError(f"{n} labels of {k} classes, but probabilities of shape {probabilities.shape}")
    counts = np.bincount(y, minlength=k) if y.ndim == 1 else y.sum(axis=0).astype(int)
    if k < 2 and y.ndim == 1:
        raise DataError(f"labels can be judged with 2 classes or more, found {k}: {classes}")
    if y.ndim == 1 and (absent := [name for name, count in zip(classes, counts, strict=True) if count == 0]):
        raise DataError(
            f"{len(absent)} of {k} classes have no training label: {absent[:20]}; add some for each class, "
            "or remove it from data.classes"
        )
    if y.ndim == 2 and (bare := [c for c, count in zip(classes, counts, strict=True) if count in (0, n)]):
        raise DataError(f"{len(bare)} of {k} labels are on none or on all of {n} training images: {bare[:20]}")
    if bad := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise DataError(f"{bad} of {n} rows of probabilities hold NaN or infinity: are the features finite?")
    if bad := int(((probabilities < -1e-6) | (probabilities > 1 + 1e-6)).any(axis=1).sum()):
        raise DataError(f"{bad} of {n} rows of probabilities are outside 0..1")
    if y.ndim == 1 and (off := float(np.abs(probabilities.sum(axis=1) - 1).max())) > 1e-3:
        raise DataError(f"rows of probabilities must sum to 1, found one off by {off:.3g}")


@dataclass(frozen=True)
class NoiseModel:
    """The result of steps 1 and 2. It judges any sample of the same classes, including samples it was not fitted on."""

    transition: np.ndarray  # (K, K): T[i, j] = P(given i | true j)
    sharpness: float  # 1 / temperature
    offset: np.ndarray  # (K,)

    def true_class(self, probabilities: np.ndarray) -> np.ndarray:
        """P(true class | image), (N, K)."""
        return softmax(self.sharpness * _log(probabilities) + self.offset)

    def posterior(self, y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """P(true class | image, given label), (N, K)."""
        joint = self.transition[y] * self.true_class(probabilities)
        return joint / np.maximum(joint.sum(axis=1, keepdims=True), TINY)


def fit_noise_model(y: np.ndarray, probabilities: np.ndarray, joint_from: np.ndarray | None = None) -> NoiseModel:
    """Steps 1 and 2 for labels `y` (N,) and out-of-fold `probabilities` (N, K).

    `joint_from`: other out-of-fold probabilities for step 1, (N, K). cleanlab expects those of a probe that was trained
    on the labels as given.
    """
    joint = smooth(confident_joint(y, probabilities if joint_from is None else joint_from), np.bincount(y))
    transition = joint / np.maximum(joint.sum(axis=0), TINY)
    sharpness, offset, _ = _forward_fit(y, probabilities, transition, 1.0)
    return NoiseModel(transition, sharpness, offset)


def plausible_noise(
    y: np.ndarray, probabilities: np.ndarray, as_given: np.ndarray, model: NoiseModel, groups: np.ndarray
) -> NoiseModel:
    """`model` with only as much of its noise as the labels `y` (N,) bear out: all, a share or none.

    The share is the one that gives the labels the highest likelihood under `as_given` (N, K), the out-of-fold
    probabilities of a probe trained on the labels as given. It is 0 unless that likelihood beats the one without noise
    by EVIDENCE standard errors, counted over `groups` (N,). The result judges `probabilities` (N, K).
    """
    none = _forward_fit(y, as_given, model.transition, 0.0)
    best = _forward_fit(y, as_given, model.transition, None)
    gain = _log_likelihood(y, as_given, model.transition, *best) - _log_likelihood(y, as_given, model.transition, *none)
    _, number = np.unique(groups, return_inverse=True)
    deviation = np.sqrt(np.square(np.bincount(number, gain - gain.mean())).sum())
    share = best[2] if gain.sum() > EVIDENCE * deviation else 0.0
    sharpness, offset, _ = _forward_fit(y, probabilities, model.transition, share)
    return NoiseModel(_dilute(model.transition, share), sharpness, offset)


def _dilute(transition: np.ndarray, share: float) -> np.ndarray:
    """Only `share` of the noise in `transition` (K, K)."""
    return share * transition + (1 - share) * np.eye(len(transition))


def _log_likelihood(
    y: np.ndarray, probabilities: np.ndarray, transition: np.ndarray, sharpness: float, offset: np.ndarray, share: float
) -> np.ndarray:
    """log P(given label | image), (N,)."""
    model = NoiseModel(_dilute(transition, share), sharpness, offset)
    return np.log(np.maximum((model.transition[y] * model.true_class(probabilities)).sum(axis=1), TINY))


def smooth(joint: np.ndarray, given: np.ndarray, strength: float = STRENGTH) -> np.ndarray:
    """`joint` (K, K) as counts, with the rates of small classes drawn towards the overall rate.

    `given` (K,): samples per class. Each class is treated as if it had `strength` more samples of average noise that
    comes from the other classes in proportion to their size.
    """
    counts = joint * given.sum()
    right = np.diag(counts)
    wrong = counts - np.diag(right)
    overall = wrong.sum() / given.sum()
    rate = (wrong.sum(axis=1) + strength * overall) / (given + strength)
    origin = np.tile(wrong.sum(axis=0) + right, (len(given), 1))
    np.fill_diagonal(origin, 0)
    origin /= np.maximum(origin.sum(axis=1, keepdims=True), TINY)
    mix = (wrong + strength * origin) / (wrong.sum(axis=1, keepdims=True) + strength)
    return mix * (rate * given)[:, None] + np.diag(given * (1 - rate))


def _forward_fit(
    y: np.ndarray, probabilities: np.ndarray, transition: np.ndarray, share: float | None
) -> tuple[float, np.ndarray, float]:
    """(sharpness, offset (K,), share of the noise in `transition`) of highest likelihood; `share` None: fitted too."""
    from scipy.optimize import minimize

    if len(y) > FIT_ROWS:
        rows = np.random.default_rng(0).choice(len(y), FIT_ROWS, replace=False)
        y, probabilities = y[rows], probabilities[rows]
    log = log_by_class(probabilities)
    noise = transition - np.eye(len(transition))  # the share adds to labels that are all right

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        offset, found = parameters[2:], np.zeros(1 + len(parameters))
        for part in spans(len(y), len(log), AT_ONCE):
            found += _sums(parameters.astype(np.float32), log[:, part], y[part], noise.astype(np.float32))
        found /= -len(y)
        found[0] += OFFSET_PENALTY / 2 * np.square(offset).sum()
        found[3:] += OFFSET_PENALTY * offset
        return float(found[0]), found[1:]

    start = np.r_[0, 0.5 if share is None else share, np.zeros(len(transition))]
    of_share = (0, 1) if share is None else (share, share)
    bounds = [(np.log(0.2), np.log(20)), of_share] + [(-10, 10)] * len(transition)
    options = {"maxiter": 100, "ftol": TOLERANCE}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return float(np.exp(found[0])), found[2:], float(found[1])


def _sums(parameters: np.ndarray, log: np.ndarray, y: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """(3 + K,): the sum of log P(given label | image) for log probabilities (K, n), and its gradient."""
    sharpness, share = np.exp(parameters[0]), parameters[1]
    true = sharpness * log + parameters[2:, None]
    true -= true.max(axis=0)
    np.exp(true, out=true)
    true /= true.sum(axis=0)
    more = noise.T[:, y]
    more *= true
    joint = share * more
    n = np.arange(len(y))
    joint[y, n] += true[y, n]
    seen = np.maximum(joint.sum(axis=0), TINY)
    to_share = (more.sum(axis=0) / seen).sum()
    joint /= seen
    joint -= true  # by the logits
    value = np.log(seen).sum(dtype=np.float64)
    return np.r_[value, sharpness * np.vdot(joint, log), to_share, joint.sum(axis=1)]


def log_by_class(probabilities: np.ndarray) -> np.ndarray:
    """(K, N) log `probabilities` (N, K), in single precision: enough for means of many, and twice as fast."""
    return np.log(np.maximum(probabilities.T, TINY, dtype=np.float32, order="C"))


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, TINY, dtype=np.float64))
