"""`evergreen upgrade`: newer Evergreen code, without losing what the user changed.

A project runs its own copy of the code. The upgrade is a three-way merge: Evergreen's code as the project got it, the
project's code now, Evergreen's code now. Without conflicts it is one commit, so one `git revert` undoes it. Data, logs
and releases are not touched: each format has a version number, and readers accept every earlier one.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flows.project import origin
from flows.project.merge import File, Step, merge_code
from flows.project.moves import moved_to, old_names
from flows.project.params_upgrade import Migrated, migrate_params
from flows.repo.git import git, git_bytes, identity_options
from flows.repo.run_inputs import stage_dependencies
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.releases.store import open_store

UNDER_WAY = {  # file in .git -> (what goes on, how it ends)
    "MERGE_HEAD": ("a merge", "`git merge --continue` or `git merge --abort`"),
    "CHERRY_PICK_HEAD": ("a cherry-pick", "`git cherry-pick --continue` or `--abort`"),
    "REVERT_HEAD": ("a revert", "`git revert --continue` or `--abort`"),
    "rebase-merge": ("a rebase", "`git rebase --continue` or `--abort`"),
    "rebase-apply": ("a rebase", "`git rebase --continue` or `--abort`"),
    "BISECT_LOG": ("a bisection", "`git bisect reset`"),
}
CODE = ("tasks/", "flows/", "monitoring/", "serving/")
SEARCHED = (".py", ".yaml", ".yml", ".toml", ".sh", ".cfg", ".md", "Makefile")  # files of the user
TEXT_BYTES = 1 << 20  # larger files of the user are not searched for old names


class Stale(NamedTuple):
    """A line of the user's that names a module or file by its old name."""

    path: str
    line: int
    old: str
    new: str


class Plan(NamedTuple):
    """Everything an upgrade would do; `apply` does it."""

    root: Path
    old: str  # version of the project's Evergreen
    new: str
    template: str | None  # commit of the new Evergreen
    steps: list[Step]
    params: Migrated | None  # None: params.yaml stays
    own: list[str]  # files of the user among Evergreen's folders
    stale: list[Stale]
    stages: list[str]  # that run again, in order
    seconds: float | None  # of the longest recorded run; None: no run is recorded
    entries: dict[str, File]  # the project's files afterwards; blobs not yet written have the id ""
    texts: dict[str, bytes]  # of those

    @property
    def conflicts(self) -> list[Step]:
        return [step for step in self.steps if step.kind == "conflict"]

    @property
    def nothing(self) -> bool:
        return not self.steps and not (self.params and self.params.changes) and self.old == self.new


def check_project(root: Path, source: Path) -> None:
    """Raise EvergreenError where `root` cannot be upgraded with the code in `source`, saying what to do first."""
    root, source = root.resolve(), source.resolve()
    if root == source:
        raise EvergreenError(
            f"{root} holds the very code that runs this command. Run it from a newer Evergreen: "
            "`evergreen upgrade --from CHECKOUT`, where CHECKOUT is a clone of Evergreen. To get a newer clone of "
            "Evergreen itself, use `git pull`."
        )
    top = Path(git(root, "rev-parse", "--show-toplevel")).resolve()
    if top != root:
        raise EvergreenError(
            f"{root} is part of the git repository {top}: an upgrade needs the project to be one itself"
        )
    for name, (what, end) in UNDER_WAY.items():
        if (root / git(root, "rev-parse", "--git-path", name)).exists():
            raise EvergreenError(f"{what} is under way in {root}: end it first ({end}), then upgrade")
    if git(root, "ls-files", "--unmerged"):
        raise EvergreenError(
            f"conflicts in {root} wait for you (`git status` lists them): resolve them, `git add` each, `git commit`. "
            "Or give up with `git reset --hard`. Then upgrade"
        )
    if (branch := git(root, "rev-parse", "--abbrev-ref", "HEAD")) == "HEAD":
        raise EvergreenError(f"HEAD of {root} is on no branch: `git switch BRANCH` first, so that the upgrade has one")
    changed = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    changed += git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE).splitlines()
    if changed := list(dict.fromkeys(changed)):
        more = f"\n  ... and {len(changed) - 10} more" if len(changed) > 10 else ""
        shown = "\n  ".join(changed[:10])
        raise EvergreenError(
            f"{root} (branch {branch}) has changes that are not committed:\n  {shown}{more}\nCommit or `git "
            "stash` them first, so that the upgrade stands alone and can be undone"
        )


def plan(root: Path, source: Path, base: str | None = None) -> Plan:
    """What taking over the code of `source`, a checkout of Evergreen, changes in the project `root`.

    base: the commit whose files are Evergreen's as the project got them, where nothing records it. Only reads: blobs
    of the new code are written by `apply`. Raises EvergreenError.
    """
    check_project(root, source)
    ours = _listing(root, "HEAD")
    old, was = _base(root, ours, base)
    names = origin.needed_files(source)
    new = origin.version_at(source)
    _refuse_older(root, old, source, new)
    theirs = _hashed(root, source, names)
    texts = {file.id: (source / name).read_bytes() for name, file in theirs.items()}

    def read(file: File) -> bytes:
        return texts[file.id] if file.id in texts else _blob(root, file, old)

    _refuse_taken(root, was, ours, theirs)
    labels = ("yours", f"Evergreen {old}", f"Evergreen {new}")
    steps = merge_code(was, ours, theirs, read, labels)
    entries, made = _result(ours, steps)
    migrated = migrate_params(read(ours["params.yaml"]).decode()) if "params.yaml" in ours else None
    if migrated and migrated.text != read(ours["params.yaml"]).decode():
        entries["params.yaml"], made["params.yaml"] = File(ours["params.yaml"].mode, ""), migrated.text.encode()
    template = origin.template_revision(source)
    _keep_base(entries, made, theirs, {step.path for step in steps if step.kind == "conflict"})
    record = origin.record_text(new, template, {name: file.id for name, file in theirs.items()})
    entries[origin.RECORD], made[origin.RECORD] = File("100644", ""), record.encode()
    _check_clashes(root, entries, ours)

    def after(path: str) -> bytes:
        return made[path] if path in made else read(entries[path])

    own = sorted(name for name in ours if name.startswith(CODE) and name not in {*was, *theirs})
    stale = list(_stale(entries, theirs, after, {origin.RECORD}, texts))
    before = {path: read(ours[path]) for path in ("dvc.yaml", "params.yaml") if path in ours}
    then = {path: after(path) for path in ("dvc.yaml", "params.yaml") if path in entries}
    if any(step.path == "dvc.yaml" and step.kind == "conflict" for step in steps):
        then["dvc.yaml"] = texts[theirs["dvc.yaml"].id]
    hashes = {path: file.id or git_hash(made[path]) for path, file in entries.items()}
    stages = stages_to_run(before, then, {path: file.id for path, file in ours.items()}, hashes)
    seconds = _longest_run(root) if stages else None
    texts |= {path: content for path, content in made.items()}
    blobs = {name: texts[file.id] for name, file in entries.items() if file.id in texts}
    return Plan(root, old, new, template, steps, migrated, own, stale, stages, seconds, entries, {**blobs, **made})


def git_hash(content: bytes) -> str:
    """A stand-in for the id of a blob that is not written yet: only compared with other ids."""
    return "new " + hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _listing(root: Path, rev: str) -> dict[str, File]:
    found = {}
    for entry in git_bytes(root, "ls-tree", "-r", "-z", rev).decode(errors="surrogateescape").split("\0"):
        if entry:
            about, name = entry.split("\t", 1)
            mode, _, oid = about.split()
            found[name] = File(mode, oid)
    return found


def _hashed(root: Path, source: Path, names: Sequence[str]) -> dict[str, File]:
    """The files `names` of `source` as `root`'s git names them; nothing is written."""
    paths = "".join(f"{source / name}\n" for name in names).encode()
    ids = git_bytes(root, "hash-object", "--no-filters", "--stdin-paths", stdin=paths).decode().split()
    modes = ["100755" if (source / name).stat().st_mode & 0o100 else "100644" for name in names]
    return {name: File(mode, oid) for name, mode, oid in zip(names, modes, ids, strict=True)}


def _blob(root: Path, file: File, version: str) -> bytes:
    try:
        return git_bytes(root, "cat-file", "blob", file.id)
    except EvergreenError as error:
        raise EvergreenError(
            f"{root} lacks the git object {file.id[:12]}, a file of Evergreen {version} as this project got it: an "
            f"upgrade needs it to tell your changes apart. In a shallow clone, `git fetch --unshallow` brings "
            f"it; else name the commit that holds Evergreen's code unchanged with `--base`. ({error})"
        ) from None


def _base(root: Path, ours: dict[str, File], commit: str | None) -> tuple[str, dict[str, File]]:
    """(version, files) of Evergreen as the project got it: from evergreen.json, else from the commit of init."""
    if commit is None and origin.RECORD in ours:
        text = git_bytes(root, "cat-file", "blob", ours[origin.RECORD].id).decode()
        about = origin.parse_record(text, f"{root / origin.RECORD}")
        modes = {name: ours[name].mode if name in ours else "100644" for name in about["files"]}
        return about["evergreen"], {name: File(modes[name], oid) for name, oid in about["files"].items()}
    if commit is None:
        log = git(root, "log", "--format=%H %s", "--fixed-strings", f"--grep={origin.STARTED}")
        found = [line.split(" ", 1)[0] for line in log.splitlines() if line.endswith(f" {origin.STARTED}")]
        if not found:
            if {"CONTRIBUTING.md", "tests/house/test_layout.py"} & ours.keys():
                raise EvergreenError(
                    f"{root} is a clone of Evergreen itself, not a project that `evergreen init` made: use `git pull`"
                )
            raise EvergreenError(
                f"it is not known which Evergreen {root} started from: there is no {origin.RECORD}, and no commit "
                f'"{origin.STARTED}" in its history. Name the commit whose code is Evergreen\'s, unchanged: '
                "`evergreen upgrade --base COMMIT`. In a shallow clone, `git fetch --unshallow` first."
            )
        commit = found[-1]
    files = {name: file for name, file in _listing(root, commit).items() if name.startswith(origin.NEEDED)}
    if not {"dvc.yaml", "pyproject.toml"} <= files.keys():
        raise EvergreenError(
            f"commit {commit[:12]} of {root} does not hold Evergreen's code: it lacks dvc.yaml or tasks/"
        )
    about = {
        name: git_bytes(root, "cat-file", "blob", files[name].id).decode()
        for name in (origin.VERSION_FILE, "pyproject.toml")
        if name in files
    }
    return origin.evergreen_version(about), files


def _result(ours: dict[str, File], steps: list[Step]) -> tuple[dict[str, File], dict[str, bytes]]:
    """(the project's files after `steps`, content of those that no blob has yet)."""
    entries, made = dict(ours), {}
    for step in steps:
        entries.pop(step.was or step.path, None)
    for step in steps:
        if step.result is not None:
            entries[step.path] = step.result
        if step.content is not None:
            made[step.path] = step.content
    return entries, made


def _keep_base(entries: dict[str, File], made: dict[str, bytes], theirs: dict[str, File], conflicts: set[str]) -> None:
    """Keep Evergreen's own text of each file that differs from it now, or may once its conflict is resolved.

    The next upgrade merges from it, in a clone too.
    """
    for name in [name for name in entries if name.startswith(origin.KEPT)]:
        del entries[name]
    for name, file in theirs.items():
        if name not in entries or name in made or name in conflicts or entries[name].id != file.id:
            entries[origin.KEPT + name] = file


def _refuse_older(root: Path, old: str, source: Path, new: str) -> None:
    """Raise EvergreenError where the project has a newer Evergreen than `source`; unknown versions pass."""
    try:
        older = tuple(map(int, new.split("."))) < tuple(map(int, old.split(".")))
    except ValueError:
        return
    if older:
        raise EvergreenError(
            f"{root} has Evergreen {old}, and {source} is the older {new}, which may not read newer files. "
            "To go back, `git revert` the commit of the upgrade"
        )


def _refuse_taken(root: Path, was: dict[str, File], ours: dict[str, File], theirs: dict[str, File]) -> None:
    """Raise EvergreenError where a file of the user is at the new place of a file of Evergreen that moves."""
    targets = {moved_to(name) for name in was if name not in theirs} - was.keys()
    if taken := sorted(name for name in targets if name in theirs and name in ours):
        raise EvergreenError(
            f"{', '.join(taken)}: your own in {root}, but Evergreen's files move there. Move yours, commit, and upgrade"
        )


def _check_clashes(root: Path, entries: dict[str, File], ours: dict[str, File]) -> None:
    """Raise EvergreenError where a file of the user would be overwritten or hidden."""
    if there := sorted(name for name in entries if name not in ours and os.path.lexists(root / name)):
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise EvergreenError(
            f"{', '.join(there[:5])}{more}: not in git (ignored, perhaps), and the upgrade would overwrite them. Move "
            "them elsewhere, then upgrade"
        )
    for name in entries:
        if name.endswith(".py") and f"{name.removesuffix('.py')}/__init__.py" in entries:
            raise EvergreenError(
                f"{name} is a module of yours, and Evergreen now has a package of that name, which would hide it: "
                "rename yours, commit, and upgrade"
            )
        for parent in list(Path(name).parents)[:-1]:
            if parent.as_posix() in entries:
                raise EvergreenError(
                    f"{parent} is a file of yours, and Evergreen now has a folder there: move it, commit"
                )


def _stale(entries, theirs, after, skipped, texts) -> Iterator[Stale]:
    """Lines of the user's files, and of files the user changed, with names that moved."""
    for path, file in entries.items():
        if path in skipped or path.startswith(origin.KEPT) or not file.mode.startswith("100"):
            continue
        if path in theirs and file.id == theirs[path].id:
            continue
        if path not in theirs and not path.endswith(SEARCHED):
            continue
        content = after(path)
        if len(content) > TEXT_BYTES or b"\0" in content:
            continue
        known = set(texts[theirs[path].id].decode(errors="replace").splitlines()) if path in theirs else set()
        text = content.decode(errors="replace")
        lines = text.splitlines()
        for line, old, new in old_names(text, entries.keys()):
            if lines[line - 1] not in known:
                yield Stale(path, line, old, new)


def stages_to_run(
    before: dict[str, bytes], then: dict[str, bytes], ours: dict[str, str], after: dict[str, str]
) -> list[str]:
    """Stages of dvc.yaml that DVC will run again: command, params, code or inputs differ. The two dicts hold dvc.yaml
    and params.yaml; `ours` and `after` are path -> id of all files."""
    old, new = ((yaml.safe_load(side.get("dvc.yaml", b"")) or {}).get("stages", {}) for side in (before, then))
    params = [yaml.safe_load(side.get("params.yaml", b"")) or {} for side in (before, then)]
    made: set[str] = set()
    found = []
    for name, stage in new.items():
        earlier = old.get(name)
        deps = stage.get("deps") or []
        again = (
            earlier is None
            or _stage(earlier, params[0], ours) != _stage(stage, params[1], after)
            or any(str(dep) in made for dep in deps)
        )
        if again:
            found.append(name)
            for kind in ("outs", "metrics", "plots"):
                made |= {entry if isinstance(entry, str) else next(iter(entry)) for entry in stage.get(kind) or []}
    return found


def _stage(stage: dict[str, Any], params: dict, files: dict[str, str]) -> tuple:
    """What DVC compares of a stage."""
    code = {
        dep: sorted((name, oid) for name, oid in files.items() if name == dep or name.startswith(dep.rstrip("/") + "/"))
        for dep in stage_dependencies({"stages": {"one": stage}})
    }
    read = {str(name): params.get(name) for name in stage.get("params") or [] if isinstance(name, str)}
    return stage.get("cmd"), code, read


def _longest_run(root: Path) -> float | None:
    """Seconds of the longest run that made a version, from its id to its promotion; None where none is known."""
    try:
        history = open_store(load_params(root / "params.yaml").store, root).history()
    except EvergreenError:
        return None
    seen, found = set(), []
    for pointer in history:
        if pointer.version in seen or pointer.why.startswith("approved"):  # waited for a person
            continue
        seen.add(pointer.version)
        try:
            start = datetime.strptime(pointer.run_id.split("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
        except ValueError:
            continue
        if timedelta() < pointer.at - start < timedelta(days=2):
            found.append((pointer.at - start).total_seconds())
    return max(found, default=None)


def apply(plan: Plan) -> str | None:
    """Do what `plan` says. Returns the new commit; None where conflicts wait in the working tree for the user."""
    root = plan.root
    check_clean_head(root)
    entries = _written(plan)
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        lines = "".join(f"{file.mode} {file.id}\t{name}\0" for name, file in entries.items())
        git_bytes(root, "update-index", "-z", "--index-info", stdin=lines.encode(errors="surrogateescape"), env=index)
        tree = git(root, "write-tree", env=index)
    if not plan.conflicts:
        commit = git(root, *identity_options(root), "commit-tree", tree, "-p", "HEAD", "-m", message(plan))
        git(root, "-c", "core.hooksPath=/dev/null", "merge", "--ff-only", "--quiet", commit)
        return commit
    git(root, "read-tree", "-m", "-u", "HEAD", tree)
    lines = ""
    for step in plan.conflicts:
        lines += f"0 {'0' * 40}\t{step.path}\0"
        for number, side in enumerate(step.stages or (), 1):
            lines += f"{side.mode} {side.id} {number}\t{step.path}\0" if side else ""
    git_bytes(root, "update-index", "-z", "--index-info", stdin=lines.encode(errors="surrogateescape"))
    (root / git(root, "rev-parse", "--git-path", "MERGE_MSG")).write_text(message(plan) + "\n", encoding="utf-8")
    return None


def check_clean_head(root: Path) -> None:
    """Raise EvergreenError where tracked files changed since the plan was made."""
    if changed := git(root, "status", "--porcelain", "--untracked-files=no"):
        raise EvergreenError(f"{root} changed while the upgrade was planned: {changed.splitlines()[0]}. Start it again")


def _written(plan: Plan) -> dict[str, File]:
    """The plan's files, each blob written to the project's git."""
    with tempfile.TemporaryDirectory() as folder:
        names = list(plan.texts)
        for number, name in enumerate(names):
            (Path(folder) / str(number)).write_bytes(plan.texts[name])
        listed = "".join(f"{Path(folder) / str(number)}\n" for number in range(len(names))).encode()
        ids = git_bytes(plan.root, "hash-object", "-w", "--no-filters", "--stdin-paths", stdin=listed).decode().split()
    written = dict(zip(names, ids, strict=True))
    return {name: File(file.mode, written.get(name, file.id)) for name, file in plan.entries.items()}


def message(plan: Plan) -> str:
    """Message of the upgrade's commit."""
    template = f"\nEvergreen-Template: {plan.template}" if plan.template else ""
    return (
        f"Upgrade Evergreen to {plan.new}\n\nFrom {plan.old}, by `evergreen upgrade`. `git revert` undoes it: no data, "
        f"log or release was changed.\n\nEvergreen-Version: {plan.new}{template}"
    )
