"""What the page of the hard set shows: from the index, the changes and the ledger of looks."""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.console.index.facets import IN_USE
from flows.console.index.index import ImageRow, Index
from flows.console.shell.console import Console
from flows.hard_set.history import SetChange, set_history
from flows.labels.stones import tombstones_now
from flows.publishing.asked_sets import AskedSet, count_looks
from flows.publishing.history import open_project
from tasks.common.params import Params
from tasks.dataset.hard_set import Membership, change_files, membership, version_of
from tasks.dataset.shards import batches
from tasks.gate.looks import Looks, measure_looks
from tasks.releases.looks import FOLDER, Look, read_looks

MOST = 60  # pictures on one page
IMAGES = (
    "id",
    "key",
    "path",
    "label",
    "answer",
    "right",
    "version",
    "never again",
    "source",
    "batch",
    "added by",
    "why",
)


@dataclass(frozen=True)
class ClassLine:
    """One class of the hard set."""

    name: str
    images: int
    answered: int  # of these, images with an answer of the live model
    right: int  # answered as labelled
    never: int


@dataclass(frozen=True)
class HardView:
    """The hard set as the page shows it."""

    version: str | None
    rows: list[ImageRow]  # the newest first
    now: Membership
    classes: list[ClassLine]

    def change(self, row: ImageRow) -> dict:
        """Who put the image in, when and why; {} for an ingested one."""
        return self.now.rows[row.id] if row.id in self.now.added else {}


def hard_view(root: Path, index: Index) -> HardView:
    """The hard set of the project at `root`."""
    data = root / "data"
    if not (data / "dataset.json").is_file():
        return HardView(None, [], Membership(), [])
    rows = index.rows(index.columns().all_rows({"split": ["hard"]}))
    rows = [row for row in rows if not row.logged and row.facets["state"] == IN_USE]
    now, order = membership(data), {one.batch: one.seq for one in batches(data)}
    rows.sort(key=lambda row: (_seq(row, now, order), row.id), reverse=True)
    asked = [row.id for row in rows if row.facets["true"]]
    return HardView(version_of(asked, "hard"), rows, now, class_lines(rows, now.never))


def _seq(row: ImageRow, now: Membership, order: dict[str, int]) -> int:
    return now.rows[row.id]["seq"] if row.id in now.added else order.get(row.facets["batch"] or "", 0)


def class_lines(rows: Iterable[ImageRow], never: frozenset[str]) -> list[ClassLine]:
    """One line per label, the one with the most images first; several labels of one image are one line."""
    images, answered, right, marked = Counter(), Counter(), Counter(), Counter()
    for row in rows:
        name, said = row.facets["true"] or "no label", row.facets["predicted"]
        images[name] += 1
        answered[name] += said is not None
        right[name] += said is not None and said == row.facets["true"]
        marked[name] += row.id in never
    return [ClassLine(name, count, answered[name], right[name], marked[name]) for name, count in images.most_common()]


def looks_of(console: Console, view: HardView, index: Index) -> list[Looks]:
    """How often the hard set and the test split were asked."""
    data, sets = console.root / "data", []
    asked = [row for row in view.rows if row.facets["true"]]
    if asked:
        order = {one.batch: one.seq for one in batches(data)}
        since = min(_seq(row, view.now, order) for row in asked)
        sets.append(AskedSet("hard", view.version or "", len(asked), since))
    labels = index.counts({"split": ["test"], "state": [IN_USE]})[1]["true"]
    if tested := sum(count for label, count in labels if label is not None):
        sets.append(AskedSet("test", "", tested, 0))
    margin = console.params().gate.look_margin
    return [measure_looks(one, margin) for one in count_looks(sets, ledger_of(console))]


def ledger_of(console: Console) -> list[Look]:
    """Every look, oldest first; read again only when there are new ones."""
    return list(_ledger(console.root, tuple(console.releases().store.list(FOLDER))))


@functools.lru_cache(maxsize=4)
def _ledger(root: Path, keys: tuple[str, ...]) -> tuple[Look, ...]:
    return tuple(read_looks(open_project(root)[1].store)) if keys else ()


def history_of(root: Path, params: Params) -> list[SetChange]:
    """Every change of the hard set, newest first."""
    data = root / "data"
    if not (data / "dataset.json").is_file():
        return []
    stones = tuple(sorted(tombstones_now(root, params)))
    known = tuple((one.seq, one.batch, tuple(one.shards)) for one in batches(data))
    return list(_history(root, known, tuple(change_files(data)), stones))


@functools.lru_cache(maxsize=4)
def _history(root: Path, *_: Sequence) -> tuple[SetChange, ...]:
    return tuple(reversed(set_history(root)))


def image_rows(view: HardView) -> Iterable[tuple]:
    """The rows of the CSV file, with the columns IMAGES."""
    for row in view.rows:
        about, of = view.change(row), row.facets
        right = None if of["predicted"] is None else "yes" if of["predicted"] == of["true"] else "no"
        yield (
            row.id, row.key, row.path, of["true"], of["predicted"], right, of["version"],
            "yes" if row.id in view.now.never else "", of["source"], of["batch"], about.get("by"), about.get("why"),
        )  # fmt: skip
