"""`evergreen upgrade`: newer Evergreen code, without losing what the user changed.

A project runs its own copy of the code. The upgrade is a three-way merge: Evergreen's code as the project got it, the
project's code now, Evergreen's code now. Without conflicts it is one commit, so one `git revert` undoes it. Data, logs
and releases are not touched: each format has a version number, and readers accept every earlier one.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from flows.project import origin
from flows.project.merge import File, Step, merge_code
from flows.project.params_upgrade import Migrated, migrate_params
from flows.project.upgrade.base import base_files, blob, files_at, hashed_files
from flows.project.upgrade.checks import CODE, check_clashes, check_project, refuse_older, refuse_taken
from flows.project.upgrade.effects import Stale, longest_run, stages_to_run, stale_lines


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


def plan(root: Path, source: Path, base: str | None = None) -> Plan:
    """What taking over the code of `source`, a checkout of Evergreen, changes in the project `root`.

    base: the commit whose files are Evergreen's as the project got them, where nothing records it. Only reads: blobs
    of the new code are written by `apply`. Raises EvergreenError.
    """
    check_project(root, source)
    ours = files_at(root, "HEAD")
    old, was = base_files(root, ours, base)
    names = origin.needed_files(source)
    new = origin.version_at(source)
    refuse_older(root, old, source, new)
    theirs = hashed_files(root, source, names)
    texts = {file.id: (source / name).read_bytes() for name, file in theirs.items()}

    def read(file: File) -> bytes:
        return texts[file.id] if file.id in texts else blob(root, file, old)

    refuse_taken(root, was, ours, theirs)
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
    check_clashes(root, entries, ours)

    def after(path: str) -> bytes:
        return made[path] if path in made else read(entries[path])

    own = sorted(name for name in ours if name.startswith(CODE) and name not in {*was, *theirs})
    stale = list(stale_lines(entries, theirs, after, {origin.RECORD}, texts))
    before = {path: read(ours[path]) for path in ("dvc.yaml", "params.yaml") if path in ours}
    then = {path: after(path) for path in ("dvc.yaml", "params.yaml") if path in entries}
    if any(step.path == "dvc.yaml" and step.kind == "conflict" for step in steps):
        then["dvc.yaml"] = texts[theirs["dvc.yaml"].id]
    hashes = {path: file.id or git_hash(made[path]) for path, file in entries.items()}
    stages = stages_to_run(before, then, {path: file.id for path, file in ours.items()}, hashes)
    seconds = longest_run(root) if stages else None
    texts |= {path: content for path, content in made.items()}
    blobs = {name: texts[file.id] for name, file in entries.items() if file.id in texts}
    return Plan(root, old, new, template, steps, migrated, own, stale, stages, seconds, entries, {**blobs, **made})


def git_hash(content: bytes) -> str:
    """A stand-in for the id of a blob that is not written yet: only compared with other ids."""
    return "new " + hashlib.sha1(content, usedforsecurity=False).hexdigest()


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
