"""Every place that may hold traces of an image, apart from data/, DVC and the log's tables.

What can be made again is deleted as a whole; what is a record (reports, queues, windows) keeps everything else.
"""

import platform
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.erasure.git_history import search_git
from flows.erasure.places import Item, Seen, clean_items, file_items, files_under, search_items, store_items
from flows.erasure.prefect_records import search_prefect
from flows.repo.copies import Copy, copies
from flows.repo.git import git_bytes
from flows.scale.shared import shared_place
from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.erasure.files import look
from tasks.erasure.traces import Search
from tasks.export.run import RECORD
from tasks.releases.store import Releases
from tasks.storage.blobs import Store

# children of .evergreen that other places name, that hold secrets, or that say what is being erased
ELSEWHERE = ("remote", "releases", "prefect", "production", "forget", "ingest", "cache", "runs", "erasures", "labels")
ELSEWHERE = (*ELSEWHERE, "checkout.json", "checkout.lock")
BULKY = ("objects/", "bundles/", "ledgers/", "redacted/")  # of the release store: searched as bundles
CLEANED = ("queue", "version")  # kinds of copies from which traces are removed
IMMUTABLE = ("pointers/", "champion.json")
SKIPPED = {".git", ".dvc", ".venv", ".evergreen", "data", "artifacts", "metrics", "node_modules"}


@dataclass(frozen=True)
class Place:
    """A list of files under one name; `remedy` of one that is only named says what to do."""

    name: str
    items: Callable[[], Iterable[Item]]
    remedy: str = ""
    looks: bool = True  # are pictures compared by their look too, or by their bytes alone?


def records(root: Path, releases: Releases, log: Store) -> list[Place]:
    """Records that people read: they lose what is about the image and stay."""
    state = state_dir(root)
    return [
        Place("release store: reports and records of runs", lambda: store_items(releases.store, _is_record)),
        Place(
            "production log: queue, assignments, windows and their revisions",
            lambda: store_items(log, lambda key: not key.endswith(".parquet")),
        ),
        Place(
            "pages, Evidently snapshots, queues, label issues and quarantine in .evergreen",
            lambda: file_items((f for f in files_under(state, ELSEWHERE) if f.suffix != ".log"), state),
        ),
        Place("logs of services", lambda: file_items(sorted(state.glob("*.log")), state)),
    ]


def caches(root: Path) -> list[Place]:
    """What can be made again: a file with a trace is deleted."""
    state = state_dir(root)
    return [
        Place("caches", lambda: file_items(files_under(state / "cache", ("networks",)), state, delete=True)),
        Place(
            "artifacts and metrics of the checkout",
            lambda: file_items((f for name in ("artifacts", "metrics") for f in files_under(root / name)), root, True),
        ),
        Place("the console's index", lambda: console_index(state)),
        Place("files of the Prefect server", lambda: file_items(_prefect_files(state), state, delete=True)),
    ]


def console_index(state: Path) -> Iterator[Item]:
    """The console's SQLite index as text; with a trace in it it is deleted, and the console makes it again."""
    file = state / "console/index.sqlite"

    def read() -> bytes | None:
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                return "\n".join(connection.iterdump()).encode()
        except sqlite3.DatabaseError:  # damaged: what is in it can't be told, so it goes as well
            return file.read_bytes() if file.is_file() else None

    def replace(rest: bytes | None) -> None:
        for ending in ("", "-wal", "-shm"):
            file.with_name(file.name + ending).unlink(missing_ok=True)

    if file.is_file():
        yield Item(f"{file.relative_to(state)}.txt", read, replace)


def shared_by_workers(root: Path, params: Params) -> list[Place]:
    """`scale.shared`, if the project has one: a shard or entry with a trace is deleted, and made again when needed."""
    if (place := shared_place(root, params)) is None:
        return []
    items = partial(store_items, place.blobs, lambda key: True, delete=True)
    return [Place("what Ray's workers share (scale.shared)", items)]


def workspaces(root: Path) -> Place:
    """Workspaces of ended runs: one that holds a trace is deleted as a whole."""
    state = state_dir(root)
    return Place("workspaces of runs", lambda: file_items(_of_runs(state / "runs"), state))


def exports(root: Path) -> Place:
    """What commands wrote to where the user said: queues to label (CSV, Label Studio, pages) and restored versions."""
    return Place("exports: queues to label, restored versions", lambda: file_items(_exported(root), root))


def answers(root: Path) -> Place:
    """Answers of people that wait to be taken; flows.labels.journal cleans them, under its lock."""
    folder = state_dir(root) / "labels"
    return Place("answers that wait to be taken", lambda: file_items(files_under(folder), folder))


def captures(root: Path) -> Place:
    """Folders that `evergreen collect` took captures of devices from: they are named, never changed."""
    folders = (Path(copy.path) for copy in copies(root) if copy.kind == "captures" and _is_here(copy))
    return Place(
        "captures of devices",
        lambda: (Item(item.name, item.read) for folder in folders for item in file_items(files_under(folder), root)),
        "Evergreen never changes captures: delete the image and its .json, there and on the device",
        looks=False,
    )


def own_files(root: Path, stores: Iterable[Store]) -> Place:
    """Files in the project's folder that are the user's own: they are named, never changed."""
    folders = [folder for store in stores if isinstance(folder := getattr(store, "root", None), Path)]
    return Place(
        "your own files in the project's folder",
        lambda: (Item(item.name, item.read) for item in file_items(_own(root, folders), root)),
        "these are your own files, which Evergreen never changes: delete what shows or names the image",
        looks=False,
    )


def all_places(root: Path, params: Params, releases: Releases, log: Store) -> list[Place]:
    """Every list of files, in the order of the proof."""
    places = [*records(root, releases, log), answers(root), *caches(root), workspaces(root), exports(root)]
    places += shared_by_workers(root, params)
    return [*places, captures(root), own_files(root, (releases.store, log))]


def search_places(root: Path, params: Params, releases: Releases, log: Store, search: Search) -> list[Seen]:
    """Search all of them, and git, Prefect and the backups that are known."""
    found, by_bytes = [], search.without_looks()
    for place in all_places(root, params, releases, log):
        seen = search_items(place.name, place.items(), search if place.looks else by_bytes)
        if seen.hits and place.remedy:
            seen.notes.append(place.remedy)
        found.append(seen)
    return [
        *found,
        _pointers(releases, search),
        search_prefect(root, params, search),
        search_git(root, search),
        _exports_of_models(root),
        _backups(root),
    ]


def clean_places(places: Iterable[Place], search: Search) -> int:
    """Remove every trace from `places`; how many files changed."""
    return sum(clean_items(place.items(), search) for place in places)


def runs_with_traces(root: Path, search: Search) -> list[Path]:
    """Folders of ended runs that hold a trace."""
    runs = state_dir(root) / "runs"
    found = []
    for run in sorted(runs.glob("*")):
        items = file_items(_of_runs(runs, run.name), runs)
        if any((content := item.read()) is not None and look(content, item.name, search).hits for item in items):
            found.append(run)
    return found


def _is_record(key: str) -> bool:
    return not key.startswith((*BULKY, *IMMUTABLE, "leases/"))


def _pointers(releases: Releases, search: Search) -> Seen:
    seen = search_items(
        "release store: pointers", store_items(releases.store, lambda key: key.startswith(IMMUTABLE)), search
    )
    if seen.hits:
        seen.notes.append("a reason in the release history names the image; pointers hold each other's digest and stay")
    return seen


def _backups(root: Path) -> Seen:
    """Backups are never changed: each holds what the project held when it was made. Nor is what another machine has."""
    seen = Seen("backups")
    for copy in copies(root):
        if copy.kind != "backup" and not _is_here(copy):
            seen.notes.append(f"{copy.path} on {copy.host}, exported on {copy.at}, may hold them: delete it there")
        if copy.kind == "backup":
            there = "is there" if Path(copy.path).exists() else "is not there now: it may have been moved"
            seen.notes.append(
                f"{copy.path} of {copy.at} ({there}) may hold them: make a new one and delete it. "
                "`evergreen restore` leaves out what was erased"
            )
    return seen


def _exports_of_models(root: Path) -> Seen:
    """Exports of models: none holds an image, and each may have learned from it. And captures that lie elsewhere."""
    seen = Seen("exported models, captures elsewhere")
    for copy in copies(root):
        if copy.kind == "captures" and not _is_here(copy):
            seen.notes.append(f"{copy.path} holds captures of devices and was not searched: delete the image there")
        record = Path(copy.path) / RECORD
        if copy.kind != "model" or (_is_here(copy) and not record.is_file()):
            continue
        try:
            about = read_json(record)
            what = f"{about['version']} as {about['format']}"
        except (OSError, ValueError, KeyError, TypeError):  # on another machine
            what = "a model"
        seen.notes.append(
            f"{copy.path} holds {what}, which may have been trained with them, and so do the servers and devices that "
            "run it: export a newer version in its place"
        )
    return seen


def _is_here(copy: Copy) -> bool:
    """Does the copy lie on this machine?"""
    return "://" not in copy.path and copy.host in ("", platform.node())


def _prefect_files(state: Path) -> Iterator[Path]:
    return (file for file in files_under(state / "prefect") if not file.name.startswith("prefect.db"))


def _of_runs(runs: Path, only: str = "*") -> Iterator[Path]:
    """Files of workspaces, without the code that git checked out there."""
    for run in sorted(runs.glob(only)):
        yield from (file for file in sorted(run.glob("*")) if file.is_file())
        for name in ("data", "artifacts", "metrics"):
            yield from (file for file in sorted(run.glob(f"tree/{name}/**/*")) if file.is_file())


def _exported(root: Path) -> Iterator[Path]:
    done: set[Path] = set()
    for copy in copies(root):
        path = Path(copy.path)
        if copy.kind not in CLEANED or path in done or not _is_here(copy):
            continue
        done.add(path)
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from files_under(path)


def _own(root: Path, folders: list[Path]) -> Iterator[Path]:
    """Untracked files outside of Evergreen's folders, of its stores (`folders`) and of what it exported."""
    listed = git_bytes(root, "ls-files", "--others", "-z").split(b"\0")
    exported = {path.resolve() for path in _exported(root)}
    for name in listed:
        path = root / name.decode(errors="surrogateescape")
        if not name or path.relative_to(root).parts[0] in SKIPPED or path.resolve() in exported:
            continue
        if not any(path.is_relative_to(folder) for folder in folders):
            yield path
