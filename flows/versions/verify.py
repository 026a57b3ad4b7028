"""`evergreen verify`: check that every byte of every retained version is there and undamaged.

It checks the pointer history, each version's commit, its bundle in the release store, and every object that its
dvc.lock and .dvc files record. Objects are checked in the DVC remote and, if present, in the local cache, because
`dvc checkout` would silently use a damaged copy from there. Objects that versions share are hashed once. Files that
have not changed since they were last hashed (inode, time, size) are not read again, unless `deep`: a failing disk
changes bytes and none of these. `deep` also hashes what no version holds: the checkout's own data/, the production log,
the workspaces of runs and the caches (flows.versions.here).

No index is trusted. DVC's own `status --cloud` and `push` trust theirs, and report deleted objects as in sync.
"""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from flows.publishing import registry
from flows.repo.odb import add_local_file, copy_object, delete_object, remembered_hashes
from flows.repo.outs import recorded_outs_of
from flows.repo.pipeline import open_repo
from flows.repo.remotes import object_databases
from flows.versions.checker import Checked, Problem, VersionChecker, check_history
from flows.versions.here import check_here, repair_here
from flows.versions.retained import Version, retained
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
    """Check all retained versions, or one; `step` receives what is being checked.

    With `repair`, what has an undamaged copy elsewhere is restored, and everything is checked again. Raises
    EvergreenError for a version that does not exist.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)

    def check() -> list[Checked]:
        lines = _check(root, releases, params.bundle.name, version, deep, step)
        return lines + (check_here(root, params, step) if deep and version is None else [])

    found = check()
    todo = {(p.place, p.key): p for line in found for p in line.problems if p.source} if repair else {}
    if not todo:
        return found
    repo = open_repo(root)
    try:
        for problem in todo.values():
            step(f"repairing {problem.key}")
            if not repair_here(repo, problem):
                _repair(repo, releases, problem)
            failpoint("verify.repaired")
    finally:
        repo.close()
    return check()


def _check(root: Path, releases: Releases, name: str, only: str | None, deep: bool, step) -> list[Checked]:
    history = check_history(releases)
    try:
        versions = retained(root, releases, name)
    except StoreDamaged:  # check_history reports it; the tags say which versions there are
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
                else f"there is no version {only!r}: `evergreen verify` lists the versions"
            )
    lines = [] if history.ok and only else [history]
    repo = open_repo(root)
    try:
        with nullcontext() if deep else remembered_hashes(root) as remembered:
            checker = VersionChecker(root, repo, releases, remembered)
            here = {found.rev for found in versions if registry.has_commit(root, found.rev)}
            outs = recorded_outs_of(repo, here)
            for found in versions:
                step(found.name)
                lines.append(checker.check(found, outs.get(found.rev) if found.rev in here else None))
    finally:
        repo.close()
    return lines


# repair


def _repair(repo, releases: Releases, problem: Problem) -> None:
    """Restore what is missing or damaged from an undamaged copy."""
    if problem.place == "release":
        content, store = Path(problem.source), releases.store
        if sha256_bytes(content.read_bytes()) != problem.key.removeprefix("bundles/").removeprefix(
            "objects/"
        ).removesuffix(".json"):
            return  # changed since it was hashed
        current = store.read(problem.key)
        store.swap(problem.key, content, current[1] if current else None)
        return
    cache, *remote = object_databases(repo, problem.remote)
    if problem.place == "cache":
        delete_object(cache, problem.key)  # if the copy fails, `dvc pull` and `dvc checkout` fetch it
        with suppress(OSError):
            copy_object(problem.key, remote[0], cache)
    else:
        delete_object(remote[0], problem.key)
        failpoint("verify.dropped")
        add_local_file(remote[0], problem.source, problem.key)


# the command


def verify_command(root: Path, version: str | None, deep: bool, repair: bool) -> int:
    """Print the table of versions; the exit code is 1 if anything is wrong."""
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
    printed: set[str] = set()
    for line in lines:
        for problem in line.problems:
            if problem.text not in printed:
                printed.add(problem.text)
                console.print(
                    f"[red]{escape(line.version)}[/]: {escape(problem.text)}\n    {escape(problem.remedy)}",
                    soft_wrap=True,
                )
    return 0 if all(line.ok for line in lines) else 1
