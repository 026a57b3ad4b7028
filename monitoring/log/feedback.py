"""True labels that clients of the predictor sent, kept next to the production log until taken.

    feedback/new/<time>-<hash>.json     labels as they came, one file for each request
    feedback/logged/<time>-<hash>.json  labels that the log has, whose images are not in data/ yet
    feedback/decided/<time>-<hash>.json what a person decided about labels of a client, and why

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
from tasks.common.plural import counted
from tasks.storage.blobs import Store

SCHEMA = 1
NEW, LOGGED, DECIDED = "feedback/new/", "feedback/logged/", "feedback/decided/"

logger = logging.getLogger("evergreen.feedback")


class Waiting(NamedTuple):
    """One label that waits."""

    label: Feedback  # with `at`: when its client gave it, or the service got it
    logged: bool  # the production log has it already


class Waited(NamedTuple):
    """All labels that wait, oldest first, and the files that hold them."""

    labels: list[Waiting]
    keys: list[str]


class Decided(NamedTuple):
    """A person's decision about labels of a client."""

    what: str  # "taken", "taken beyond the quota", "dropped"
    client: str  # "": of all
    labels: int
    by: str
    why: str
    at: datetime

    def sentence(self) -> str:
        """ "25 labels of line-1 were dropped by ann, 2026-11-28 08:00 UTC: a test"."""
        of = f" of {self.client}" if self.client else ""
        said = f"{counted(self.labels, 'label')}{of} {'was' if self.labels == 1 else 'were'} {self.what} by {self.by}"
        return f"{said}, {self.at:%Y-%m-%d %H:%M} UTC{f': {self.why}' if self.why else ''}"


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

    def decide(self, what: str, client: str, labels: int, by: str, why: str) -> None:
        """Note what a person decided."""
        now = datetime.now(UTC)
        self._create(DECIDED, Decided(what, client, labels, by, why, now)._asdict() | {"at": now.isoformat()}, now)

    def decided(self, most: int) -> list[Decided]:
        """The newest decisions, the newest first; damaged ones are left out."""
        found = []
        for key in sorted(self.store.list(DECIDED), reverse=True)[:most]:
            content = self.store.read(key)
            try:
                about = json.loads(content[0]) if content else {}
                refuse_newer(about.pop("schema"), SCHEMA, key)
                found.append(Decided(**about | {"at": datetime.fromisoformat(about["at"])}))
            except (ValueError, TypeError, KeyError, AttributeError, EvergreenError) as error:
                logger.warning("%s in the production log is skipped: %s", key, error)
        return found

    def count(self) -> int:
        """How many labels wait."""
        return len(self.waiting().labels)

    def _write(self, prefix: str, labels: Sequence[Feedback], now: datetime) -> None:
        self._create(prefix, {"labels": [_stored(one) for one in labels]}, now)

    def _create(self, prefix: str, content: dict, now: datetime) -> None:
        name = f"{now:%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex[:16]}.json"
        text = json.dumps({"schema": SCHEMA} | content, ensure_ascii=False, allow_nan=False)
        self.store.create(prefix + name, text.encode())


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
