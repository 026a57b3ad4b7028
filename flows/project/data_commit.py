"""Commit data.dvc; a commit that git refuses leaves nothing behind."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flows.repo.damage import repair_records
from flows.repo.git import git, identity_options
from flows.repo.objects import ObjectLost, open_objects, outs_at
from flows.repo.pipeline import open_repo
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, locked
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.dataset.annotation_files import annotation_batches, manifest_file
from tasks.dataset.hard_set import change_files
from tasks.dataset.shards import HARD_SET_VERSION, batches, raise_schema

WAIT = 24 * 3600.0  # seconds; a large ingest takes hours
WAITING = "waiting for another command that changes data/"


class CommitRefused(EvergreenError):
    """Git did not commit data.dvc: a hook, a rule about signing, a lock, or no identity."""


def commit_data(root: Path, message: str, *also: str) -> None:
    """Commit data.dvc and the files `also`, and nothing else that the user may have staged.

    The message also names batches that an earlier command has left uncommitted. Raises CommitRefused with git's words.
    """
    if not git(root, "status", "--porcelain", "--", "data.dvc"):
        return
    message = "; ".join([message, *_left_uncommitted(root, message)])
    known = git(root, "ls-files", "--", "data.dvc")
    try:
        if not known:
            git(root, "add", "data.dvc")
        git(root, *identity_options(root), "commit", "--quiet", "-m", message, "--only", "data.dvc", *also)
    except EvergreenError as error:
        if not known and git(root, "ls-files", "--", "data.dvc"):
            git(root, "rm", "--cached", "--quiet", "data.dvc")
        raise CommitRefused(f"git refuses the commit of data.dvc: {error}") from None


@contextmanager
def undone_if_refused(root: Path) -> Iterator[None]:
    """Put data.dvc and the files of data/ back as they were if the block ends with CommitRefused.

    The manifests of data/ are hashed first, and damaged ones replaced. Raises DamagedFile if that is not possible.
    One command at a time changes and commits data/: another waits, so that the undo of one takes nothing of the other.
    """
    record, data, state = root / "data.dvc", root / "data", state_dir(root)
    make_folder(state)
    with locked(state / "data.lock", WAIT, f"the data set of {root}", lambda: print(WAITING)):
        before = record.read_bytes() if record.is_file() else None
        here = set(data.rglob("*"))
        if before is not None and data.is_dir():
            _repair_records(root)
        try:
            yield
        except CommitRefused as error:
            _put_back(record, before, sorted(set(data.rglob("*")) - here))
            raise CommitRefused(
                f"{error}. Nothing was taken, and data.dvc is as it was: repair what git complains about and run the "
                "same command again, or let --no-commit leave the commit to you."
            ) from None


def _repair_records(root: Path) -> None:
    """Else data.dvc would record a damaged manifest as what was ingested."""
    from dvc.exceptions import DvcException

    # what DVC cannot read, or a full disk, the command itself says later
    with suppress(DvcException, sqlite3.Error), closing(open_repo(root)) as repo:
        repair_records(repo)
    if change_files(root / "data"):  # a killed change of the hard set had raised the schema before it was recorded
        raise_schema(root / "data", HARD_SET_VERSION)


def _put_back(record: Path, before: bytes | None, new: list[Path]) -> None:
    # manifests first: without one, a shard does not count
    for file in sorted(new, key=lambda path: path.parent.name != "batches"):
        if file.is_file():
            file.unlink()
    if before is None:
        record.unlink(missing_ok=True)
        return
    with atomic_path(record, tracked=True) as temporary:
        temporary.write_bytes(before)


def _left_uncommitted(root: Path, message: str) -> list[str]:
    """What to say of each batch that neither HEAD's data nor `message` names."""
    try:
        committed = outs_at(root, "HEAD").get("data")
    except EvergreenError:  # no commit yet
        return []
    if committed is None:
        return []
    with open_objects(root) as objects:
        try:
            listed = objects.files(committed)
        except ObjectLost:
            return []
    data = root / "data"
    images = [one for one in batches(data) if f"batches/{one.seq:06d}-{one.batch}.json" not in listed]
    answers = [
        one for one in annotation_batches(data) if manifest_file(data, one).relative_to(data).as_posix() not in listed
    ]
    named = message + " ".join(one.batch for one in images)  # an ingest's labels go with its images
    return [
        *(f"batch {one.batch} of {one.rows} images, taken before" for one in images if one.batch not in message),
        *(f"batch {one.batch} of {one.rows} labels, taken before" for one in answers if one.batch not in named),
    ]
