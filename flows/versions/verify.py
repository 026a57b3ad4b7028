"""`evergreen verify`: is every byte of every retained version there, and right?

Walked are the pointer history, each version's commit, its bundle in the release store, and every object its dvc.lock
and .dvc files name, in the DVC remote and (where it lies there) in the local cache: a damaged copy in the cache would
be served by `dvc checkout` without a word. Objects that versions share are hashed once. Files that have not changed
since they were last hashed (inode, time, size) are not read again, unless `deep`: rot on a disk leaves those alone.

Nothing is taken from an index or a listing: DVC's own `status --cloud` and `push` believe theirs, and call in sync
what was deleted.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flows.publishing import registry
from flows.repo.pipeline import open_repo
from flows.repo.remotes import forget_index, places
from flows.versions.retained import Version, outs_at, retained
from flows.versions.walk import Checked, Problem, Walk, check_history, hashes, local_files
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.common.paths import main_checkout
from tasks.releases.store import Releases, StoreDamaged, open_store


def verify(
    root: Path,
    version: str | None = None,
    *,
    deep: bool = False,
    repair: bool = False,
    step: Callable[[str], None] = lambda text: None,
) -> list[Checked]:
    """Check all retained versions, or one. `step` hears what is looked at.

    With `repair`, what has a whole copy elsewhere is put back, and everything is checked again. Raises EvergreenError
    for a version that is not there.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    found = _check(root, releases, params.bundle.name, version, deep, step)
    todo = {(p.place, p.key): p for line in found for p in line.problems if p.source} if repair else {}
    if not todo:
        return found
    repo = open_repo(root)
    try:
        for problem in todo.values():
            step(f"repairing {problem.key}")
            _repair(repo, releases, problem)
            failpoint("verify.repaired")
    finally:
        repo.close()
    return _check(root, releases, params.bundle.name, version, deep, step)


def _check(root: Path, releases: Releases, name: str, only: str | None, deep: bool, step) -> list[Checked]:
    history = check_history(releases)
    try:
        versions = retained(root, releases, name)
    except StoreDamaged:  # named by check_history; the tags tell which versions there are
        versions = [
            Version(name=v, rev=tag.rev, bundle=tag.trailer("Evergreen-Bundle"))
            for v, tag in registry.versions(root, name).items()
        ]
    if only is not None:
        versions = [found for found in versions if found.name == only]
        if not versions:
            retired = releases.retired().get(only)
            raise EvergreenError(
                f"{only} was retired on {retired['at']} by {retired['by']}: {retired['why']}"
                if retired
                else f"there is no version {only!r}: `evergreen verify` lists those that are"
            )
    lines = [] if history.ok and only else [history]
    repo = open_repo(root)
    try:
        with hashes(root, deep) as hashed:
            walk = Walk(root, repo, releases, hashed)
            here = {found.rev for found in versions if registry.has_commit(root, found.rev)}
            outs = outs_at(repo, here)
            for found in versions:
                step(found.name)
                lines.append(walk.version(found, outs.get(found.rev) if found.rev in here else None))
    finally:
        repo.close()
    return lines


# repair


def _repair(repo, releases: Releases, problem: Problem) -> None:
    """Put a whole copy in place of what is missing or damaged."""
    if problem.place == "release":
        content, store = Path(problem.source), releases.store
        if sha256_bytes(content.read_bytes()) != problem.key.removeprefix("bundles/").removeprefix(
            "objects/"
        ).removesuffix(".json"):
            return  # changed since it was hashed
        current = store.read(problem.key)
        store.swap(problem.key, content, current[1] if current else None)
        return
    cache, *remote = places(repo, problem.remote)
    if problem.place == "cache":
        _drop(cache, problem.key)  # `dvc pull` and `dvc checkout` fetch it anew
        with suppress(OSError):
            cache.add(remote[0].oid_to_path(problem.key), remote[0].fs, problem.key)
    else:
        _drop(remote[0], problem.key)
        failpoint("verify.dropped")
        remote[0].add(problem.source, local_files(), problem.key)


def _drop(odb, oid: str) -> None:
    """Remove an object, and DVC's belief that it is there."""
    if odb.fs.exists(odb.oid_to_path(oid)):
        odb.delete(oid)
    forget_index(odb)


# the command


def verify_command(root: Path, version: str | None, deep: bool, repair: bool) -> int:
    """Print the table; 1 when anything is wrong."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    with console.status("opening") as status:
        lines = verify(
            root, version, deep=deep, repair=repair, step=lambda text: status.update(f"checking {escape(text)}")
        )
    table = Table()
    for column in ("version", "objects", "bytes", "state"):
        table.add_column(column, justify="right" if column in ("objects", "bytes") else "left")
    for line in lines:
        erased = f" ({line.erased} erased on request)" if line.erased else ""
        state = f"[green]ok[/]{erased}" if line.ok else f"[red]{len(line.problems)} wrong[/]{erased}"
        table.add_row(escape(line.version), str(line.objects), f"{line.bytes:,}", state)
    console.print(table)
    told: set[str] = set()
    for line in lines:
        for problem in line.problems:
            if problem.text not in told:
                told.add(problem.text)
                console.print(
                    f"[red]{escape(line.version)}[/]: {escape(problem.text)}\n    {escape(problem.remedy)}",
                    soft_wrap=True,
                )
    return 0 if all(line.ok for line in lines) else 1
