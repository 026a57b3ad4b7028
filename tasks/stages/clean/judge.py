"""Finds wrong given labels, from out-of-fold probabilities and models of the label noise.

N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.common.errors import DataError
from tasks.models import probe
from tasks.models.folds import assign_folds, training_masks
from tasks.models.probe import Probe
from tasks.models.standardised import Features, some, standardised
from tasks.stages.clean import label_noise
from tasks.stages.clean.cut import best_cut
from tasks.stages.clean.image_noise import fit_either_noise
from tasks.stages.clean.judgement import Judgement, Model, confusion, judge_labels, noise_models, plausible_models
from tasks.stages.clean.label_noise import NoiseModel

L2 = 0.1  # strong: an underconfident probe follows wrong labels less, and the noise model corrects the confidence
FIRST, SECOND = 10, 8  # iterations of the two rounds; more take time and find nothing new
SHARED = 3  # folds, at least, that a part takes over: its probes train on less with two
LEAST_WEIGHT = 0.05  # of a suspicious sample in the second round: a class must not lose all its samples


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


def judge_training(
    x: Features, y: np.ndarray, classes: list[str], groups: np.ndarray, clusters: np.ndarray, folds: int, seed: int
) -> Judged:
    """Judge the training labels `y` out of fold, and return a Judge for other splits. `groups`, `clusters`: (N,) names.

    Trains F + 1 probes, one for each held-out fold and one on everything, in two rounds. The second round weighs each
    label by the first round's trust in it. Raises DataError if the labels cannot be judged.
    """
    members = _members(y, len(classes))
    fold = assign_folds(members, groups, folds, seed)
    order = np.argsort(fold, kind="stable")  # the rows of a fold lie together: its probe leaves out whole chunks
    x, y, groups, members, fold = some(x, order), y[order], groups[order], members[order], fold[order]
    part = Part(np.arange(len(y)), fold, training_masks(fold, clusters[order], members, folds))
    judged = _judge(x, y, classes, groups, [part], on_everything=True)[0]
    if isinstance(judged, DataError):
        raise judged
    return in_order(judged, np.argsort(order))


def judge_parts(
    x: Features,
    y: np.ndarray,
    classes: list[str],
    groups: np.ndarray,
    clusters: np.ndarray,
    fold: np.ndarray,
    learnt: np.ndarray,
    folds: int,
    seed: int,
) -> list[Judged | None]:
    """Judge each part of the rows by itself, as `judge_training` would; None: its labels cannot be judged.

    `learnt` (P, N) bool are the parts. Each lacks one of the folds in `fold` (N,), and the others are its folds, too.
    So the probe that leaves out two folds serves both of their parts in the first round, and all parts share every
    pass over the rows. A part whose classes do not allow that gets `folds` folds of its own.
    """
    members = _members(y, len(classes))
    parts = [_part(np.flatnonzero(rows), fold, members, groups, clusters, folds, seed) for rows in learnt]
    judged = _judge(x, y, classes, groups, parts, on_everything=False)
    return [None if isinstance(one, DataError) else one for one in judged]


class Part(NamedTuple):
    """Rows that are judged by themselves, out of fold."""

    rows: np.ndarray  # (n,) numbers of N rows
    fold: np.ndarray  # (n,) of each, from 0
    masks: np.ndarray  # (F, n) bool: the rows that the probe of each fold may train on


def _part(
    rows: np.ndarray,
    fold: np.ndarray,
    members: np.ndarray,
    groups: np.ndarray,
    clusters: np.ndarray,
    folds: int,
    seed: int,
) -> Part:
    members, clusters = members[rows], clusters[rows]
    numbers, inner = np.unique(fold[rows], return_inverse=True)
    if len(numbers) >= SHARED:
        masks = training_masks(inner, clusters, members, len(numbers))
        if all((members[mask].any(axis=0) == members.any(axis=0)).all() for mask in masks):
            return Part(rows, inner, masks)
    inner = assign_folds(members, groups[rows], folds, seed)
    return Part(rows, inner, training_masks(inner, clusters, members, folds))


def _judge(
    x: Features, y: np.ndarray, classes: list[str], groups: np.ndarray, parts: Sequence[Part], on_everything: bool
) -> list[Judged | DataError]:
    """Each part's verdicts; DataError if its labels cannot be judged.

    The Judge is that of the last probe: one `on_everything`, or of no use.
    """
    rows = standardised(x)
    owner = np.repeat(np.arange(len(parts)), [len(part.masks) for part in parts])
    masks = np.zeros((len(owner) + on_everything, len(y)), bool)
    for number, part in enumerate(parts):
        masks[np.ix_(owner == number, part.rows)] = part.masks
    masks[len(owner) :] = True
    owner = np.r_[owner, [0] * on_everything]
    different, same = np.unique(masks, axis=0, return_inverse=True)
    same = same.ravel()
    probes = probe.fit_many(rows, y, len(classes), different, l2=L2, iterations=FIRST, on_cores=True)
    probes = [probes[number] for number in same]
    rounds = [_out_of_fold(probes, x, parts, owner)]

    def first_verdict(number: int) -> tuple[list[NoiseModel], np.ndarray] | DataError:
        part, first = parts[number], _probabilities(rounds[0][number], parts[number], y)
        try:
            label_noise.check_judgeable(y[part.rows], first, classes)
        except DataError as error:
            return error
        models = noise_models(y[part.rows], first, first)
        return models, np.maximum(judge_labels(y[part.rows], first, models).quality, LEAST_WEIGHT)

    verdicts = list(on_all_cores(first_verdict, range(len(parts))))
    weights = masks.astype(np.float32)
    for number, (part, verdict) in enumerate(zip(parts, verdicts, strict=True)):
        if not isinstance(verdict, DataError):
            weights[np.ix_(owner == number, part.rows)] *= verdict[1].astype(np.float32)
    probes = probe.fit_many(rows, y, len(classes), weights, l2=L2, iterations=SECOND, start=probes, on_cores=True)
    rounds.append(_out_of_fold(probes, x, parts, owner))

    def second_verdict(number: int) -> Judged | DataError:
        part, verdict = parts[number], verdicts[number]
        if isinstance(verdict, DataError):
            return verdict
        first, second = (_probabilities(logits[number], part, y) for logits in rounds)
        return _verdict(y[part.rows], first, second, verdict[0], groups[part.rows], classes, probes[-1])

    return list(on_all_cores(second_verdict, range(len(parts))))


def _verdict(
    y: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    of_first: list[NoiseModel],
    groups: np.ndarray,
    classes: list[str],
    last: Probe,
) -> Judged | DataError:
    """What labels `y` (n,) and both rounds' probabilities (n, K) say; `of_first`: the noise models of the first."""
    try:
        label_noise.check_judgeable(y, second, classes)
    except DataError as error:
        return error
    models = noise_models(y, second, first, fit_either_noise)
    suspicion = judge_labels(y, second, models)
    suspicion = replace(suspicion, cut=best_cut(1 - suspicion.quality))
    plausible = plausible_models(y, second, first, of_first, groups)
    proven = judge_labels(y, second, plausible)
    overlap = confusion(y, suspicion.predicted, second, plausible)
    return Judged(suspicion, proven, overlap, Judge(last, models, suspicion.cut))


def in_order(judged: Judged, rows: np.ndarray) -> Judged:
    """The verdicts on the labels `rows`."""

    def of(one: Judgement) -> Judgement:
        return replace(one, predicted=one.predicted[rows], confidence=one.confidence[rows], quality=one.quality[rows])

    return Judged(of(judged.suspicion), of(judged.proven), judged.confusion[rows], judged.judge)


def _members(y: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) bool: the classes of each label."""
    return y[:, None] == np.arange(classes) if y.ndim == 1 else y > 0


def _out_of_fold(probes: list[Probe], x: Features, parts: Sequence[Part], owner: np.ndarray) -> np.ndarray:
    """(P, N, K) logits of each part's rows, by its probe that has not learnt them; of other rows, of any probe."""
    which = np.zeros((len(parts), len(x)), np.int64)
    for number, part in enumerate(parts):
        which[number, part.rows] = np.flatnonzero(owner == number)[part.fold]
    return probe.select_logits(probes, x, which)


def _probabilities(logits: np.ndarray, part: Part, y: np.ndarray) -> np.ndarray:
    """(n, K) of the rows of `part`, from logits (N, K)."""
    return probe.softmax(logits[part.rows]) if y.ndim == 1 else probe.sigmoid(logits[part.rows])
