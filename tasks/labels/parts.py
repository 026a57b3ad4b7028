"""Which part of a split class each image probably is, from features: the likeliest assignment first.

N images wait, M labelled examples, P parts, D feature dimensions.
"""

import numpy as np

NEIGHBOURS = 5  # labelled examples that vote
ROWS = 4096  # rows compared at once


def likeliest_parts(
    x: np.ndarray, examples: np.ndarray, part: np.ndarray, parts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(part (N,), confidence (N,), order (N,): the likeliest assignment first).

    x: (N, D) features; examples: (M, D) of labelled images, `part` (M,) their numbers. With examples, the nearest ones
    vote; the confidence is the winner's share of their similarity. Without an example of two parts, the images fall
    into P clusters; the confidence says how central an image is, and the clusters take turns in the order.
    """
    if len(np.unique(part)) > 1:
        number, confidence = _votes(_unit(x), _unit(examples), part, parts)
        return number, confidence, np.argsort(-confidence, kind="stable")
    number, confidence = _clusters(_unit(x), parts)
    return number, confidence, _in_turns(number, confidence)


def _votes(x: np.ndarray, examples: np.ndarray, part: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    count = min(NEIGHBOURS, len(examples))
    shares = np.zeros((len(x), parts))
    for start in range(0, len(x), ROWS):
        similar = x[start : start + ROWS] @ examples.T
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        weight = np.exp(10 * np.take_along_axis(similar, nearest, axis=1))  # the nearest counts most
        for number in range(parts):
            shares[start : start + ROWS, number] = np.where(part[nearest] == number, weight, 0).sum(axis=1)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares.argmax(axis=1), shares.max(axis=1)


def _clusters(x: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    if len(x) <= parts:
        return np.arange(len(x)), np.ones(len(x))
    found = KMeans(parts, n_init=3, random_state=0).fit(x)
    distance = np.sort(found.transform(x), axis=1)
    return found.labels_, 1 - distance[:, 0] / np.maximum(distance[:, 0] + distance[:, 1], 1e-12)


def _in_turns(number: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The most central image of each cluster, then the second of each, and so on."""
    order = np.argsort(-confidence, kind="stable")
    turn = np.empty(len(order), np.int64)
    for cluster in np.unique(number):
        members = order[number[order] == cluster]
        turn[members] = np.arange(len(members))
    return np.lexsort((number, turn))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
