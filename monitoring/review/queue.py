"""The review queue: choose production samples for labelling, and list those that wait for a label.

    queue/<time>-<hash>.json   one selection: its samples, when and why they were chosen

A sample waits until a label for it is in the log. N is the number of samples, D of feature dimensions.
"""

import json
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, ValidationError

from monitoring.log.production_log import Log
from monitoring.review.audit import draw
from tasks.active.pick import pick
from tasks.active.pool import Pool
from tasks.common.checks import Frozen
from tasks.common.files import sha256_bytes
from tasks.common.params import ReviewParams

COLUMNS = ("id", "at", "source", "reason", "version", "prediction", "confidence", "probabilities", "ood", "features")
COLUMNS = (*COLUMNS, "phash", "key", "path")  # the columns of a window that the queue needs
CANDIDATES = 5_000  # rows of a window to choose from; a random sample if there are more

ROUTINE = "audit"  # why a sample is asked for that no drift asks for
CHOSEN = "chosen by a person"  # why one is asked for that somebody picked by hand

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
    why: str  # tasks.active.pick.Picked.why, ROUTINE, CHOSEN or "audit of drift"
    queued_at: AwareDatetime
    because: str  # the decision, window or person that asked for it
    key: str | None = None  # the owner's
    path: str | None = None
    picked: str = "queue"  # "audit": drawn at random; "queue": for being informative
    sampling_probability: float | None = None  # of an audit sample


def select(
    rows: pa.Table,
    budget: int,
    max_source_share: float,
    known: Collection[str],
    seen: Sequence[int] = (),
    *,
    method: str,
) -> dict[str, str]:
    """Ids of up to `budget` of the most informative `rows` (COLUMNS), best first, each with the reason.

    Informative means that `method` (tasks.active.methods) ranks the image high, or that it is unfamiliar (high
    out-of-distribution score): every third pick. No source gets more than `max_source_share`, or an equal part if there
    are few sources. Left out are near-duplicates of chosen images and of `seen` (perceptual hashes), ids in `known`,
    repeated ids and unreadable images.
    """
    rows = _usable(rows, known)
    if not len(rows):
        return {}
    pool = Pool(
        features=_matrix(rows["features"]),
        probabilities=_matrix(rows["probabilities"]),
        multilabel=pa.types.is_list(rows.schema.field("prediction").type),
        unfamiliar=rows["ood"].to_numpy().astype(np.float64),
        sources=rows["source"].to_pylist(),
        hashes=rows["phash"].to_numpy().astype(np.uint64),
    )
    names = rows["id"].to_pylist()
    picks = pick(pool, budget, method, max_source_share=max_source_share, seen=seen)
    return {names[found.row]: found.why for found in picks}


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


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(N, D) from a column of lists of equal length; values that are not finite become 0."""
    return np.nan_to_num(np.stack(column.to_numpy()).astype(np.float32), posinf=0, neginf=0)


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


def asked(log: Log) -> dict[str, Queued]:
    """id -> the entry that counts of each sample that people were ever asked to label, in the order of the first.

    An audit sample stays one, also if it was or is picked for being informative: its draw does not depend on that.
    """
    found: dict[str, Queued] = {}
    for entry in queued(log):
        before = found.get(entry.id)
        if before is None or (entry.sampling_probability or 0) > (before.sampling_probability or 0):
            found[entry.id] = entry
    return found


def waiting(log: Log) -> list[Queued]:
    """Queued samples without a label, each once, oldest first."""
    done = set(log.labels()["id"].to_pylist())
    return [entry for entry in asked(log).values() if entry.id not in done]


def asked_by_drift(log: Log) -> list[Queued]:
    """Those that wait, without the routine audit."""
    return [entry for entry in waiting(log) if entry.why != ROUTINE]


def enqueue(
    log: Log,
    review: ReviewParams,
    start: datetime,
    end: datetime,
    because: str,
    seed: int = 0,
    bundle: str | None = None,
) -> list[Queued]:
    """Choose from the answers of model `bundle` in [start, end) and queue them; returns what was added, best first.

    bundle: None: of the model that gave most of them. Features and probabilities of two models cannot be ranked
    together.
    Two simultaneous calls may both add a sample; `waiting` then lists it once.
    """
    bundle = bundle or _busiest(log, start, end)
    rows, _, _ = log.window(start, end, COLUMNS, limit=CANDIDATES, seed=seed, bundle=bundle)
    before = queued(log)
    known = {entry.id for entry in before} | set(log.labels()["id"].to_pylist())
    recent = [entry.phash for entry in before if entry.phash is not None][-CANDIDATES:]
    why = select(rows, review.budget, review.max_source_share, known, recent, method=review.method)
    if not why:
        return []
    rows = rows.take(pa.array([rows["id"].to_pylist().index(name) for name in why]))
    return _add(log, [{**row, "why": why[row["id"]], "because": because} for row in rows.to_pylist()])


def _busiest(log: Log, start: datetime, end: datetime) -> str | None:
    """The model with the most answers in [start, end)."""
    bundles = log.window(start, end, ["bundle"], limit=CANDIDATES)[0]["bundle"].to_pylist()
    return max(sorted(filter(None, set(bundles))), key=bundles.count, default=None)


def enqueue_audit(
    log: Log,
    review: ReviewParams,
    start: datetime,
    end: datetime,
    bundle: str,
    because: str,
    now: datetime | None = None,
    extra: float = 0.0,
    part: float = 1.0,
) -> list[Queued]:
    """Queue the audit sample of the answers of model `bundle` in [start, end); returns what was added.

    extra: draws that are wanted beyond review.audit_per_day because of drift, on average. part: share of
    review.audit_per_day for this model. See monitoring.review.audit.
    """
    drawn = draw(log, review, start, end, bundle, now or datetime.now(UTC), extra, part)
    known = {entry.id: entry.sampling_probability or 0.0 for entry in asked(log).values()}
    new = {name: chance for name, chance in drawn.items() if chance > known.get(name, 0.0)}
    if not new:
        return []
    columns = [name for name in COLUMNS if name in Queued.model_fields]
    rows = log.find(new, start, end, columns, bundle).sort_by([("at", "ascending"), ("id", "ascending")]).to_pylist()
    audit = {"why": ROUTINE if not extra else "audit of drift", "picked": "audit", "because": because}
    return _add(log, [{**row, **audit, "sampling_probability": new[row["id"]]} for row in rows])


def enqueue_chosen(log: Log, rows: Sequence[dict], because: str) -> list[Queued]:
    """Queue the answers `rows` (COLUMNS), which a person chose; returns those that did not wait and have no label."""
    known = {entry.id for entry in asked(log).values()} | set(log.labels()["id"].to_pylist())
    new = {row["id"]: {**row, "why": CHOSEN, "because": because} for row in rows if row["id"] not in known}
    return _add(log, list(new.values())) if new else []


def _add(log: Log, rows: Sequence[dict]) -> list[Queued]:
    """Write one selection."""
    now = datetime.now(UTC)
    entries = [
        Queued(**{name: row[name] for name in Queued.model_fields if name in row}, queued_at=now) for row in rows
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
