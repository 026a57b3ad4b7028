"""Measures whether a batch's labels are noisier than those of the data before it.

A probe on pretrained features is the measure. K classes. A confusion C (K, K) counts samples by given label (rows) and
by what a probe trained on the earlier data predicts (columns). For the earlier data itself the predictions are out of
fold. Each class is asked two questions, and neither answer depends on how frequent the classes are in the batch:

- given: of the samples *given* class k, how many more than before does the probe take for another class?
  Catches a class that images of other classes were put into, and two swapped classes.
- missing: how many samples look like class k but carry another label, beyond the usual confusions, as a share of the
  samples of class k? Catches a whole class that was put into a much larger one, where it hardly shows.

A batch from another camera disagrees with the old probe although its labels are right. So a second probe tells earlier
from new images. Where it can (AUC above DIFFERENT), disagreement says nothing about labels and no class is judged.
`measure` and `judge` are separate because measurements are cached while the bounds may change.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common.checks import Check, Frozen
from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.params import EmbedParams, ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.sealed import read_sealed, write_sealed_json
from tasks.dataset.shards import group_keys
from tasks.models import probe
from tasks.models.folds import assign_folds
from tasks.models.pretrained import pretrained_features
from tasks.scoring.intervals import wilson
from tasks.scoring.targets import encode

FOLDS = 5
Z = 2.326  # one-sided 99 %: 2 K questions are asked of each batch
DIFFERENT = 0.8  # AUC. Label mixes 0.35 apart (validate.max_prior_change) alone reach 0.5 + 0.35 - 0.35^2 / 2 = 0.79
DOMAIN_ROWS = 1000  # of the earlier data and of the batch, for the second probe
MIN_EXPECTED = 10  # expected samples of a class in the batch; with fewer, "missing" is not asked


class Noise(Frozen):
    """What was measured of one batch: counts as (K, K) nested lists; multi-label: (K, 2, 2), absent or present."""

    classes: list[str]
    old: list
    new: list
    seen: list  # of each new sample: what the probe takes it for, a class number; multi-label: numbers
    sure: list  # how probable the probe finds that; multi-label: null
    difference: float  # AUC of telling the batch's images from earlier ones; 0.5: they look the same


def cached(root: Path, samples: pa.Table, old: int, task: str, images: ImagesParams, embed: EmbedParams) -> Noise:
    """`measure` the rows of `samples` from row `old` on against the rows before it, or read the cached result.

    It is in this module so that the cache key covers exactly the code that measures, not the whole stage.
    """
    ids, labels = samples.column("id").to_pylist(), samples.column("label").to_pylist()
    groups = group_keys(samples)[:old].tolist()
    code = code_version("tasks.stages.validate.batch_noise")
    key = content_key("noise", old, ids, labels, groups, embed.backbone, images.model_dump(), code)
    file = cache_dir("validate", root) / f"noise-{key[:24]}.json"
    if (kept := read_sealed(file)) is not None:
        return Noise.model_validate_json(kept)
    classes = sorted({name for label in labels for name in ([label] if isinstance(label, str) else label)})
    x = pretrained_features(root, samples, embed=embed, images=images)
    y = encode(labels, classes, task)
    noise = measure(x[:old], y[:old], np.array(groups), x[old:], y[old:], classes)
    write_sealed_json(file, noise.model_dump())
    return noise


def measure(
    old_x: np.ndarray, old_y: np.ndarray, groups: np.ndarray, new_x: np.ndarray, new_y: np.ndarray, classes: list[str]
) -> Noise:
    """Count both confusions and how different the images look.

    `old_x`, `new_x` (N, D) are features; `old_y`, `new_y` targets as tasks.scoring.targets.encode gives them. `groups`
    (N_old,) are names. Samples of one group share a fold, so that a new camera is compared with cameras that the probe
    had not seen either.
    """
    k = len(classes)
    members = old_y[:, None] == np.arange(k) if old_y.ndim == 1 else old_y > 0
    fold = assign_folds(members, groups, FOLDS, seed=0)
    # between natural and balanced: natural weights never predict a rare class, balanced ones too often
    rare = 1 / np.sqrt(np.maximum(members.sum(axis=0), 1))
    weight = np.where(members.any(axis=1), (members * rare).max(axis=1), rare.min())
    weights = np.stack([weight * (fold != number) for number in range(FOLDS)] + [weight])
    weights = weights[weights.sum(axis=1) > 0]
    probes = probe.fit_many(old_x, old_y, k, weights)
    before = probe.select_logits(probes, old_x, np.minimum(fold, len(probes) - 1))
    after = probes[-1].logits(new_x)
    return Noise(
        classes=classes,
        old=confusion(old_y, before).tolist(),
        new=confusion(new_y, after).tolist(),
        **_seen(new_y, after),
        difference=_difference(old_x, new_x),
    )


def _seen(given: np.ndarray, logits: np.ndarray) -> dict[str, list]:
    """What the probe takes the samples (N,) for, from its `logits` (N, K), and how probable it finds that."""
    if given.ndim > 1:
        found = [np.flatnonzero(row > 0).tolist() for row in logits]
        return {"seen": found, "sure": [None] * len(found)}
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = logits.argmax(axis=1)
    sure = scores[np.arange(len(best)), best] / scores.sum(axis=1)
    return {"seen": best.tolist(), "sure": [round(float(one), 3) for one in sure]}


def opinions(noise: Noise, ids: Sequence[str], labels: Sequence[str | list[str]], most: int) -> dict[str, list[dict]]:
    """What the probe says of the batch's samples (N,), beside the label that each was given.

    images: {id, given, seen, confidence} of at most `most` that it takes for another class, the surest first.
    confused: {given, seen, count} of all of them, the most frequent first. Nothing of a batch that looks unlike the
    earlier data: there the probe cannot judge labels.
    """
    found = []
    if noise.difference > DIFFERENT:
        return {"images": [], "confused": []}
    for one, given, seen, sure in zip(ids, labels, noise.seen, noise.sure, strict=True):
        names = [noise.classes[number] for number in (seen if isinstance(seen, list) else [seen])]
        told = [given] if isinstance(given, str) else list(given)
        if set(names) != set(told):
            words = {"given": " + ".join(sorted(told)) or "none", "seen": " + ".join(sorted(names)) or "none"}
            found.append({"id": one, **words, "confidence": sure})
    found.sort(key=lambda one: (-(one["confidence"] or 0), one["id"]))
    pairs = Counter((one["given"], one["seen"]) for one in found)
    confused = [
        {"given": a, "seen": b, "count": count} for (a, b), count in sorted(pairs.items(), key=lambda one: -one[1])
    ]
    return {"images": found[:most], "confused": confused}


def confusion(given: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(K, K) counts of `given` (N,) by most probable class; (K, 2, 2) for multi-label `given` (N, K)."""
    k = logits.shape[1]
    if given.ndim == 1:
        return np.bincount(given * k + logits.argmax(axis=1), minlength=k * k).reshape(k, k)
    cells = 2 * (given > 0) + (logits > 0)
    return np.stack([np.bincount(cells[:, c], minlength=4).reshape(2, 2) for c in range(k)])


def _difference(old_x: np.ndarray, new_x: np.ndarray) -> float:
    """Out-of-fold AUC of a probe that tells new rows from old ones."""
    old_x, new_x = old_x[:DOMAIN_ROWS], new_x[:DOMAIN_ROWS]
    x = np.concatenate([old_x, new_x])
    y = np.repeat([0, 1], [len(old_x), len(new_x)])
    fold = np.concatenate([np.arange(len(old_x)), np.arange(len(new_x))]) % 2
    weight = np.where(y == 0, 1 / len(old_x), 1 / len(new_x))
    probes = probe.fit_many(x, y, 2, np.stack([weight * (fold != number) for number in range(2)]))
    logits = probe.select_logits(probes, x, fold)
    return auc(logits[:, 1] - logits[:, 0], y == 1, fold)


def auc(scores: np.ndarray, positive: np.ndarray, fold: np.ndarray) -> float:
    """Mean over folds of P(score of a positive > score of a negative); all (N,)."""
    found = []
    for number in np.unique(fold):
        up, down = scores[(fold == number) & positive], np.sort(scores[(fold == number) & ~positive])
        if len(up) and len(down):
            below = np.searchsorted(down, up, "left") + np.searchsorted(down, up, "right")
            found.append(below.mean() / 2 / len(down))
    return float(np.mean(found)) if found else 0.5


def judge(noise: Noise, max_increase: float) -> list[Check]:
    """One check per class: the worse of its two answers. It fails if the lower bound is above `max_increase`."""
    different = noise.difference > DIFFERENT
    checks = [
        Check(
            name="noise.comparable",
            status="pass",
            value=round(noise.difference, 4),
            bound=DIFFERENT,
            detail="the images look unlike the data so far, so their labels cannot be compared with it"
            if different
            else "the images look like the data so far: their labels can be compared with it",
        )
    ]
    if different:
        return checks
    old_counts, new_counts = np.array(noise.old), np.array(noise.new)
    for number, name in enumerate(noise.classes):
        old, new, k = old_counts, new_counts, number
        if old.ndim == 3:  # multi-label: each class is judged by itself, absent or present
            old, new, k = old[number], new[number], 1
        value, low, found, of = given_increase(old, new, k)
        what = f"{found:,} of {of:,} images labelled {name!r} look like another class: {value:.0%} more than before"
        lost, lost_low, looking, labelled = missing_share(old, new, k)
        if lost_low > max(low, 0):
            value, low = lost, lost_low
            what = f"{looking:,} images look like {name!r} and {labelled:,} of them are labelled so: {value:.0%} of"
            what += " the class carry another label, beyond the usual confusions"
        if of or looking:
            checks.append(
                Check(
                    name=f"noise.{name}",
                    status="fail" if low > max_increase else "pass",
                    value=round(value, 4),
                    low=round(low, 4),
                    bound=max_increase,
                    detail=f"{what} (at least {max(low, 0):.0%} with 99% confidence, {max_increase:.0%} allowed)",
                )
            )
    return checks


def given_increase(old: np.ndarray, new: np.ndarray, k: int) -> tuple[float, float, int, int]:
    """(increase, its lower bound, disagreeing, given) of the disagreement among samples given class `k`.

    The bound is Newcombe's for a difference of two proportions (1998, method 10): it is mild on a class that is rare
    in the earlier data. (0, 0, 0, 0) if no sample of the batch has the class.
    """
    of_old, of_new = int(old[k].sum()), int(new[k].sum())
    if of_new == 0:
        return 0.0, 0.0, 0, 0
    wrong_old, wrong_new = of_old - int(old[k, k]), of_new - int(new[k, k])
    before = wrong_old / of_old if of_old else 1.0  # the probe cannot recognise a class that it has never seen
    after = wrong_new / of_new
    low_after, _ = wilson(wrong_new, of_new, Z)
    _, high_before = wilson(wrong_old, of_old, Z)
    low = after - before - np.hypot(after - low_after, high_before - before)
    return after - before, float(low), wrong_new, of_new


def missing_share(old: np.ndarray, new: np.ndarray, k: int) -> tuple[float, float, int, int]:
    """(share, its lower bound, samples that look like `k`, of those given `k`) of class `k` given other labels.

    Counts what the probe takes for k among other given labels, less what its confusions in the earlier data predict.
    The share is relative to the samples of k that its earlier frequency predicts. It cannot exceed what is missing from
    those: an entirely new class may look like an old one, but then the old one is still present.
    """
    of_old, of_new = old.sum(axis=1), new.sum(axis=1)
    others = np.arange(len(old)) != k
    confused = np.where(of_old > 0, (old[:, k] + 0.5) / (of_old + 1), 0)
    looking, hits = int(new[:, k].sum()), int(new[k, k])
    extra = new[others, k].sum() - (of_new * confused)[others].sum()
    variance = new[others, k].sum() + (of_new**2 * confused * (1 - confused) / (of_old + 1))[others].sum()
    expected = new.sum() * old[k, k] / max(old.sum(), 1)
    if expected < MIN_EXPECTED:
        return 0.0, 0.0, looking, hits
    share, low = (np.clip(min(count, expected - hits) / expected, 0, 1) for count in (extra, extra - Z * variance**0.5))
    return float(share), float(low), looking, hits
