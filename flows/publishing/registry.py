"""Record in git which versions exist and which was live when, as GTO defines it.

    releases                     one commit per release: params, dvc.lock, metrics, data.dvc, tombstones of its run
    <name>@v0.2.0                a version; its message names the bundle
    <name>#prod#7                the version of this commit went live; its message names the pointer
    refs/evergreen/held/<run>    the commit of a held run

All of it is derived from the release store and can be completed after a kill. Nothing touches the user's checkout,
index or branches: commits are made from a temporary index, and the branch moves by compare-and-swap.
"""

import random
import re
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from flows.repo.git import git, git_bytes, identity_options
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.text import single_spaced
from tasks.releases.pointer import Pointer

BRANCH = "refs/heads/releases"
HELD = "refs/evergreen/held"
RECORDED = ("params.yaml", "dvc.yaml", "dvc.lock", "data.dvc", "tombstones.json", "metrics")  # what a run may change
FIRST = "v0.1.0"
RACES = 50  # each lost race means that another run succeeded; this many in a row have another cause
TAG_TRIES = 10  # while another process holds the tag's lock


class Tag(Frozen):
    """A tag of the registry. Evergreen and GTO count annotated tags only: a lightweight one just takes a name."""

    name: str  # without refs/tags/
    rev: str  # the commit
    at: int  # seconds since 1970; 0: lightweight
    message: str

    def trailer(self, key: str) -> str | None:
        """The value of the message's line "<key>: <value>"."""
        found = re.findall(rf"^{key}: (\S+)$", self.message, re.MULTILINE)
        return found[-1] if found else None


def check_branch(root: Path) -> None:
    """Raise EvergreenError if Evergreen must not move the branch `releases`.

    That is so if it is checked out (the user's files would no longer match HEAD), or if the user made it.
    """
    for entry in git(root, "worktree", "list", "--porcelain").split("\n\n"):
        lines = entry.splitlines()
        if f"branch {BRANCH}" in lines:
            raise EvergreenError(
                f"the branch releases is checked out in {lines[0].removeprefix('worktree ')}, and Evergreen commits to "
                "it: switch that checkout to another branch (`git switch --detach` leaves the files as they are)"
            )
    if _tip(root) and not git(root, "log", "-1", "--format=%H", "--grep=^Evergreen-Bundle: ", BRANCH):
        raise EvergreenError(
            "the branch releases was not made by Evergreen, which records its releases under that name: "
            "rename yours (`git branch -m releases another-name`)"
        )


def commit_release(worktree: Path, message: str, bundle: str) -> str:
    """Commit what the run in `worktree` recorded to the `releases` branch; returns the commit.

    Its tree is the run's HEAD with the files of RECORDED as they are now. Its parents are the branch's tip and the
    run's HEAD. If a killed run has committed the same bundle and files already, that commit is returned.
    """
    check_branch(worktree)
    head = git(worktree, "rev-parse", "HEAD")
    tree = recorded_tree(worktree)
    text = f"{message.strip()}\n\nEvergreen-Bundle: {bundle}\n"
    error = None
    for _ in range(RACES):
        tip = _tip(worktree)
        if tip and (known := _commit_of(worktree, tip, bundle, tree)):
            return known
        parents = [f"-p{parent}" for parent in dict.fromkeys([tip, head]) if parent]
        commit = git(worktree, *identity_options(worktree), "commit-tree", tree, *parents, "-m", text)
        try:
            git(worktree, "update-ref", "-m", "evergreen: release", BRANCH, commit, tip or "0" * len(commit))
            return commit
        except EvergreenError as refused:  # another run was first or holds the ref's lock, or git cannot write
            error = refused
            time.sleep(random.uniform(0, 0.05))
    raise error


def commit_held(worktree: Path, message: str, bundle: str, ref: str) -> str:
    """Commit what the run in `worktree` recorded, under `ref` and outside any branch; returns the commit.

    The content is that of `commit_release`. Only the ref keeps git's gc from deleting it.
    """
    head, tree = git(worktree, "rev-parse", "HEAD"), recorded_tree(worktree)
    text = f"{message.strip()}\n\nEvergreen-Bundle: {bundle}\n"
    commit = git(worktree, *identity_options(worktree), "commit-tree", tree, f"-p{head}", "-m", text)
    git(worktree, "update-ref", "-m", "evergreen: held", ref, commit)
    return commit


def has_commit(root: Path, rev: str) -> bool:
    """Does this repository have commit `rev`?"""
    try:
        git(root, "cat-file", "-e", f"{rev}^{{commit}}")
        return True
    except EvergreenError:
        return False


def _tip(root: Path) -> str:
    return git(root, "for-each-ref", "--format=%(objectname)", BRANCH)


def recorded_tree(worktree: Path, extra: Mapping[str, str] | None = None) -> str:
    """Write git's tree of HEAD in `worktree`, with the files of RECORDED as they are now; returns its id.

    extra: path -> text of files that only the tree gets.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(worktree, "read-tree", "HEAD", env=env)
        tracked = {path.split("/")[0] for path in git(worktree, "ls-files", "--", *RECORDED, env=env).splitlines()}
        paths = [name for name in RECORDED if (worktree / name).exists() or name in tracked]
        git(worktree, "add", "--all", "--force", "--", *paths, env=env)
        for path, text in (extra or {}).items():
            blob = git_bytes(worktree, "hash-object", "-w", "--stdin", stdin=text.encode()).decode().strip()
            git(worktree, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
        return git(worktree, "write-tree", env=env)


def _commit_of(root: Path, tip: str, bundle: str, tree: str) -> str | None:
    """The newest release commit of `bundle` if its tree is `tree`, else None."""
    found = git(root, "log", "-1", "--first-parent", "--format=%H %T", f"--grep=^Evergreen-Bundle: {bundle}$", tip)
    commit, _, found_tree = found.partition(" ")
    return commit if found_tree == tree else None


def versions(root: Path, name: str) -> dict[str, Tag]:
    """Version -> its tag, oldest version first (v0.9.0 before v0.10.0)."""
    found = {tag.name.removeprefix(f"{name}@"): tag for tag in _tags(root, f"{name}@v*")}
    plain = [version for version, tag in found.items() if tag.at and _numbers(version)]
    return {version: found[version] for version in sorted(plain, key=_numbers)}


def next_version(known: Collection[str]) -> str:
    """The version after the highest of `known`."""
    numbers = [found for version in known if (found := _numbers(version))]
    if not numbers:
        return FIRST
    major, minor, _ = max(numbers)
    return f"v{major}.{minor + 1}.0"


def version_of(known: dict[str, Tag], bundle: str) -> str | None:
    """The version among `known` (see `versions`) that was registered for `bundle`."""
    return next((v for v, tag in known.items() if tag.trailer("Evergreen-Bundle") == bundle), None)


def register(
    root: Path,
    name: str,
    rev: str,
    message: str,
    bundle: str,
    taken: Collection[str] = (),
    reserved: str | None = None,
) -> tuple[str, Tag]:
    """The version of `bundle`: the one that a killed run registered, else the next one, tagged now at `rev`.

    `taken` are versions known from elsewhere (the store's history: a fresh clone may lack tags). `reserved` is the
    version under which the bundle has answered in a rollout; it is used unless it is taken. Two runs never make two
    versions of one bundle: the same list of tags answers "is there one" and "which is next", and a version can be
    tagged only once.
    """
    for _ in range(RACES):
        known = versions(root, name)
        if version := version_of(known, bundle):
            return version, known[version]
        text = f"{message.strip()}\n\nEvergreen-Bundle: {bundle}\n"
        version = reserved if reserved and reserved not in (*known, *taken) else next_version([*known, *taken])
        if not _make_tag(root, f"{name}@{version}", rev, text):
            taken = [*taken, version]  # by another run, as the next iteration sees, or by a lightweight tag
    raise EvergreenError(f"{RACES} versions of {name} were registered by others while this run tried to: try again")


def assign_prod(root: Path, name: str, pointer: Pointer) -> bool:
    """Make the stage tag of `pointer`, which says that its version went live; False if the tag exists.

    Raises EvergreenError if this repository does not have the version's commit.
    """
    for _ in range(RACES):
        stages = _tags(root, f"{name}#*")
        if any(tag.at and tag.trailer("Evergreen-Pointer") == pointer.uid for tag in stages):
            return False
        counters = [tag.name.rpartition("#")[2] for tag in stages]
        number = 1 + max((int(counter) for counter in counters if counter.isdecimal()), default=0)
        # GTO sorts by the tags' whole seconds: two promotions within one second must keep their order
        at = max(int(pointer.at.timestamp()), 1 + max((tag.at for tag in stages), default=0))
        text = f"{pointer.version} went live: {single_spaced(pointer.why)}\n\nEvergreen-Seq: {pointer.seq}\n"
        text += f"Evergreen-Pointer: {pointer.uid}\n"
        if _make_tag(root, f"{name}#prod#{number}", pointer.git_rev, text, at):
            return True
    raise EvergreenError(f"{RACES} stage tags of {name} were made by others while this run tried to: try again")


def last_assigned(root: Path, name: str) -> int:
    """The number of the last promotion that has a stage tag; 0 before the first."""
    seqs = [tag.trailer("Evergreen-Seq") for tag in _tags(root, f"{name}#prod#*") if tag.at]
    return max((int(seq) for seq in seqs if seq and seq.isdecimal()), default=0)


def _tags(root: Path, pattern: str) -> list[Tag]:
    """Tags whose name matches `pattern` (a shell pattern), with the commit each points at."""
    fields = "%(refname:lstrip=2)%00%(*objectname)%00%(taggerdate:unix)%00%(contents)%00%01"
    listing = git(root, "for-each-ref", f"--format={fields}", f"refs/tags/{pattern}")
    rows = [row.lstrip("\n").split("\0") for row in listing.split("\0\1") if row.strip()]
    return [Tag(name=n, rev=rev, at=int(at or 0), message=text) for n, rev, at, text in rows]


def _make_tag(root: Path, name: str, rev: str, message: str, at: int | None = None) -> bool:
    """Make an annotated tag; False if a tag of that name exists."""
    env = {"GIT_COMMITTER_DATE": f"@{at} +0000"} if at else None
    options = ["--annotate", "--no-sign", "--cleanup=whitespace", "-m", message]
    error = None
    for _ in range(TAG_TRIES):
        try:
            git(root, *identity_options(root), "tag", *options, name, f"{rev}^{{commit}}", env=env)
            return True
        except EvergreenError as refused:
            if git(root, "for-each-ref", f"refs/tags/{name}"):
                return False
            error = refused  # another run is making it right now (it has the lock), or git cannot write
            time.sleep(random.uniform(0, 0.1))
    raise error


def _numbers(version: str) -> tuple[int, ...]:
    """(major, minor, patch) of a version such as v0.2.0; empty for anything else."""
    found = re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(number) for number in found.groups()) if found else ()
