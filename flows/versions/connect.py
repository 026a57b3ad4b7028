"""`evergreen connect`: make a clone go on where another checkout works, and say what is missing.

Releases and data lie next to the first checkout, in .evergreen/releases and .evergreen/remote, unless `store.url` in
params.yaml names S3. A clone has neither. So `connect PLACE` links both to a folder that several checkouts reach; a
clone of a folder on this machine finds that folder's own. Then git's refs of releases are fetched, the data of HEAD is
restored, and the live version's dvc.lock is written, which lets a plain `dvc pull` succeed.

Nothing that this checkout has is replaced.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from flows.publishing import registry
from flows.repo.git import git
from flows.repo.ledger import claim_pulled
from flows.repo.objects import file_at
from flows.repo.outs import recorded_outs
from flows.repo.pipeline import open_repo, restore_data
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.params import load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.private import make_folder
from tasks.releases.pointer import Pointer
from tasks.releases.store import open_store

PARTS = ("releases", "remote")  # of .evergreen
ELSEWHERE = (
    "releases and data lie in .evergreen of the first checkout, which this one cannot reach. There, either set "
    "store.url in params.yaml to s3://bucket/prefix and commit it (docs/s3.md says how to move what exists), or move "
    ".evergreen/releases and .evergreen/remote into a folder that both machines reach and run "
    "`evergreen connect FOLDER` on both"
)


class Found(Frozen):
    """One part of a working checkout: is it there, and what is to do if not."""

    part: str
    ok: bool
    text: str


def connect(root: Path, place: Path | None = None, say: Callable[[str], None] = lambda text: None) -> list[Found]:
    """Connect the checkout at `root` with `place`, a folder that holds releases/ and remote/; None: find it.

    Returns what is there and what is missing. Raises EvergreenError if `place` is not such a folder, or if this
    checkout has releases or data of its own.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    found = []
    if params.store.url.startswith("s3://"):
        if place is not None:
            raise EvergreenError(f"store.url in params.yaml is {params.store.url}: releases and data lie there already")
        found.append(Found(part="place", ok=True, text=params.store.url))
    else:
        found.append(_place(root, place))
    say("fetching releases")
    found.append(_fetched(root))
    live = open_store(params.store, root).live() if found[0].ok else None
    found.append(_live(root, live, found[0].ok))
    say("restoring data")
    found.append(_data(root))
    found.append(_lock(root, live))
    return found


def _place(root: Path, place: Path | None) -> Found:
    """Link .evergreen/releases and .evergreen/remote to `place`."""
    state = state_dir(root)
    own = [name for name in PARTS if (state / name).is_symlink() or _has_files(state / name)]
    if place is None:
        if own:
            return Found(part="place", ok=True, text=f"{(state / own[0]).resolve().parent}")
        place = _origin_state(root)
        if place is None:
            return Found(part="place", ok=False, text=ELSEWHERE)
    place = place.expanduser().resolve()
    if (place / ".evergreen").is_dir():
        place = place / ".evergreen"
    if not any((place / name).is_dir() for name in PARTS):
        raise EvergreenError(
            f"{place} holds neither releases/ nor remote/: expected the folder into which the first checkout's "
            ".evergreen/releases and .evergreen/remote were moved, or a project with its .evergreen"
        )
    if place == state.resolve():
        raise EvergreenError(f"{place} is this checkout's own: name the folder of another one")
    for name in own:
        if (state / name).resolve() != place / name:
            raise EvergreenError(
                f"{state / name} exists ({(state / name).resolve()}): this checkout has releases or data of its own, "
                f"which are not replaced. Move them into {place} if they belong there, or elsewhere, and start again"
            )
    make_folder(state)
    for name in PARTS:
        make_folder(place / name)
        if not (state / name).is_symlink():
            if (state / name).is_dir():
                _remove_empty(state / name)
            (state / name).symlink_to(place / name)
    return Found(part="place", ok=True, text=f"{place} (linked in {state})")


def _has_files(folder: Path) -> bool:
    """Does the folder hold more than what opening an empty store leaves?"""
    return folder.is_dir() and any(path.is_file() and path.name != ".lock" for path in folder.rglob("*"))


def _remove_empty(folder: Path) -> None:
    (folder / ".lock").unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()


def _origin_state(root: Path) -> Path | None:
    """.evergreen of the checkout on this machine that this one was cloned from, if it has releases or data."""
    if "origin" not in git(root, "remote").split():
        return None
    url = git(root, "remote", "get-url", "origin").removeprefix("file://")
    folder = root / url
    if "://" in url or not (folder / ".git").exists():
        return None
    state = main_checkout(folder.resolve()) / ".evergreen"
    return state if any(_has_files(state / name) for name in PARTS) else None


def _fetched(root: Path) -> Found:
    """Fetch the branch releases, all tags and held runs from origin: a clone has only remote branches."""
    if "origin" not in git(root, "remote").split():
        return Found(part="git", ok=True, text="no remote origin: nothing to fetch")
    try:
        git(root, "fetch", "--quiet", "--tags", "origin")
        releases = "+refs/heads/releases*:refs/remotes/origin/releases*"  # a pattern: there may be none yet
        git(root, "fetch", "--quiet", "origin", releases, f"+{registry.HELD}/*:{registry.HELD}/*")
    except EvergreenError as error:
        return Found(part="git", ok=False, text=f"origin cannot be fetched: {error}")
    theirs = git(root, "for-each-ref", "--format=%(objectname)", "refs/remotes/origin/releases")
    if not theirs:
        return Found(part="git", ok=True, text="origin has no branch releases yet")
    ours = git(root, "for-each-ref", "--format=%(objectname)", registry.BRANCH)
    if not ours or git(root, "merge-base", ours, theirs) == ours:
        git(root, "update-ref", registry.BRANCH, theirs, ours or "0" * len(theirs))
    return Found(part="git", ok=True, text="branch releases, tags and held runs are those of origin")


def _live(root: Path, live: Pointer | None, reached: bool) -> Found:
    if not reached:
        return Found(part="live", ok=False, text="unknown, as long as the releases cannot be reached")
    if live is None:
        return Found(part="live", ok=True, text="nothing has been released yet")
    if not registry.has_commit(root, live.git_rev):
        refs = f"releases --tags '{registry.HELD}/*:{registry.HELD}/*'"
        text = f"{live.version} is live, but its commit {live.git_rev[:12]} is not here"
        return Found(part="live", ok=False, text=f"{text}: run `git push origin {refs}` where it was published")
    return Found(part="live", ok=True, text=f"{live.version} since {live.at:%Y-%m-%d %H:%M} UTC")


def _data(root: Path) -> Found:
    if not (root / "data.dvc").is_file():
        return Found(part="data", ok=False, text="HEAD has no data.dvc: run `evergreen ingest FOLDER` first")
    with closing(open_repo(root)) as repo:
        try:
            if not (root / "data/dataset.json").is_file():
                restore_data(repo)
            claim_pulled(repo, recorded_outs(repo))
        except EvergreenError:
            text = (
                "the data of HEAD is neither in the cache nor in the DVC remote. It was ingested elsewhere and not "
                "released since: run `dvc push data.dvc` there, then `evergreen connect` here"
            )
            return Found(part="data", ok=False, text=text)
    shards = len(list((root / "data").glob("*.parquet")))
    return Found(part="data", ok=True, text=f"data/ is here as HEAD records it ({shards} shard(s))")


def _lock(root: Path, live: Pointer | None) -> Found:
    """Write the live version's dvc.lock: without one, `dvc pull` fails for every stage that it has no hash of."""
    file = root / "dvc.lock"
    if file.is_file():
        return Found(part="dvc.lock", ok=True, text="is here; `dvc pull` also fetches what the stages made")
    text = file_at(root, live.git_rev, "dvc.lock") if live and registry.has_commit(root, live.git_rev) else None
    if text is None:
        return Found(part="dvc.lock", ok=True, text="no release is here: `dvc pull data.dvc` fetches all that there is")
    with atomic_path(file, tracked=True) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return Found(part="dvc.lock", ok=True, text=f"of {live.version}; `dvc pull` also fetches what its stages made")


def connect_command(root: Path, place: Path | None) -> int:
    """Print what is there and what is missing. Returns 1 if something is missing."""
    from rich.console import Console

    console = Console()
    with console.status("looking") as status:
        found = connect(root, place, say=lambda text: status.update(text))
    for line in found:
        state = "ok" if line.ok else "missing"
        console.print(f"{line.part + ':':<10}{state:<8} {line.text}", soft_wrap=True, markup=False, highlight=False)
    missing = [line.part for line in found if not line.ok]
    end = f"not ready: {', '.join(missing)}" if missing else "ready: `evergreen status`, `evergreen retrain` go on here"
    console.print(end, markup=False, highlight=False)
    return 1 if missing else 0
