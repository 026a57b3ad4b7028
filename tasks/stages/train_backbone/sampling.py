"""Which training images an epoch draws, in which batches: `train_backbone.sampler`.

N is the number of images, K of classes. `targets` are those of targets.encode. Everything is drawn from (seed, epoch)
alone, so a resumed training draws what it would have drawn. A sampler that repeats images draws each one the floor or
the ceiling of its expected number of times: nearly no noise in the number of images of a class.
"""

import math

import numpy as np

from tasks.common.params import TrainBackboneParams
from tasks.scoring.targets import class_counts

REPEATING = ("class_balanced", "square_root", "progressive", "repeat_factor", "oversample")


def sampler_of(params: TrainBackboneParams, targets: np.ndarray) -> str:
    """The sampler that `train_backbone.sampler` names; "auto" is what was best on the sets of benchmarks.long_tail.

    From pretrained weights, square_root. From random ones, a class-balanced sampler cost common classes more than rare
    ones gained, and with several labels per image nothing was measured: both draw each image once.
    """
    if params.sampler != "auto":
        return params.sampler
    return "square_root" if params.pretrained != "none" and targets.ndim == 1 else "natural"


def epoch_batches(
    targets: np.ndarray, classes: int, params: TrainBackboneParams, epoch: int, progress: float
) -> list[np.ndarray]:
    """Rows of each batch of `epoch`; batch sizes differ by at most one, so no batch is too small for BatchNorm.

    `progress` (0 to 1) is the share of the phase's epochs that are done; 1 in its last epoch.
    """
    rng, sampler = np.random.default_rng([params.seed, epoch]), sampler_of(params, targets)
    if sampler == "natural":
        order = rng.permutation(len(targets))
        return np.array_split(order, math.ceil(len(order) / params.batch_size))
    expected = expected_draws(targets, class_counts(targets, classes), sampler, progress)
    order = by_class(targets, classes, rng)
    order = np.repeat(order, draw_counts(expected[order], rng))
    batches = math.ceil(len(order) / params.batch_size)
    if sampler == "stratified":
        return [order[start::batches] for start in range(batches)]
    return np.array_split(rng.permutation(order), batches)


def epoch_images(targets: np.ndarray, classes: int, params: TrainBackboneParams) -> int:
    """About how many images an epoch draws."""
    sampler = sampler_of(params, targets)
    if sampler == "natural":
        return len(targets)
    return round(float(expected_draws(targets, class_counts(targets, classes), sampler, 0.0).sum()))


def expected_draws(targets: np.ndarray, counts: np.ndarray, sampler: str, progress: float) -> np.ndarray:
    """(N,) how often `sampler` draws each image in an epoch on average; `counts` (K,) are the images of each class.

    An image with several labels is drawn for each of them (class_balanced, square_root, progressive), or as often as
    its rarest label asks for. An image without a label is drawn as often as before.
    """
    there, rows = np.maximum(counts, 1), len(targets)
    if sampler == "stratified":
        return np.ones(rows)
    if sampler == "undersample":  # every class as rarely as the smallest
        draws = _sum_over_labels(targets, there[counts > 0].min(initial=rows) / there)
        return np.where(draws > 0, np.minimum(draws, 1.0), 1.0)
    if sampler == "oversample":  # every class as often as the largest
        return _rarest(targets, there.max() / there)
    if sampler == "repeat_factor":  # Gupta et al. 2019, "LVIS", whose threshold is an even share here
        return _rarest(targets, np.maximum(1.0, np.sqrt(rows / (np.count_nonzero(counts) * there))))
    draws = rows * _sum_over_labels(targets, class_shares(counts, sampler, progress) / there)
    draws = np.where(draws > 0, draws, 1.0)
    return draws * rows / draws.sum()


def class_shares(counts: np.ndarray, sampler: str, progress: float) -> np.ndarray:
    """(K,) share of each class among an epoch's draws.

    class_balanced: all the same; square_root: by the root of its images (both after Mahajan et al. 2018);
    progressive: from natural to class-balanced over the phase (Kang et al. 2020, "Decoupling representation and
    classifier").
    """
    balanced, natural = (counts > 0) / max(np.count_nonzero(counts), 1), counts / max(counts.sum(), 1)
    if sampler == "class_balanced":
        return balanced
    if sampler == "square_root":
        return np.sqrt(counts) / np.sqrt(counts).sum()
    return (1 - progress) * natural + progress * balanced


def draw_counts(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) whole numbers, each the floor or the ceiling of `expected`, of which any run in order is near its sum.

    Systematic resampling: neighbours share their remainders, so images in order of class keep the class's sum.
    """
    steps = np.floor(np.concatenate([[0.0], np.cumsum(expected)]) + rng.random() + 1e-9)
    return np.diff(steps).astype(np.int64)


def by_class(targets: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows in order of their (rarest) class, in random order within a class."""
    order = rng.permutation(len(targets))
    if targets.ndim == 1:
        return order[np.argsort(targets[order], kind="stable")]
    rank = _rarest(targets, 1 / np.maximum(class_counts(targets, classes), 1))
    return order[np.argsort(rank[order], kind="stable")]


def rare_draws(
    batches: list[np.ndarray], targets: np.ndarray, counts: np.ndarray, params: TrainBackboneParams, epoch: int
) -> list[np.ndarray]:
    """Bool for each row of `batches`: whether it gets the changes of `rare_augment` too.

    Samplers that repeat images: all but the first draw of an image in the epoch. Others: an image of a class with n
    images has the chance 1 - n / m, where m is the number of the largest class.
    """
    rows = np.concatenate(batches)
    if sampler_of(params, targets) in REPEATING:
        chosen = np.ones(len(rows), dtype=bool)
        chosen[np.unique(rows, return_index=True)[1]] = False
    else:
        fewest = 1 / _rarest(targets, 1 / np.maximum(counts, 1))
        rng = np.random.default_rng([params.seed, epoch, 1])
        chosen = rng.random(len(rows)) < (1 - fewest / max(counts.max(), 1))[rows]
    return np.split(chosen, np.cumsum([len(batch) for batch in batches])[:-1])


def _sum_over_labels(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) sum of `values` (K,) over each image's labels."""
    return values[targets] if targets.ndim == 1 else targets @ values


def _rarest(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) the largest of the positive `values` (K,) among each image's labels; 1 without a label."""
    if targets.ndim == 1:
        return values[targets]
    largest = np.where(targets > 0, values, 0.0).max(axis=1)
    return np.where(largest > 0, largest, 1.0)
