"""What the list of batches shows: who added what and when, its mix, what became of it.

Counts come from the console's index, the rest from manifests, tombstones, git and the release store. N images.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.console.data.counts import Counts, counts_of
from flows.console.index.columns import Columns
from flows.console.shell.page import without_file
from flows.publishing.history import known_history
from flows.publishing.rollback import batches_at
from flows.repo.git import git
from flows.repo.objects import ObjectLost, open_objects
from flows.repo.tombstones import in_force
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.dataset.annotation_files import annotation_batches
from tasks.dataset.shards import BatchManifest, batches, read_tombstones
from tasks.releases.store import Releases

NAMED = re.compile(r"\b([bl]-[0-9a-f]{12})\b")
COMMITS = 5000  # of data.dvc that are read
VERSIONS = 60  # newest versions whose data is looked at
MIX = 6  # classes in a row of the list
KINDS = {
    "import": "import",
    "hard": "hard set",
    "production": "production",
    "review": "review",
    "synthetic": "synthetic",
}
_lock = threading.Lock()
_rows: dict[Path, tuple[tuple, list["BatchRow"]]] = {}
RUN = "run "  # how the `by` of a tombstone begins that a run has set


@dataclass(frozen=True)
class Stone:
    """A tombstone that counts or counted."""

    why: str
    by: str
    at: str
    in_force: bool
    committed: bool  # in tombstones.json of git

    @property
    def run(self) -> str | None:
        """The run that refused the batch; None: a person tombstoned it."""
        return self.by.removeprefix(RUN) if self.by.startswith(RUN) else None


@dataclass(frozen=True)
class BatchRow:
    """One batch of images."""

    id: str
    seq: int
    kind: str
    rows: int
    offered: int
    quarantined: dict[str, int]  # reason -> rows refused at ingest
    at: datetime | None  # of its commit
    by: str
    counts: Counts
    stone: Stone | None
    versions: tuple[str, ...]  # that were made with it, oldest first

    @property
    def refused(self) -> int:
        """Rows that were refused at ingest."""
        return sum(self.quarantined.values())

    @property
    def state(self) -> str:
        """What becomes of it now."""
        if self.stone and self.stone.in_force:
            return "refused" if self.stone.run else "tombstoned"
        return "judged again" if self.stone else "in use"

    def mix(self, most: int = MIX) -> list[tuple[str, int, float]]:
        """(class, images, share of the batch's labelled images) of its most frequent classes."""
        total = sum(self.counts.classes.values())
        return [(name, count, count / total) for name, count in list(self.counts.classes.items())[:most]]


@dataclass(frozen=True)
class Page:
    """Some batches, newest first, and the batch after which the next page begins."""

    rows: list[BatchRow]
    after: str | None = None


@dataclass(frozen=True)
class LabelBatch:
    """A batch of people's words about images."""

    id: str
    seq: int
    rows: int
    at: datetime | None
    by: str
    with_images: bool  # it came with a batch of images


def all_rows(root: Path, params: Params, releases: Releases, columns: Columns) -> list[BatchRow]:
    """Every batch of data/, newest first."""
    manifests, counts = batches(root / "data"), counts_of(columns, params.data.task == "multilabel")
    commits, used = commits_of(root), versions_of(root, releases)
    stones = stones_of(root, params, releases)
    return [_row(one, counts, commits, stones, used) for one in reversed(manifests)]


def known_rows(root: Path, params: Params, releases: Releases, columns: Columns) -> list[BatchRow]:
    """`all_rows`, counted again only when a batch, a tombstone, a version or a label is new."""
    files = tuple(sorted(file.name for file in (root / "data/batches").glob("*.json")))
    live = releases.live()
    key = (files, repr(releases.tombstones()), live and live.seq, columns.generation, columns.removals, params)
    with _lock:
        if (known := _rows.get(root)) and known[0] == key:
            return known[1]
    found = all_rows(root, params, releases, columns)
    with _lock:
        _rows[root] = (key, found)
    return found


def one_page(rows: Sequence[BatchRow], after: str | None, state: str | None = None, most: int = 50) -> Page:
    """`most` of the rows after batch `after`, of one state if it is given."""
    found = [row for row in rows if state is None or row.state == state]
    start = next((place + 1 for place, row in enumerate(found) if row.id == after), 0) if after else 0
    part = found[start : start + most]
    return Page(part, part[-1].id if len(found) > start + most else None)


def _row(
    one: BatchManifest,
    counts: Mapping[str, Counts],
    commits: Mapping[str, tuple[datetime, str]],
    stones: Mapping[str, Stone],
    used: Mapping[str, tuple[str, ...]],
) -> BatchRow:
    at, by = commits.get(one.batch, (None, ""))
    return BatchRow(
        one.batch, one.seq, KINDS.get(one.kind, one.kind), one.rows, one.offered, one.quarantined, at, by,
        counts.get(one.batch, Counts()), stones.get(one.batch), used.get(one.batch, ()),
    )  # fmt: skip


def stones_of(root: Path, params: Params, releases: Releases) -> dict[str, Stone]:
    """Batch -> its tombstone."""
    stored, committed = releases.tombstones(), read_tombstones(root)
    forced = in_force(stored, params)

    def stone(about: Mapping[str, Any], forced: bool, committed: bool) -> Stone:
        return Stone(
            without_file(str(about.get("why", "?"))),
            str(about.get("by", "?")),
            str(about.get("at", "")),
            forced,
            committed,
        )

    found = {batch: stone(about, batch in forced, False) for batch, about in stored.items()}
    return found | {batch: stone(about, True, True) for batch, about in committed.items()}


def label_rows(root: Path) -> list[LabelBatch]:
    """Every batch of people's words, newest first."""
    commits = commits_of(root)
    return [
        LabelBatch(one.batch, one.seq, one.rows, *commits.get(one.batch, (None, "")), one.needs is not None)
        for one in reversed(annotation_batches(root / "data"))
    ]


_commits: dict[Path, tuple[str, dict[str, tuple[datetime, str]]]] = {}
_data: dict[tuple[Path, str], tuple[str, ...]] = {}  # (project, commit) -> batches of its data


def commits_of(root: Path) -> dict[str, tuple[datetime, str]]:
    """Batch -> (when, by whom) it was committed, as the messages of the commits of data.dvc name it."""
    try:
        head = git(root, "rev-parse", "HEAD")
        with _lock:
            if (known := _commits.get(root)) and known[0] == head:
                return known[1]
        log = git(root, "log", f"-{COMMITS}", "--format=%x1e%cI%x1f%an%x1f%B", "--", "data.dvc")
    except EvergreenError:  # no commit yet
        return {}
    found: dict[str, tuple[datetime, str]] = {}
    for entry in log.split("\x1e")[1:]:  # newest first: the oldest that names a batch brought it
        at, by, message = entry.split("\x1f", 2)
        for batch in NAMED.findall(message):
            found[batch] = (datetime.fromisoformat(at), by)
    with _lock:
        _commits[root] = (head, found)
    return found


def versions_of(root: Path, releases: Releases) -> dict[str, tuple[str, ...]]:
    """Batch -> the versions whose data has it, oldest first."""
    newest = list({pointer.version: pointer.git_rev for pointer in known_history(root, releases)}.items())[-VERSIONS:]
    found: dict[str, list[str]] = {}
    for version, rev in newest:
        for batch in _batches_of(root, rev):
            found.setdefault(batch, []).append(version)
    return {batch: tuple(versions) for batch, versions in found.items()}


def _batches_of(root: Path, rev: str) -> tuple[str, ...]:
    with _lock:
        if (known := _data.get((root, rev))) is not None:
            return known
    try:
        with open_objects(root) as objects:
            found = tuple(one.batch for one in batches_at(root, objects, rev))
    except (EvergreenError, ObjectLost):  # its commit or its data is not here: `evergreen verify` says so
        found = ()
    with _lock:
        _data[root, rev] = found
    return found
