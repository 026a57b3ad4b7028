"""Probability that a given label is wrong, by noise models in which errors may depend on the image.

N samples, K classes. Labels are wrong in two ways. A class is mistaken for another at a rate of its own, whatever the
image shows (class-conditional noise: Northcutt et al. 2021). And people err more often on images that are hard to tell
(instance-dependent noise: Xia et al. 2020). For a sample with true class t the model says:

- P(t | image): the network's probabilities, with one temperature and one offset per class as in `label_noise`
- P(given label is wrong | t, image): the rate of class t; its odds are multiplied by exp(level - slope * d), where d is
  the log-odds of the likeliest class. Slope 0: the image does not matter.
- P(given label is i | wrong, t, image): proportional to T[i, t] ** table * P(i | image) ** likeness, where T is the
  confident joint's table of noise. Likeness 0: the image does not matter.

The parameters are those under which the given labels are likeliest. The labels also decide whether the image matters:
both models are fitted, and their answers are averaged by their posterior probability (Bayesian information criterion).
"""

from dataclasses import dataclass

import numpy as np

from tasks.models.probe import softmax
from tasks.stages.clean.joint import calibrated, confident_counts, parts, spans
from tasks.stages.clean.label_noise import AT_ONCE, OFFSET_PENALTY, TINY, TOLERANCE, log_by_class, smooth

SLOPE = 0.25  # of errors by people, to which the slope is drawn: from labels alone it is hard to tell it from doubt
SLOPE_PENALTY = 1.0  # how strongly, in mean log likelihood
LEVEL_PENALTY = 0.001  # draws the rate of errors to the confident joint: a network may have learnt the noise, too
MOST_ODDS = 20.0  # d at most: 1 - P must stay above 0
RARE = 1e-4  # least rate of an error, and least share of a wrong class among the errors
FIT_ROWS, FIT_CELLS = 20_000, 200_000  # samples, and probabilities, that the parameters are fitted on, at most
EVIDENCE_ROWS, EVIDENCE_CELLS = 50_000, 1_000_000  # that decide between the models, at most
FIRST_ROWS = 4_000  # fitted first: a good start saves most of the time on all
SURE = 1e-3  # a model of less weight is not asked
BOUNDS = [(np.log(0.2), np.log(20)), (-4, 4), (0, 1.5), (0, 2), (0, 2)]  # sharpness, level, slope, table, likeness
LEVEL_AT, SLOPE_AT, LIKENESS_AT, OFFSETS_AT = 1, 2, 4, 5
START = (0, 0, 0.2, 1, 0.3)


@dataclass(frozen=True)
class ImageNoise:
    """One fitted model. It judges any sample of the same classes, including samples it was not fitted on."""

    table: np.ndarray  # (K, K): T[i, t] = P(given i | true t) by the confident joint
    parameters: np.ndarray  # (5 + K,): log sharpness, level, slope, table, likeness; the offsets

    def true_class(self, probabilities: np.ndarray) -> np.ndarray:
        """P(true class | image), (N, K)."""
        return softmax(np.exp(self.parameters[0]) * log_by_class(probabilities).T + self.parameters[OFFSETS_AT:])

    def posterior(self, y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """P(true class | image, given label), (N, K)."""
        joint = _evaluate(self.parameters, log_by_class(probabilities), y, self.table).joint.T
        return joint / np.maximum(joint.sum(axis=1, keepdims=True), TINY)


@dataclass(frozen=True)
class EitherNoise:
    """The two fitted models, averaged by their posterior probabilities."""

    plain: ImageNoise  # errors depend on the class only
    dependent: ImageNoise  # and on the image
    weight: float  # of `dependent`, 0..1

    def true_class(self, probabilities: np.ndarray) -> np.ndarray:
        """P(true class | image), (N, K)."""
        return sum(weight * model.true_class(probabilities) for model, weight in self._asked())

    def posterior(self, y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """P(true class | image, given label), (N, K)."""
        return sum(weight * model.posterior(y, probabilities) for model, weight in self._asked())

    def wrong(self, y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """P(given label is wrong | image, given label), (N,), in bounded memory."""
        found = np.empty(len(y))
        for part in parts(probabilities):
            here = y[part]
            found[part] = 1 - self.posterior(here, probabilities[part])[np.arange(len(here)), here]
        return found

    def _asked(self) -> list[tuple[ImageNoise, float]]:
        if self.weight < SURE:
            return [(self.plain, 1.0)]
        if self.weight > 1 - SURE:
            return [(self.dependent, 1.0)]
        return [(self.plain, 1 - self.weight), (self.dependent, self.weight)]


def fit_either_noise(y: np.ndarray, probabilities: np.ndarray, joint_from: np.ndarray | None = None) -> EitherNoise:
    """Both models for labels `y` (N,) and out-of-fold `probabilities` (N, K).

    `joint_from`: other out-of-fold probabilities (N, K) for the confident joint, as in `fit_noise_model`.
    """
    table = confident_table(y, probabilities if joint_from is None else joint_from)
    rows = np.random.default_rng(0).permutation(len(y))[: min(EVIDENCE_ROWS, EVIDENCE_CELLS // len(table))]
    y, log = y[rows], log_by_class(probabilities[rows])
    some = slice(max(1, min(FIT_ROWS, FIT_CELLS // len(table))))
    y_some, log_some = y[some], log[:, some]
    fixed = {SLOPE_AT: 0.0, LIKENESS_AT: 0.0}
    plain = _fit(y_some, log_some, table, fixed)
    usual = _evaluate(plain, log_some, y_some, table).odds.mean()
    start = np.where(np.isin(np.arange(len(plain)), list(fixed)), np.r_[START, plain[OFFSETS_AT:]], plain)
    free = _fit(y_some, log_some, table, {}, usual=usual, start=start)
    drawn = _fit(y_some, log_some, table, {}, usual=usual, start=free, penalty=SLOPE_PENALTY)
    evidence = _likelihoods(free, log, y, table).sum() - _likelihoods(plain, log, y, table).sum()
    evidence -= len(fixed) / 2 * np.log(len(y))
    weight = 1 / (1 + np.exp(-np.clip(evidence, -50, 50)))
    return EitherNoise(ImageNoise(table, plain), ImageNoise(table, drawn), float(weight))


def confident_table(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K, K) P(given | true) by the confident joint (joint.py), in bounded memory; smoothed, not in whole samples."""
    given = np.bincount(y, minlength=probabilities.shape[1])
    joint = smooth(calibrated(confident_counts(y, probabilities), given) / given.sum(), given)
    return joint / np.maximum(joint.sum(axis=0), TINY)


@dataclass(frozen=True)
class _Evaluated:
    """One model on N samples; all (K, N) unless said: sums over classes then run along the samples, which is fast."""

    joint: np.ndarray  # P(true class, given label | image)
    log_true: np.ndarray  # log P(true class | image)
    true: np.ndarray
    wrong: np.ndarray  # P(given label is wrong | true class, image)
    top: np.ndarray  # (N,) likeliest class
    rest: np.ndarray  # (N,) 1 - its probability
    odds: np.ndarray  # (N,) d
    near: np.ndarray  # P(i | image) ** likeness
    table: np.ndarray  # (K, K) share of wrong class i among the errors of class t, to the power `table`; diagonal 0
    log_table: np.ndarray  # (K, K)
    total: np.ndarray  # of table.T @ near


def _evaluate(parameters: np.ndarray, log: np.ndarray, y: np.ndarray, table: np.ndarray) -> _Evaluated:
    """The model at `parameters` on log probabilities (K, N) and labels `y` (N,)."""
    parameters, table = parameters.astype(log.dtype), table.astype(log.dtype)
    sharpness, level, slope, power, likeness = parameters[:OFFSETS_AT]
    n, number = np.arange(len(y)), np.arange(len(log))[:, None]
    log_true = np.exp(sharpness) * log + parameters[OFFSETS_AT:, None]
    log_true -= log_true.max(axis=0)
    top = np.where(log_true == 0, number, 0).max(axis=0)
    true = np.exp(log_true)
    sums = true.sum(axis=0)
    true /= sums
    log_true -= np.log(sums)
    likeliest = true[top, n]
    true[top, n] = 0
    rest = np.maximum(true.sum(axis=0), np.exp(-MOST_ODDS))
    true[top, n] = likeliest
    odds = np.log(likeliest / rest)
    rate = np.clip(1 - np.diag(table), log.dtype.type(RARE), log.dtype.type(1 - RARE))
    wrong = slope * odds - (level + np.log(rate / (1 - rate)))[:, None]
    wrong = 1 / (1 + np.exp(wrong, out=wrong))
    log_table = np.log(np.maximum(table / rate, RARE))
    shares = np.exp(power * log_table)
    np.fill_diagonal(shares, 0)
    near = np.exp(likeness * log_true)
    total = np.maximum(shares.T @ near, TINY)
    joint = shares.T[:, y]
    joint *= wrong
    joint *= near[y, n] / total
    joint[y, n] = 1 - wrong[y, n]
    joint *= true
    return _Evaluated(joint, log_true, true, wrong, top, rest, odds, near, shares, log_table, total)


def _likelihood(parameters: np.ndarray, log: np.ndarray, y: np.ndarray, table: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log P(given label | image) and its gradient by the parameters; `log` (K, N)."""
    found = np.zeros(1 + len(parameters))
    for part in spans(len(y), len(log), AT_ONCE):
        found += _sums(parameters.astype(log.dtype), log[:, part], y[part], table)
    return float(found[0]) / len(y), found[1:] / len(y)


def _sums(parameters: np.ndarray, log: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(6 + K,): the sum of log P(given label | image), and its gradient."""
    e, n = _evaluate(parameters, log, y, table), np.arange(len(y))
    seen = np.maximum(e.joint.sum(axis=0), TINY)
    share = e.joint / seen  # P(true class | image, given label)
    to_rate = share * (1 - e.wrong)
    to_rate[y, n] = -share[y, n] * e.wrong[y, n]
    to_rate = to_rate.sum(axis=0)
    slope = share - e.true  # by log_true
    erred = share
    erred[y, n] = 0
    errors, per_total = erred.sum(axis=0), erred / e.total
    pulled = e.near * (e.table @ per_total)
    to_likeness = errors @ e.log_true[y, n] - np.vdot(e.log_true, pulled)
    to_power = np.vdot(erred, e.log_table.T[:, y]) - np.vdot(e.near, (e.table * e.log_table) @ per_total)
    pulled *= parameters[LIKENESS_AT]
    slope -= pulled
    slope[y, n] += parameters[LIKENESS_AT] * errors
    by_odds = np.where(e.odds < MOST_ODDS, -parameters[SLOPE_AT] * to_rate / e.rest, 0).astype(log.dtype)
    slope -= by_odds * e.true
    slope[e.top, n] += by_odds
    first = np.exp(parameters[0]) * np.vdot(slope, log)
    value = np.log(seen).sum(dtype=np.float64)
    return np.r_[value, first, to_rate.sum(), -(e.odds @ to_rate), to_power, to_likeness, slope.sum(axis=1)]


def _fit(
    y: np.ndarray,
    log: np.ndarray,
    table: np.ndarray,
    fixed: dict[int, float],
    usual: float = 0.0,
    start: np.ndarray | None = None,
    penalty: float = 0.0,
) -> np.ndarray:
    """The parameters of highest likelihood. `fixed`: parameters, by place, that keep a value. `usual`: the mean d."""
    from scipy.optimize import minimize

    classes = len(log)
    bounds = BOUNDS + [(-10, 10)] * classes
    bounds = [(fixed[place],) * 2 if place in fixed else bound for place, bound in enumerate(bounds)]

    def loss(parameters: np.ndarray, rows: slice) -> tuple[float, np.ndarray]:
        value, gradient = _likelihood(parameters, log[:, rows], y[rows], table)
        offsets, away = parameters[OFFSETS_AT:], parameters[SLOPE_AT] - SLOPE
        level = parameters[LEVEL_AT] - parameters[SLOPE_AT] * usual
        value = -value + OFFSET_PENALTY / 2 * np.square(offsets).sum()
        value += penalty / 2 * away**2 + LEVEL_PENALTY / 2 * level**2
        gradient = -gradient
        gradient[OFFSETS_AT:] += OFFSET_PENALTY * offsets
        gradient[SLOPE_AT] += penalty * away - LEVEL_PENALTY * level * usual
        gradient[LEVEL_AT] += LEVEL_PENALTY * level
        return value, gradient

    found = np.r_[START, np.zeros(classes)] if start is None else start
    for rows in (slice(FIRST_ROWS), slice(None)) if start is None and len(y) > 2 * FIRST_ROWS else (slice(None),):
        found = np.clip(found, *np.transpose(bounds))
        options = {"ftol": TOLERANCE}
        found = minimize(loss, found, args=(rows,), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return found


def _likelihoods(parameters: np.ndarray, log: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    """log P(given label | image), (N,)."""
    found = [
        _evaluate(parameters, log[:, part], y[part], table).joint.sum(axis=0)
        for part in spans(len(y), len(log), AT_ONCE)
    ]
    return np.log(np.maximum(np.concatenate(found), TINY))
