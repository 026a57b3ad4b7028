"""Three-way merge of code: Evergreen as it was, the project now, Evergreen now.

Files that the user never touched are taken over. Files that both changed go through `git merge-file`. A file that
moved is merged at its new place.
"""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from flows.project.moves import moved_to

Kind = Literal["added", "updated", "moved", "removed", "merged", "kept", "conflict"]


class File(NamedTuple):
    """A file as git names it."""

    mode: str  # "100644", "100755" or "120000"
    id: str  # of its blob


class Step(NamedTuple):
    """What happens to one file of Evergreen. `content` is set where no blob has the result yet."""

    kind: Kind
    path: str  # of the result
    was: str | None = None  # the path before, where it differs
    result: File | None = None  # None: no file is left, or `content` holds it
    content: bytes | None = None
    stages: tuple[File | None, File | None, File | None] | None = None  # of a conflict: base, yours, Evergreen's
    about: str = ""  # why there is a conflict


Read = Callable[[File], bytes]


def merge_code(base: dict[str, File], ours: dict[str, File], theirs: dict[str, File], read: Read, labels) -> list[Step]:
    """Every file that changes, sorted by path. base: Evergreen's files as the project got them, under their old paths;
    ours: all files of the project; theirs: the new Evergreen's. labels: names of the three sides in conflict markers.
    """
    steps, claimed = [], set()
    targets = {old: _target(old, base, theirs) for old in base}
    for old, path in targets.items():
        mine = ours.get(old) or ours.get(path or old)
        here = old if old in ours else (path or old)
        claimed.add(path)
        step = _merge_one(base[old], mine, theirs.get(path) if path else None, path or old, here, read, labels)
        if step is not None:
            steps.append(step)
    for path, new in theirs.items():
        if path not in claimed:
            mine = ours.get(path)
            step = _merge_one(None, mine, new, path, path, read, labels)
            if step is not None:
                steps.append(step)
    return sorted(steps, key=lambda step: step.path)


def _target(old: str, base: dict[str, File], theirs: dict[str, File]) -> str | None:
    """Where Evergreen's file `old` lies now; None: it is gone, or became part of a file that exists in `base` too."""
    if old in theirs:
        return old
    new = moved_to(old)
    return new if new in theirs and new not in base else None


def _merge_one(
    base: File | None, mine: File | None, new: File | None, path: str, here: str, read: Read, labels
) -> Step | None:
    was = here if here != path else None
    stages = (base, mine, new)
    if mine is None:
        if base is None:
            return Step("added", path, result=new)
        if new is None or new.id == base.id:
            return None  # deleted by the user, and Evergreen did not change it
        return Step("conflict", path, result=new, stages=stages, about="you deleted it, Evergreen changed it")
    if new is None:
        if mine.id == base.id:
            return Step("removed", here)
        became = moved_to(here)
        about = f"you changed it, Evergreen {f'made it part of {became}' if became else 'deleted it'}"
        return Step("conflict", here, result=mine, stages=stages, about=about)
    if mine.id == new.id:
        return Step("moved", path, was, result=new) if was else None
    if base is not None and mine.id == base.id:
        return Step("moved" if was else "updated", path, was, result=new)
    if base is not None and new.id == base.id:
        return Step("kept", path, was, result=mine) if was else None
    text, conflicts = merge_text(*(read(side) if side else b"" for side in (mine, base, new)), labels)
    if conflicts:
        return Step("conflict", path, was, result=File(new.mode, ""), content=text, stages=stages, about=conflicts)
    return Step("merged", path, was, result=File(new.mode, ""), content=text)


def merge_text(mine: bytes, base: bytes, new: bytes, labels) -> tuple[bytes, str]:
    """(merged text, "" or what conflicts). Of a binary file that conflicts, the user's version."""
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / name for name in ("mine", "base", "new")]
        for file, content in zip(names, (mine, base, new), strict=True):
            file.write_bytes(content)
        marked = [part for label in labels for part in ("-L", label)]
        done = subprocess.run(
            ["git", "merge-file", "-p", "--quiet", *marked, *map(str, names)], cwd=folder, capture_output=True
        )
    if done.returncode > 127:
        return mine, "it is binary, and both changed it"
    count = done.returncode
    return done.stdout, f"{count} place{'s' if count > 1 else ''} that both changed" if count else ""
