"""What follows from an upgrade: stages that run again, their time, lines that name what moved."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from flows.project import origin
from flows.project.moves import old_names
from flows.repo.run_inputs import stage_dependencies
from tasks.common.errors import EvergreenError
from tasks.common.files import parse_yaml
from tasks.common.params import load_params
from tasks.releases.store import open_store

SEARCHED = (".py", ".yaml", ".yml", ".toml", ".sh", ".cfg", ".md", "Makefile")  # files of the user
TEXT_BYTES = 1 << 20  # larger files of the user are not searched for old names


class Stale(NamedTuple):
    """A line of the user's that names a module or file by its old name."""

    path: str
    line: int
    old: str
    new: str


def stale_lines(entries, theirs, after, skipped, texts) -> Iterator[Stale]:
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
    old, new = ((parse_yaml(side.get("dvc.yaml", b"")) or {}).get("stages", {}) for side in (before, then))
    params = [parse_yaml(side.get("params.yaml", b"")) or {} for side in (before, then)]
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


def longest_run(root: Path) -> float | None:
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
