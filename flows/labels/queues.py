"""The three queues of images that wait for a person: production, label issues, audit.

production: what the monitor picked, and picked images of data/. audit: answers drawn at random, which measure the
model. issues: samples of data/ whose label a person should look at. They are read once and kept while no file that they
come from changes.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from flows.labels.data_queue import DataQueue
from flows.labels.issues_queue import DISAGREE, SECOND_LOOK, issues_of
from flows.labels.people import Annotator, annotators, read_words
from flows.labels.pick_data import FOLDER as PICKS
from flows.labels.samples import find_samples
from flows.labels.stones import tombstones_now
from monitoring.log.production_log import Log
from monitoring.review.asked import Asked, of_queued
from monitoring.review.assignments import FOLDER as ASSIGNED
from monitoring.review.assignments import Assignment, assignments, holders
from monitoring.review.queue import Queued, asked, waiting
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.labels.changes import FOLDER as CHANGES
from tasks.labels.second_look import ErrorRate

QUEUES = ("production", "issues", "audit")
PARTS = ("log", "picks", "issues", "holders")  # what is read and kept apart


class Place(NamedTuple):
    """Where an image is: requested at that time (of the production log), or a row of a shard of data/."""

    at: datetime | None = None
    shard: str = ""
    row: int = 0


@dataclass(frozen=True)
class Entry:
    """An image that waits for a person's word."""

    queue: str
    asked: Asked
    place: Place
    picked: str = ""  # of production: "audit" or "queue"
    because: str = ""  # which decision, window or person asked for it
    voters: frozenset[str] = frozenset()  # who labelled it before

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def blind(self) -> bool:
        """The person must not see what a model or another person says: the answer measures them."""
        return self.queue == "audit" or self.asked.why == SECOND_LOOK

    def not_for(self, person: str) -> bool:
        """Whether this person has said what they can say: a second word of theirs would settle nothing."""
        return person in self.voters and self.asked.why in (SECOND_LOOK, DISAGREE)


@dataclass(frozen=True)
class People:
    """How often people err."""

    rate: ErrorRate
    annotators: Sequence[Annotator] = ()


NOBODY = People(ErrorRate(0, 0, 0.0, 1.0))


@dataclass
class Queues:
    """Reads the queues of the project at `root`, each again only after its files have changed."""

    root: Path
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # part -> (key of its files, what was read)
    _locks: dict[str, threading.Lock] = field(default_factory=lambda: {name: threading.Lock() for name in PARTS})

    def entries(self, queue: str, params: Params, log: Log) -> list[Entry]:
        """What waits in `queue` (one of QUEUES), the most urgent first."""
        if queue == "issues":
            return self._issues(params)[0]
        from_log = self._part("log", lambda: self._log_key(log), lambda: _of_log(log))
        found = [entry for entry in from_log if (entry.picked == "audit") == (queue == "audit")]
        if queue == "production":
            found += self._part("picks", lambda: self._data_key(params), lambda: _of_picks(self.root, params))
        return found

    def find(self, queue: str, image: str, params: Params, log: Log) -> Entry | None:
        """The entry of one image; also of one that was in `queue` and has its answer."""
        found = next((one for one in self.entries(queue, params, log) if one.id == image), None)
        if found is None and queue != "issues":
            found = next((_queued(one) for one in asked(log).values() if one.id == image), None)
        return found or _sample(self.root, queue, image, params)

    def holders(self, log: Log) -> dict[str, Assignment]:
        """Id -> the assignment that counts."""
        return self._part("holders", lambda: list(log.store.list(ASSIGNED)), lambda: holders(assignments(log.store)))

    def people(self, params: Params) -> People:
        """How often people err, by second looks."""
        return self._issues(params)[1]

    def _issues(self, params: Params) -> tuple[list[Entry], People]:
        if not (self.root / "data" / "dataset.json").is_file():
            return [], NOBODY
        return self._part("issues", lambda: self._data_key(params), lambda: _of_issues(self.root, params))

    def _part(self, name: str, key: Callable[[], Any], read: Callable[[], Any]) -> Any:
        with self._locks[name]:
            now = key()
            if name not in self._kept or self._kept[name][0] != now:
                self._kept[name] = now, read()
            return self._kept[name][1]

    def _log_key(self, log: Log) -> Any:
        return log.label_keys(), list(log.store.list("queue/"))

    def _data_key(self, params: Params) -> Any:
        state, data = state_dir(self.root), self.root / "data"
        folders = (data, data / "batches", data / "annotations", data / CHANGES, state / PICKS)
        files = (self.root / "tombstones.json", self.root / "artifacts/clean/queue.csv")
        listed = [sorted(child.name for child in folder.iterdir()) for folder in folders if folder.is_dir()]
        issues = sorted((file.name, file.stat().st_mtime_ns) for file in (state / "label-issues").glob("*"))
        times = [file.stat().st_mtime_ns for file in files if file.exists()]
        return listed, issues, times, sorted(tombstones_now(self.root, params)), params


def _of_log(log: Log) -> list[Entry]:
    return [_queued(one) for one in waiting(log)]


def _queued(one: Queued) -> Entry:
    queue = "audit" if one.picked == "audit" else "production"
    return Entry(queue, of_queued(one), Place(at=one.at), one.picked, one.because)


def _sample(root: Path, queue: str, image: str, params: Params) -> Entry | None:
    """An entry for a sample of data/ that waits in no queue; None if there is no such sample."""
    if not (root / "data" / "dataset.json").is_file():
        return None
    rows = find_samples(root / "data", [image], tombstones_now(root, params)).to_pylist()
    if not rows:
        return None
    about = {name: rows[0][name] for name in ("id", "source", "key", "path")}
    return Entry(
        queue,
        Asked(why="answered before", at=rows[0]["taken_at"], **about),
        Place(None, rows[0]["shard"], rows[0]["row"]),
    )


def _of_picks(root: Path, params: Params) -> list[Entry]:
    queue = DataQueue(root, params)
    places = [Place(shard=row["shard"], row=row["row"]) for row in queue.rows]
    return [Entry("production", one, place) for one, place in zip(queue.entries, places, strict=True)]


def _of_issues(root: Path, params: Params) -> tuple[list[Entry], People]:
    stones = tombstones_now(root, params)
    words, share = read_words(root, params, stones), params.labels.second_look
    listed = issues_of(root, params, words, stones)
    table = find_samples(root / "data", [one.id for one in listed], stones).select(["id", "shard", "row"])
    places = {row["id"]: Place(shard=row["shard"], row=row["row"]) for row in table.to_pylist()}
    entries = []
    for one in listed:
        voters = frozenset(row["annotator"] for row in words.said.get(one.id, []) if row["annotator"])
        entries.append(Entry("issues", one, places[one.id], voters=voters))
    return entries, People(words.error_rate(share), annotators(words, share))
