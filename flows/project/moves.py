"""Where Evergreen's modules moved: old paths and names to new ones, from moves.json.

moves.json grows with every release that moves a file and never shrinks: a project of any age finds its way.
"""

import json
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

DOTTED = re.compile(r"\b(?:tasks|flows|monitoring|serving)(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"\b(?:tasks|flows|monitoring|serving)/[\w./-]*\w")
FROM_PACKAGE = re.compile(r"\bfrom (tasks|flows|monitoring|serving) import ([\w, ]+)")
NAMES = re.compile(r"\bfrom ([\w.]+) import \(?([\w, ]+)")


@cache
def _moves() -> dict:
    return json.loads(Path(__file__).with_name("moves.json").read_text(encoding="utf-8"))


def moved_to(path: str) -> str | None:
    """Where the file `path` of an earlier Evergreen lies now; None: it did not move."""
    return _moves()["files"].get(path)


def old_paths() -> dict[str, str]:
    """Every moved file: old path -> new path."""
    return dict(_moves()["files"])


def old_names(text: str, files: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """(line, old name, new name) of moved modules and files that `text` names; `files`: all there are now."""
    for number, line in enumerate(text.splitlines(), 1):
        for old, new in dict(_in_line(line, files)).items():
            yield number, old, new


def _in_line(line: str, files: Collection[str]) -> Iterator[tuple[str, str]]:
    for name in FILE.findall(line):
        if (new := moved_to(name)) and name not in files:
            yield name, new
    for name in DOTTED.findall(line):
        if found := _new_module(name, files):
            yield found[0], found[1] + _elsewhere(line, found[0])
    for package, names in FROM_PACKAGE.findall(line):
        for name in (part.split(" as ")[0].strip() for part in names.split(",")):
            if name and (found := _new_module(f"{package}.{name}", files)):
                yield found
            elif new := _moves()["symbols"].get(package, {}).get(name):
                yield f"{package}.{name}", f"{new}.{name}"


def _new_module(name: str, files: Collection[str]) -> tuple[str, str] | None:
    """(old module, new module) where the dotted `name` is or begins with a module that moved."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        old = "/".join(parts[:length]) + ".py"
        if length > 2 and {old, old.removesuffix(".py") + "/__init__.py"} & set(files):
            return None  # a submodule of today's package of that name
        if (new := moved_to(old)) and old not in files:
            return ".".join(parts[:length]), _dotted(new)
    return None


def _elsewhere(line: str, module: str) -> str:
    """Imported names of `module` that went to another place than the module, in brackets."""
    known = _moves()["symbols"].get(module, {})
    names = [
        name.strip().split(" ")[0] for of, names in NAMES.findall(line) if of == module for name in names.split(",")
    ]
    apart = [f"{name} is in {known[name]}" for name in names if name in known]
    return f" ({'; '.join(apart)})" if apart else ""


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
