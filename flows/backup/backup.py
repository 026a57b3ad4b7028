"""`evergreen backup`: write the state that git does not track into one archive.

The project may be in use. Locks keep ingest, erasure, the monitor, gc and answers of people away while files are read.
The pointer of the release store is read first and the history only up to it: what it names was stored before it. Left
out is what can be made again (caches, workspaces, the Prefect server's database), and every secret: a clone gets its
own.
"""

import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from flows.backup.archive import Manifest, write_archive
from flows.erasure.occurrences import needed_objects
from flows.repo.copies import record_copies
from flows.repo.git import git
from flows.repo.pipeline import open_repo
from flows.repo.remotes import all_object_databases
from monitoring.log.production_log import Log, open_log
from tasks.common.checkout import known_checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import locked
from tasks.common.owner import owner_of
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.person import person
from tasks.common.version import VERSION
from tasks.ingest.lock import data_lock
from tasks.releases.pointer import decode
from tasks.releases.store import LIVE, Releases, open_store

SECONDS = 3600.0  # what a gc or a monitor run may take
# children of .evergreen: what can be made again, what runs now, what other parts of the archive hold, secrets
MADE_AGAIN = ("cache", "console", "runs", "spool", "flow-runs", "demo", "died", "ingest", "dvc")
ELSEWHERE = ("remote", "releases", "production")
RUNNING = ("uploads", "prefect", "services.json", "server.json", "serving.json", "holder", ".tmp", ".evidently.tmp")
SECRET = ("checkout.json", "sign-in.html", "tickets.json", "sessions.json")
LEFT_OUT = (*MADE_AGAIN, *ELSEWHERE, *RUNNING, *SECRET)
ENDINGS = (".lock", ".log", ".tmp", ".sqlite3", ".sqlite3-journal")  # tables that can be made again
LOCKS = ("lock", "flight", "notes")


def backup(
    root: Path, to: Path, *, data: bool = False, step: Callable[[str], None] = lambda text: None
) -> tuple[Path, Manifest]:
    """Write the archive `to`, or one named by project and time in the folder `to`; returns it and what it holds.

    data: also the objects of DVC that HEAD and the versions need, as far as they are on this machine. Raises
    EvergreenError if `to` exists or lies in .evergreen, or while an erasure is not complete.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    file = _target(root, to, params)
    releases, log = open_store(params.store, root), open_log(root, params)
    with ExitStack() as held:
        step("waiting for commands that change the state")
        held.enter_context(data_lock(root))
        if list((state_dir(root) / "forget").glob("*.json")):
            raise EvergreenError(
                "an erasure was killed and is not complete: run `evergreen retrain` or `evergreen forget`, "
                "which complete it, then make the backup"
            )
        (state_dir(root) / "labels").mkdir(parents=True, exist_ok=True)
        for name, what in (
            ("monitor.lock", "the monitor"),
            ("gc.lock", "a gc"),
            ("labels/lock", "the journal of labels"),
        ):
            held.enter_context(locked(state_dir(root) / name, SECONDS, what))
        left_out = _left_out(params, releases, log, data)
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="evergreen-")))
        record_copies(root, "backup", [file])
        about = {
            "evergreen": VERSION,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": person(root),
            "host": platform.node(),
            "path": str(root),
            "project": params.bundle.name,
            "checkout": owner_of(root).id,
            "head": git(root, "rev-parse", "HEAD"),
            "branch": git(root, "rev-parse", "--abbrev-ref", "HEAD"),
            "left_out": left_out,
        }
        return file, write_archive(file, _members(root, params, releases, log, scratch, data, step), about)


def _target(root: Path, to: Path, params: Params) -> Path:
    to = to.absolute()
    file = to / f"{params.bundle.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.evergreen.tar" if to.is_dir() else to
    if file.exists():
        raise EvergreenError(f"{file} exists: name a new file, or a folder")
    if file.resolve().is_relative_to(state_dir(root).resolve()):
        raise EvergreenError(f"{file} lies in {state_dir(root)}, which the backup is of: name another place")
    return file


def _left_out(params: Params, releases: Releases, log: Log, data: bool) -> list[str]:
    """What the archive does not hold, for people."""
    found = [
        "the secret of the checkout, keys and passwords: a clone gets its own",
        "the history of runs in Prefect, caches, workspaces and logs of services",
    ]
    if _folder(releases.store) is None:
        found.append(f"the release store, which is in {params.store.url}")
    if _folder(log.store) is None:
        found.append(f"the production log, which is in {params.capture.url}")
    if not data:
        found.append("images of the data set: they are in DVC's remote, or `evergreen backup --data` adds them")
    return found


def _members(
    root: Path, params: Params, releases: Releases, log: Log, scratch: Path, data: bool, step: Callable[[str], None]
) -> Iterator[tuple[str, Path | bytes]]:
    step("git")
    yield "git.bundle", _git_bundle(root, scratch)
    step("state")
    yield from _state(root)
    if (folder := _folder(releases.store)) is not None:
        step("release store")
        yield from _store(folder, releases)
    if (folder := _folder(log.store)) is not None:
        step("production log")
        yield from ((f"log/{name}", file) for name, file in _files(folder))
    if data:
        step("data")
        yield from _objects(root, params, releases)


def _git_bundle(root: Path, scratch: Path) -> Path:
    """Every branch, tag and held run, with all that they need."""
    refs = git(root, "for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags", "refs/evergreen").splitlines()
    file = scratch / "git.bundle"
    names = "".join(f"{ref}\n" for ref in refs) + "HEAD\n"
    done = subprocess.run(["git", "bundle", "create", "--quiet", str(file), "--stdin"], cwd=root, input=names,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        raise EvergreenError(f"git cannot bundle {root}: {done.stderr.strip()}")
    return file


def _state(root: Path) -> Iterator[tuple[str, Path]]:
    state = state_dir(root)
    own = known_checkout(root)
    for child in sorted(state.iterdir()):
        if child.name in LEFT_OUT or child.name.endswith(ENDINGS) or child.is_symlink():
            continue
        found = [(child.name, child)] if child.is_file() else [(f"{child.name}/{name}", f) for name, f in _files(child)]
        for name, file in found:
            if name.endswith(ENDINGS) or file.name in LOCKS or (own and _holds(file, own.secret)):
                continue
            yield f"state/{name}", file


def _holds(file: Path, secret: str) -> bool:
    """Does a small file hold the secret of the checkout?"""
    return file.stat().st_size < 1 << 20 and secret.encode() in file.read_bytes()


def _store(folder: Path, releases: Releases) -> Iterator[tuple[str, Path | bytes]]:
    """The pointer first, then the history up to it, then the rest: an object was stored before it was named."""
    found = releases.store.read(LIVE)
    live = decode(found[0], LIVE) if found else None
    if found:
        yield f"store/{LIVE}", found[0]
    for name, file in _files(folder):
        if name == LIVE or name.startswith("leases/"):
            continue
        number = Path(name).stem
        if name.startswith("pointers/") and (live is None or not number.isdecimal() or int(number) > live.seq):
            continue  # went live since
        yield f"store/{name}", file


def _objects(root: Path, params: Params, releases: Releases) -> Iterator[tuple[str, Path]]:
    """Objects of DVC that are needed and lie on this machine, from the cache or a remote in a folder."""
    repo = open_repo(root)
    try:
        places = [odb for odb in all_object_databases(repo) if odb.fs.protocol == "local"]
        for oid in sorted(needed_objects(root, params, releases)):
            for odb in places:
                file = Path(odb.oid_to_path(oid))
                if file.is_file():
                    yield f"objects/{oid}", file
                    break
    finally:
        repo.close()


def _folder(store) -> Path | None:
    """The folder of a store; None if it is in S3."""
    folder = getattr(store, "root", None)
    return folder if isinstance(folder, Path) else None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path relative to it, file) of the plain files under `folder`, without unfinished ones."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not file.is_symlink() and not any(part.startswith(".") for part in Path(name).parts):
            yield name, file
