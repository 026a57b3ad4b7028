"""The review queue: choose production samples for labelling, and list those that wait for a label.

    queue/<time>-<hash>.json   one selection: its samples, when and why they were chosen

A sample waits until a label for it is in the log. N is the number of samples, D of feature dimensions, K of classes.
"""

import json
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, ValidationError

from monitoring.log.production_log import Log
from tasks.common.checks import Frozen
from tasks.common.files import sha256_bytes
from tasks.common.params import ReviewParams

COLUMNS = ("id", "at", "source", "reason", "version", "prediction", "confidence", "probabilities", "ood", "features")
COLUMNS = (*COLUMNS, "phash")  # the columns of a window that the queue needs
CANDIDATES = 5_000  # rows of a window to choose from; a random sample if there are more
NEAR_BITS = 6  # of 64 bits: perceptual hashes this close show the same thing
UNKNOWN = ""  # all samples without a source count as one source

logger = logging.getLogger("evergreen.review")


class Queued(Frozen):
    """A sample that people were asked to label."""

    id: str
    at: AwareDatetime  # of the request: says where it is in the log
    source: str | None
    version: str | None  # of the model that answered
    prediction: str | list[str] | None
    confidence: float | None
    ood: float | None
    phash: int | None
    why: str  # "uncertain" | "unfamiliar"
    queued_at: AwareDatetime
    because: str  # the decision, window or person that asked for it


def select(
    rows: pa.Table, budget: int, max_source_share: float, known: Collection[str], seen: Sequence[int] = ()
) -> list[str]:
    """Ids of up to `budget` of the most informative `rows` (COLUMNS), best first.

    Informative means that the model is unsure (small margin) or the image is unfamiliar (high out-of-distribution
    score), each by rank, and that the image differs from those already chosen. The choice is greedy: the largest score
    times squared feature distance to the chosen. This is k-means++ seeding without its randomness (Arthur &
    Vassilvitskii, 2007), weighted by uncertainty as in BADGE (Ash et al., ICLR 2020).

    No source gets more than `max_source_share`, or an equal part if there are few sources. Left out are near-duplicates
    of chosen images and of `seen` (perceptual hashes), ids in `known`, repeated ids and unreadable images.
    """
    rows = _usable(rows, known)
    if not len(rows) or budget <= 0:
        return []
    sources = np.array([name or UNKNOWN for name in rows["source"].to_pylist()], dtype=object)
    quota = int(np.ceil(budget * max(max_source_share, 1 / len(set(sources.tolist())))))
    scores = np.maximum(*informative(rows)) ** 4  # favour the top ranks
    order = _candidates(scores, sources, quota)
    rows, scores, sources = rows.take(pa.array(order)), scores[order], sources[order]
    features = _matrix(rows["features"])
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    hashes = rows["phash"].to_numpy().astype(np.uint64)
    open_ = np.ones(len(rows), bool)
    for value in seen:
        open_ &= _bits(hashes, np.uint64(value)) > NEAR_BITS
    nearest = np.full(len(rows), 2.0)  # squared distance of unit vectors to the closest chosen one, at most 4
    taken, chosen = Counter(), []
    while len(chosen) < budget and open_.any():
        best = int(np.argmax(np.where(open_, scores * (nearest + 1e-6), -1.0)))
        chosen.append(best)
        taken[sources[best]] += 1
        if taken[sources[best]] >= quota:
            open_ &= sources != sources[best]
        open_ &= _bits(hashes, hashes[best]) > NEAR_BITS
        open_[best] = False
        nearest = np.minimum(nearest, np.maximum(2 - 2 * features @ features[best], 0))
    names = rows["id"].to_pylist()
    return [names[row] for row in chosen]


def informative(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (N,) ranks in (0, 1]: how unsure the model is of each row, and how unfamiliar the row is."""
    probabilities = _matrix(rows["probabilities"])
    if pa.types.is_list(rows.schema.field("prediction").type):  # classes are independent: the least sure one counts
        margin = np.abs(2 * probabilities - 1).min(axis=1)
    elif probabilities.shape[1] > 1:
        two = np.partition(probabilities, -2, axis=1)[:, -2:]
        margin = two[:, 1] - two[:, 0]
    else:
        margin = np.zeros(len(rows))
    return _rank(-margin), _rank(rows["ood"].to_numpy().astype(np.float64))


def _usable(rows: pa.Table, known: Collection[str]) -> pa.Table:
    """The rows that are readable, answered and not in `known`, each id once."""
    passed, keep = set(known), []
    columns = ("id", "reason", "features", "probabilities", "phash", "ood")
    valid = [rows[name].is_valid().to_pylist() for name in columns[2:]]
    for row, (name, reason, *whole) in enumerate(
        zip(rows["id"].to_pylist(), rows["reason"].to_pylist(), *valid, strict=True)
    ):
        if reason is None and all(whole) and name not in passed:
            passed.add(name)
            keep.append(row)
    return rows.take(pa.array(keep, pa.int64()))


def _candidates(scores: np.ndarray, sources: np.ndarray, quota: int) -> np.ndarray:
    """Rows worth comparing, best first.

    At most four times the quota per source, so that no source dominates.
    """
    order, left = [], Counter()
    for row in np.argsort(-scores, kind="stable"):
        if left[sources[row]] < 4 * quota:
            left[sources[row]] += 1
            order.append(row)
    return np.array(order)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(N, D) from a column of lists of equal length; values that are not finite become 0."""
    return np.nan_to_num(np.stack(column.to_numpy()).astype(np.float32), posinf=0, neginf=0)


def _rank(values: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(values, nan=np.inf)
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (below + upto + 1) / (2 * len(values) + 1)  # equal values share the middle of their ranks


def _bits(hashes: np.ndarray, value: np.uint64) -> np.ndarray:
    return np.bitwise_count(hashes ^ value)


# --- what waits


def queued(log: Log) -> list[Queued]:
    """All samples that people were ever asked to label, oldest first.

    Damaged files are skipped and logged.
    """
    found = []
    for key in log.store.list("queue/"):
        content = log.store.read(key)
        try:
            found += [Queued.model_validate(entry) for entry in json.loads(content[0])] if content else []
        except (ValueError, TypeError, ValidationError) as error:
            logger.warning("%s in the production log is skipped: %s", key, error)
    return found


def waiting(log: Log) -> list[Queued]:
    """Queued samples without a label, each once, oldest first."""
    done = set(log.labels()["id"].to_pylist())
    return [entry for entry in {entry.id: entry for entry in reversed(queued(log))}.values() if entry.id not in done][
        ::-1
    ]


def enqueue(
    log: Log, review: ReviewParams, start: datetime, end: datetime, because: str, seed: int = 0
) -> list[Queued]:
    """Choose from the answers of [start, end) and queue them; returns what was added, best first.

    Two simultaneous calls may both add a sample; `waiting` then lists it once.
    """
    rows, _, _ = log.window(start, end, COLUMNS, limit=CANDIDATES, seed=seed)
    before = queued(log)
    known = {entry.id for entry in before} | set(log.labels()["id"].to_pylist())
    recent = [entry.phash for entry in before if entry.phash is not None][-CANDIDATES:]
    ids = select(rows, review.budget, review.max_source_share, known, recent)
    if not ids:
        return []
    rows = rows.take(pa.array([rows["id"].to_pylist().index(name) for name in ids]))
    unsure, unfamiliar = informative(rows)
    now = datetime.now(UTC)
    entries = [
        Queued(
            **{name: row[name] for name in Queued.model_fields if name in row},
            why="uncertain" if unsure[n] >= unfamiliar[n] else "unfamiliar",
            queued_at=now,
            because=because,
        )
        for n, row in enumerate(rows.to_pylist())
    ]
    content = json.dumps([entry.model_dump(mode="json") for entry in entries], allow_nan=False).encode()
    log.store.create(f"queue/{now:%Y%m%dT%H%M%SZ}-{sha256_bytes(content)[:16]}.json", content)
    return entries


def images(log: Log, entries: Sequence[Queued], block: int = 64):
    """(entry, encoded image) of `entries`, with one block in memory at a time.

    The image is the thumbnail if the log has only that, and None if the log no longer has it.
    """
    entries = sorted(entries, key=lambda entry: entry.at)
    for first in range(0, len(entries), block):
        part = entries[first : first + block]
        end = part[-1].at + timedelta(microseconds=1)
        found = log.find([entry.id for entry in part], part[0].at, end, ["id", "image", "thumbnail"])
        content = {row["id"]: row["image"] or row["thumbnail"] for row in found.to_pylist()}
        yield from ((entry, content.get(entry.id)) for entry in part)
