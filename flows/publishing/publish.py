"""Publication: make a judged bundle the one that is live, so that a kill at any point leaves before or after.

    1  upload the bundle's immutable objects      nothing points at them yet
    2  read them back and hash
    3  commit the run's lock to `releases`, push DVC's objects, audit them, tag the version
    4  compare-and-swap the pointer               the one commit point
    5  stage tag                                  derived from the pointer, completed by `reconcile`

Everything before 4 may be repeated and is found again by the bundle's digest; everything after it follows from
the pointer.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flows.publishing import registry
from flows.repo.remotes import check_remotes, forget_index, open_remote
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_file
from tasks.common.paths import cache_dir
from tasks.releases.store import Pointer, PointerMoved, Releases, StoreDamaged, successor

PUSHES = 2  # the usual one, and one for files that only a damaged listing names


def publish(
    worktree: Path,
    releases: Releases,
    *,
    name: str,
    run_id: str,
    bundle_dir: Path,
    why: str,
    by: str,
    expected: Pointer | None,
    push: Callable[[], None],
) -> Pointer:
    """Make the bundle in `bundle_dir` live in place of `expected`, which it was judged against.

    `push` sends the data and models that the run's dvc.lock names to the DVC remote and raises unless all of
    them are there (`dvc_push`). Returns the new pointer, or the live one when that is this very bundle already.
    Raises PointerMoved when another run was first: judge again.
    """
    failpoint("publish.start")
    digest = sha256_file(bundle_dir / "MANIFEST.json")
    live = releases.live()
    if live is not None and live.bundle == digest:
        return live
    if (live and live.uid) != (expected and expected.uid):
        raise PointerMoved(live)
    if releases.put_bundle(bundle_dir) != digest:
        raise EvergreenError(f"{bundle_dir} changed while it was published: nothing was made live, start the run again")
    failpoint("publish.uploaded")
    releases.audit_bundle(digest)
    failpoint("publish.audited")
    message = f"Release {name} of run {run_id}\n\n{why}"
    known = registry.versions(worktree, name)
    version = registry.version_of(known, digest)
    rev = known[version].rev if version else registry.commit_release(worktree, message, digest)
    failpoint("publish.committed")
    push()
    failpoint("publish.pushed")
    taken = [pointer.version for pointer in releases.history()]
    version, tag = registry.register(worktree, name, rev, message, digest, taken)
    failpoint("publish.registered")
    pointer = releases.promote(
        successor(expected, version=version, run_id=run_id, git_rev=tag.rev, bundle=digest, by=by, why=why)
    )
    failpoint("publish.promoted")
    assign_stages(worktree, releases, name)
    failpoint("publish.assigned")
    return pointer


def assign_stages(root: Path, releases: Releases, name: str) -> list[str]:
    """Give every promotion since the last tagged one its stage tag, in order; what was done."""
    live = releases.live()
    done = []
    for seq in range(registry.last_assigned(root, name) + 1, live.seq + 1 if live else 0):
        pointer = live if seq == live.seq else releases.promoted(seq)
        if pointer is None:
            raise StoreDamaged(f"promotion {seq} is missing from the history in the release store: restore pointers/")
        if not registry.has_commit(root, pointer.git_rev):
            done.append(
                f"promotion {seq} ({pointer.version}) has no stage tag here: this repository lacks its commit "
                f"{pointer.git_rev[:12]}; fetch the branch releases and the tags from where it was published"
            )
        elif registry.assign_prod(root, name, pointer):
            done.append(f"tagged {pointer.version} as live (promotion {seq})")
    return done


def reconcile(root: Path, releases: Releases, name: str) -> list[str]:
    """Complete what a killed run left, at the start of the next: its record in the history, its stage tag, its
    unfinished uploads. `root` is any checkout of the repository. Returns what was done."""
    done = []
    if (live := releases.live()) is not None and releases.record(live):
        done.append(f"recorded promotion {live.seq} ({live.version}) in the history")
    done += assign_stages(root, releases, name)
    if removed := releases.sweep():
        done.append(f"removed {removed} unfinished upload(s)")
    return done


def dvc_push(worktree: Path) -> None:
    """Bring every object that dvc.lock and the .dvc files in `worktree` name to the DVC remote, whole.

    `dvc push` alone believes its own index of the remote, takes for present what was deleted or damaged there, and
    dies of a damaged listing. So the audit decides: what it finds wrong is removed and pushed, until nothing is.
    Raises EvergreenError when something stays wrong.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.errors import ObjectFormatError

    try:
        with _quiet("dvc", "dvc_data"), Repo(str(worktree)) as repo:
            check_remotes(repo)
            for _ in range(PUSHES):
                if not (wrong := audit_remote(repo)):
                    return
                _forget(repo, wrong)
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
            f"{len(wrong)} object(s) of this version do not arrive whole in the DVC remote:\n  {listed}\nNothing was "
            f"made live. The local cache does not hold them whole either: remove the output in {worktree} and run its "
            "stage again."
        )


def audit_remote(repo) -> dict[tuple[str | None, str], str]:
    """(remote, object) -> what is wrong, for every object of the DVC remote that dvc.lock and the .dvc files of
    `repo` name (stages with `push: false` aside). Empty when all are there and have the right hash.

    An object is hashed once; later audits compare what its place tells of it (`_Hashes`) with then.
    """
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    wrong = {}
    with closing(_Hashes(Path(repo.root_dir))) as hashes:
        for out in repo.index.outs:
            if not (out.use_cache and out.can_push) or out.stage.is_repo_import:
                continue
            if not out.hash_info:
                wrong[out.remote, str(out)] = f"{out}: not in dvc.lock, its stage has not run"
                continue
            odb = hashes.odb(repo, out.remote)
            if problem := hashes.problem(odb, out.hash_info.value):
                wrong[out.remote, out.hash_info.value] = f"{out}: {problem}"
            if out.hash_info.isdir:  # a listing of files; the cache's, where the remote's is not whole
                with suppress(FileNotFoundError, ObjectFormatError):
                    for key, _, entry in Tree.load(out.cache if problem else odb, out.hash_info):
                        if problem := hashes.problem(odb, entry.value):
                            wrong[out.remote, entry.value] = f"{out}/{'/'.join(key)}: {problem}"
    return wrong


class _Hashes:
    """md5 of objects of DVC remotes, each computed once while its place says that it is the same file: by inode, time
    and size in a folder (DVC's own state), by ETag, time and size in S3."""

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
        """The objects of `remote`: looked at anew in each audit, and once in it."""
        if remote not in self._odbs:
            self._odbs[remote] = open_remote(repo, remote)
        return self._odbs[remote]

    def problem(self, odb, oid: str) -> str | None:
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
def _quiet(*loggers: str) -> Iterator[None]:
    """DVC draws its progress bars unless only critical messages are wanted; they break the flow's own display."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _forget(repo, wrong: dict[tuple[str | None, str], str]) -> None:
    """Remove damaged objects from the remotes, and DVC's belief that they are there."""
    for remote in {remote for remote, _ in wrong}:
        odb = open_remote(repo, remote)
        for oid in (oid for place, oid in wrong if place == remote):
            if odb.exists(oid):
                odb.delete(oid)
        forget_index(odb)
