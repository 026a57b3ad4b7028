"""Checks of the programs that Evergreen runs on: Python, installed packages, git."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.doctor.finding import Finding, ok, problem, warning

PYTHON = ((3, 11), (3, 14))  # from, below; as pyproject.toml says
GIT = (2, 25)  # worktrees whose creation was killed can be removed
EXTRAS = {
    "pi-heif": "reads HEIC photos: `pip install pi-heif`",
    "open-clip-torch": "suggests labels from class names: `pip install open_clip_torch`",
}
SHOWN = 5
LOCK = "`make setup` installs what requirements.lock says"


def python() -> Finding:
    """Whether this Python is one that the lock was made for."""
    found = ".".join(map(str, sys.version_info[:3]))
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        return ok("python", f"{found} at {sys.executable}")
    wanted = f"{'.'.join(map(str, PYTHON[0]))} to below {'.'.join(map(str, PYTHON[1]))}"
    return problem("python", f"{found} at {sys.executable}, expected {wanted}", "make a new .venv with such a Python")


def packages(root: Path) -> Finding:
    """Whether what Evergreen needs is installed, in the versions of requirements.lock."""
    lock, about = root / "requirements.lock", root / "pyproject.toml"
    if not lock.is_file() or not about.is_file():
        return warning("packages", f"{root} has no requirements.lock: versions cannot be compared", LOCK)
    locked = _locked(lock.read_text(encoding="utf-8"))
    needed = {_name(line) for line in tomllib.loads(about.read_text(encoding="utf-8"))["project"]["dependencies"]}
    installed = {name: _installed(name) for name in locked.keys() | needed}
    if missing := sorted(name for name in needed if installed[name] is None):
        return problem("packages", f"not installed: {', '.join(missing)}", LOCK)
    differ = {name: has for name, has in sorted(installed.items()) if has and has not in locked.get(name, {has})}
    other = [f"{name} {has} (locked: {' or '.join(sorted(locked[name]))})" for name, has in differ.items()]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        return warning("packages", f"other versions than the lock's: {', '.join(other[:SHOWN])}{more}", LOCK)
    return ok("packages", f"{sum(has is not None for has in installed.values())} packages, as locked")


def extras() -> list[Finding]:
    """Which optional packages are there."""
    return [
        ok("extras", f"{name} {_installed(name)}" if _installed(name) else f"{name} is not installed; it {what}")
        for name, what in EXTRAS.items()
    ]


def git_program() -> Finding:
    """Whether git is there and new enough."""
    if shutil.which("git") is None:
        return problem("git", "the command git is not in PATH", "install git")
    said = subprocess.run(["git", "--version"], capture_output=True, text=True).stdout.strip()
    numbers = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if numbers < GIT:
        return problem("git", f"{said}, expected {'.'.join(map(str, GIT))} or newer", "install a newer git")
    return ok("git", said)


def _locked(text: str) -> dict[str, set[str]]:
    """Name -> versions: a package may have one for each platform."""
    found: dict[str, set[str]] = {}
    for name, number in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^ ;\\\n]+)", text, re.MULTILINE):
        found.setdefault(_name(name), set()).add(number)
    return found


def _name(line: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]).lower()


def _installed(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]  # torch says +cpu, +cu126
    except PackageNotFoundError:
        return None
