"""True labels that clients of the predictor sent, kept next to the production log until taken.

    feedback/new/<time>-<hash>.json     labels as they came, one file for each request
    feedback/logged/<time>-<hash>.json  labels that the log has, whose images are not in data/ yet

A file is durable when `keep` returns, in a folder as in S3: a killed service loses no label that it acknowledged. Files
are written once: a take writes what is left of them to a new file, then removes the old one. A killed take loses
nothing, and takes a label twice at most, which changes nothing.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from serving.service.contracts import Feedback
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.storage.blobs import Store

SCHEMA = 1
NEW, LOGGED = "feedback/new/", "feedback/logged/"

logger = logging.getLogger("evergreen.feedback")


class Waiting(NamedTuple):
    """One label that waits."""

    label: Feedback  # with `at`: when its client gave it, or the service got it
    logged: bool  # the production log has it already


class Waited(NamedTuple):
    """All labels that wait, oldest first, and the files that hold them."""

    labels: list[Waiting]
    keys: list[str]


class FeedbackJournal:
    """The labels that wait in the store of a production log. Processes and threads may use it at the same time."""

    def __init__(self, store: Store):
        self.store = store

    def keep(self, labels: Sequence[Feedback]) -> None:
        """Store `labels` durably; raises what the store raises, and then they count as never sent."""
        now = datetime.now(UTC)
        self._write(NEW, [one._replace(at=min(one.at or now, now)) for one in labels], now)

    def waiting(self) -> Waited:
        """What waits now, each label once. A file that is damaged, or of a newer Evergreen, is skipped and logged."""
        found, keys = [], []
        for logged, prefix in ((True, LOGGED), (False, NEW)):
            for key in self.store.list(prefix):
                content = self.store.read(key)
                try:
                    found += [Waiting(one, logged) for one in _read(content[0], key)] if content else []
                except (ValueError, TypeError, KeyError, AttributeError, EvergreenError) as error:
                    logger.warning("%s in the production log is skipped: %s", key, error)
                    continue
                keys.append(key)
        return Waited(sorted(dict.fromkeys(found), key=lambda one: one.label.at), keys)

    def replace(self, read: Waited, left: Sequence[Waiting]) -> None:
        """Keep `left` of what `waiting` returned, and nothing else of it."""
        now = datetime.now(UTC)
        for logged, prefix in ((True, LOGGED), (False, NEW)):
            if labels := [one.label for one in left if one.logged == logged]:
                self._write(prefix, labels, now)
        for key in read.keys:
            self.store.remove(key)

    def count(self) -> int:
        """How many labels wait."""
        return len(self.waiting().labels)

    def _write(self, prefix: str, labels: Sequence[Feedback], now: datetime) -> None:
        content = {"schema": SCHEMA, "labels": [_stored(one) for one in labels]}
        name = f"{now:%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex[:16]}.json"
        self.store.create(prefix + name, json.dumps(content, ensure_ascii=False, allow_nan=False).encode())


def _stored(one: Feedback) -> dict:
    """The fields have names that erasures look into (tasks.erasure.traces.NAMED)."""
    return one._asdict() | {"at": one.at.isoformat() if one.at else None}


def _read(content: bytes, key: str) -> list[Feedback]:
    about = json.loads(content)
    refuse_newer(about["schema"], SCHEMA, key)
    return [_feedback(**one) for one in about["labels"]]


def _feedback(name: str, label: str | list[str], who: str, client: str, why: str, at: str) -> Feedback:
    told = tuple(label) if isinstance(label, list) else label
    return Feedback(name, told, who, client, why, datetime.fromisoformat(at))
