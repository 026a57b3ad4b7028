"""One label from several annotators' votes, and how good each annotator is.

Three methods. Majority: most votes. Dawid-Skene (1979): an annotator who often mistakes one class for another counts
less there; from the votes alone, by expectation-maximisation. CROWDLAB (Goh et al., 2022; cleanlab): a model's
out-of-sample probabilities vote too.

Votes are sparse: V triples (item, annotator, class). N items, M annotators, K classes.
"""

from typing import NamedTuple

import numpy as np

ITERATIONS = 100  # of expectation-maximisation; it ends earlier when no posterior moves by more than TOLERANCE
TOLERANCE = 1e-4
SHARED = 10.0  # pseudo-votes of the pooled confusion matrix in each row of an annotator's own
LAPLACE = 0.5  # pseudo-votes per class of the one-coin model in each row of the pooled confusion matrix
BLOCK = 1 << 22  # numbers in memory at once, for the votes' likelihoods
EQUAL = 1e-6  # posteriors this close are a tie
Z = 1.959963984540054  # standard normal quantile of two-sided 95 %


class Votes(NamedTuple):
    """V votes as numbers: `item`, `annotator`, `label`, (V,) each."""

    item: np.ndarray
    annotator: np.ndarray
    label: np.ndarray


class DawidSkene(NamedTuple):
    """A fit. `posterior` (N, K): P(class | votes); `confusion` (M, K, K): P(vote | class) of each annotator."""

    posterior: np.ndarray
    confusion: np.ndarray


class Quality(NamedTuple):
    """One annotator's estimated share of right labels, its 95 % interval, and the number of labels it is from."""

    right: float
    low: float
    high: float
    labels: int


def count_votes(votes: Votes, items: int, classes: int) -> np.ndarray:
    """(N, K) number of votes."""
    flat = np.bincount(votes.item * classes + votes.label, minlength=items * classes)
    return flat.reshape(items, classes)


def majority(votes: Votes, prefer: np.ndarray, classes: int) -> np.ndarray:
    """(N,) the class with most votes. `prefer` (N,), -1 for none, wins among equals; else the lowest class."""
    return _best(count_votes(votes, len(prefer), classes).astype(float), prefer)


def dawid_skene(
    votes: Votes, items: int, annotators: int, classes: int, weights: np.ndarray | None = None
) -> DawidSkene:
    """Fit annotators' confusion matrices and the items' classes together, starting from the shares of votes.

    weights: (N,) how many items an item stands for. An annotator with few labels is judged by the pooled matrix of
    all, and where that one has few votes, by one share of right answers: so three labels of a new annotator cannot
    overturn the others.
    """
    weights = np.ones(items) if weights is None else weights
    shares = count_votes(votes, items, classes).astype(float)
    posterior = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
    confusion = np.empty((0, 0, 0))
    for _ in range(ITERATIONS):
        weighted = posterior * weights[:, None]
        confusion = _confusion(votes, weighted, annotators)
        prior = (weighted.sum(axis=0) + 1) / (weights.sum() + classes)
        before, posterior = posterior, _posterior(votes, np.log(confusion), np.log(prior), items)
        if np.abs(posterior - before).max(initial=0) < TOLERANCE:
            break
    return DawidSkene(posterior, confusion)


def most_probable(fit: DawidSkene, prefer: np.ndarray) -> np.ndarray:
    """(N,) the most probable class of each item. `prefer` (N,), -1 for none, wins among equals."""
    return _best(fit.posterior, prefer)


def crowdlab(votes: Votes, probabilities: np.ndarray, annotators: int, prefer: np.ndarray) -> np.ndarray:
    """(N,) consensus of the votes and a model's out-of-sample `probabilities` (N, K), by cleanlab.

    Every item and every annotator has a vote. Where all annotators of an item agree, their label stays.
    """
    from cleanlab.multiannotator import get_label_quality_multiannotator

    items, classes = probabilities.shape
    wide = np.full((items, annotators), np.nan)
    wide[votes.item, votes.annotator] = votes.label
    table = get_label_quality_multiannotator(
        wide, probabilities, return_detailed_quality=False, return_annotator_stats=False, verbose=False
    )["label_quality"]
    agreed = (count_votes(votes, items, classes) > 0).sum(axis=1) == 1
    return np.where(agreed, majority(votes, prefer, classes), table["consensus_label"].to_numpy())


def annotator_qualities(votes: Votes, fit: DawidSkene, annotators: int, weights: np.ndarray) -> list[Quality]:
    """How often each of M annotators is right, by the fit, on items of more than one vote.

    The interval covers chance and what the votes leave open about the items; it is wider by that doubt once more,
    because people's errors are not independent: they fall on the same images.
    """
    several = np.bincount(votes.item, minlength=len(weights)) > 1
    found = []
    for annotator in range(annotators):
        mine = (votes.annotator == annotator) & several[votes.item]
        p, weight = fit.posterior[votes.item[mine], votes.label[mine]], weights[votes.item[mine]]
        total = weight.sum()
        if total == 0:
            found.append(Quality(float("nan"), 0.0, 1.0, 0))
            continue
        right, doubt = np.average(p, weights=weight), np.average(p * (1 - p), weights=weight)
        half = Z * np.sqrt((right * (1 - right) + doubt) / total + Z**2 / (4 * total**2)) + doubt
        found.append(Quality(float(right), float(max(right - half, 0)), float(min(right + half, 1)), round(total)))
    return found


def _best(scores: np.ndarray, prefer: np.ndarray) -> np.ndarray:
    """(N,) the class with the largest of `scores` (N, K); `prefer` (N,), -1 for none, wins if it is as large."""
    best = scores.argmax(axis=1)
    row = np.flatnonzero(prefer >= 0)
    kept = row[scores[row, prefer[row]] >= scores[row, best[row]] - EQUAL]
    best[kept] = prefer[kept]
    return best


def _confusion(votes: Votes, posterior: np.ndarray, annotators: int) -> np.ndarray:
    """(M, K, K) P(vote | class), from weighted posteriors (N, K)."""
    classes = posterior.shape[1]
    counts = np.zeros((annotators, classes, classes))  # annotator, vote, class
    for part in _blocks(len(votes.item), classes):
        np.add.at(counts, (votes.annotator[part], votes.label[part]), posterior[votes.item[part]])
    counts = counts.transpose(0, 2, 1)
    pooled = counts.sum(axis=0)
    right = (np.trace(pooled) + 1) / (pooled.sum() + 2)
    coin = np.full((classes, classes), (1 - right) / max(classes - 1, 1))
    np.fill_diagonal(coin, right)
    pooled = pooled + LAPLACE * classes * coin
    counts = counts + SHARED * pooled / pooled.sum(axis=1, keepdims=True)
    return counts / counts.sum(axis=2, keepdims=True)


def _posterior(votes: Votes, log_confusion: np.ndarray, log_prior: np.ndarray, items: int) -> np.ndarray:
    found = np.tile(log_prior, (items, 1))
    for part in _blocks(len(votes.item), len(log_prior)):
        np.add.at(found, votes.item[part], log_confusion[votes.annotator[part], :, votes.label[part]])
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    return found / found.sum(axis=1, keepdims=True)


def _blocks(count: int, classes: int) -> list[slice]:
    step = max(1, BLOCK // classes)
    return [slice(start, start + step) for start in range(0, count, step)]
