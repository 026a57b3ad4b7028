"""Push what a checkout records to the DVC remote, and prove by hash that all of it arrived.

`dvc push` alone trusts its own index of the remote: it counts objects as present that were deleted or damaged there,
and fails on a damaged listing. So the audit decides, not the index.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flows.repo.ledger import claim_pushed
from flows.repo.odb import forget_index, load_listing
from flows.repo.outs import recorded_outs
from flows.repo.remotes import check_remotes, open_remote
from tasks.common.errors import EvergreenError
from tasks.common.paths import cache_dir

PUSHES = 2  # the usual one, and one for files that only a damaged listing names


def dvc_push(worktree: Path) -> None:
    """Bring every object that dvc.lock and the .dvc files in `worktree` record to the DVC remote, undamaged.

    What the audit finds wrong is deleted from the remote and pushed again. Raises EvergreenError if objects are still
    missing or damaged after that.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.errors import ObjectFormatError

    try:
        with _critical_only("dvc", "dvc_data"), Repo(str(worktree)) as repo:
            check_remotes(repo)
            claim_pushed(repo, recorded_outs(repo))
            for _ in range(PUSHES):
                if not (wrong := audit_remote(repo)):
                    return
                _delete_wrong(repo, wrong)
                repo.push()
            wrong = audit_remote(repo)
    except (DvcException, ObjectFormatError, OSError) as error:
        raise EvergreenError(
            f"dvc push failed: {error or type(error).__name__}. Nothing was made live; try `dvc push` in {worktree} "
            "to see more."
        ) from error
    if wrong:
        listed = "\n  ".join(sorted(wrong.values())[:20])
        raise EvergreenError(
            f"{len(wrong)} object(s) of this version did not arrive undamaged in the DVC remote:\n  {listed}\nNothing "
            f"was made live. The local cache has no undamaged copy either: remove the output in {worktree} and run its "
            "stage again."
        )


def audit_remote(repo) -> dict[tuple[str | None, str], str]:
    """(remote, object id) -> what is wrong, for every object that dvc.lock and the .dvc files of `repo` record.

    Outputs with `push: false` are skipped. Empty if the remotes hold every object with the right hash. An object is
    hashed once; later audits only check that the stored file is still the same one (see `_RemoteHashes`).
    """
    from dvc_objects.errors import ObjectFormatError

    wrong = {}
    with closing(_RemoteHashes(Path(repo.root_dir))) as hashes:
        for out in repo.index.outs:
            if not (out.use_cache and out.can_push) or out.stage.is_repo_import:
                continue
            if not out.hash_info:
                wrong[out.remote, str(out)] = f"{out}: not in dvc.lock, its stage has not run"
                continue
            odb = hashes.odb(repo, out.remote)
            if problem := hashes.problem(odb, out.hash_info.value):
                wrong[out.remote, out.hash_info.value] = f"{out}: {problem}"
            if out.hash_info.isdir:  # a listing of files; read from the cache if the remote's is damaged
                with suppress(FileNotFoundError, ObjectFormatError):
                    for path, oid in load_listing(out.cache if problem else odb, out.hash_info.value):
                        if problem := hashes.problem(odb, oid):
                            wrong[out.remote, oid] = f"{out}/{path}: {problem}"
    return wrong


class _RemoteHashes:
    """md5 of objects in DVC remotes, computed once as long as the stored file stays the same.

    A file in a folder is the same if its inode, time and size are (DVC's own record), an object in S3 if its ETag, time
    and size are.
    """

    def __init__(self, root: Path):
        from dvc_data.hashfile.cache import HashesCache
        from dvc_data.hashfile.state import State

        folder = cache_dir("audit", root)
        self._local = State(root_dir=str(root), tmp_dir=str(folder))
        self._s3 = HashesCache(str(folder / "hashes" / "s3"))
        self._odbs: dict = {}

    def close(self) -> None:
        self._local.close()
        self._s3.close()

    def odb(self, repo, remote: str | None):
        """The object database of `remote`, opened once per audit so that each audit sees its current state."""
        if remote not in self._odbs:
            self._odbs[remote] = open_remote(repo, remote)
        return self._odbs[remote]

    def problem(self, odb, oid: str) -> str | None:
        """What is wrong with object `oid`; None if it is there and has the right hash."""
        path = odb.oid_to_path(oid)
        try:
            found = self._md5(odb, path, odb.fs.info(path))
        except FileNotFoundError:
            return f"{path} is missing"
        return None if found == oid.removesuffix(".dir") else f"{path} is damaged (its md5 is {found})"

    def _md5(self, odb, path: str, info: dict) -> str:
        from dvc_data.hashfile.hash import hash_file

        if "ETag" not in info:
            return hash_file(path, odb.fs, odb.hash_name, self._local, info=info)[1].value
        key = f"{odb.fs.config.get('endpointurl') or ''} {path}"
        same = f"{info['ETag']} {info['size']} {info['LastModified']}"
        known, _, md5 = (self._s3.get(key) or "").rpartition(" ")
        if known != same:
            md5 = hash_file(path, odb.fs, odb.hash_name, info=info)[1].value
            self._s3[key] = f"{same} {md5}"
        return md5


@contextmanager
def _critical_only(*loggers: str) -> Iterator[None]:
    """Log critical messages only: DVC then draws no progress bars, which would break the run's own display."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _delete_wrong(repo, wrong: dict[tuple[str | None, str], str]) -> None:
    """Delete damaged objects from the remotes, and DVC's own record that they are there."""
    for remote in {remote for remote, _ in wrong}:
        odb = open_remote(repo, remote)
        for oid in (oid for place, oid in wrong if place == remote):
            if odb.exists(oid):
                odb.delete(oid)
        forget_index(odb)
