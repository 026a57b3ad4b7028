"""Evergreen's files as the project got them, and as they are in the newer Evergreen."""

from collections.abc import Sequence
from pathlib import Path

from flows.project import origin
from flows.project.merge import File
from flows.repo.git import git, git_bytes
from tasks.common.errors import EvergreenError


def files_at(root: Path, rev: str) -> dict[str, File]:
    found = {}
    for entry in git_bytes(root, "ls-tree", "-r", "-z", rev).decode(errors="surrogateescape").split("\0"):
        if entry:
            about, name = entry.split("\t", 1)
            mode, _, oid = about.split()
            found[name] = File(mode, oid)
    return found


def hashed_files(root: Path, source: Path, names: Sequence[str]) -> dict[str, File]:
    """The files `names` of `source` as `root`'s git names them; nothing is written."""
    paths = "".join(f"{source / name}\n" for name in names).encode()
    ids = git_bytes(root, "hash-object", "--no-filters", "--stdin-paths", stdin=paths).decode().split()
    modes = ["100755" if (source / name).stat().st_mode & 0o100 else "100644" for name in names]
    return {name: File(mode, oid) for name, mode, oid in zip(names, modes, ids, strict=True)}


def blob(root: Path, file: File, version: str) -> bytes:
    try:
        return git_bytes(root, "cat-file", "blob", file.id)
    except EvergreenError as error:
        raise EvergreenError(
            f"{root} lacks the git object {file.id[:12]}, a file of Evergreen {version} as this project got it: an "
            f"upgrade needs it to tell your changes apart. In a shallow clone, `git fetch --unshallow` brings "
            f"it; else name the commit that holds Evergreen's code unchanged with `--base`. ({error})"
        ) from None


def base_files(root: Path, ours: dict[str, File], commit: str | None) -> tuple[str, dict[str, File]]:
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
    files = {name: file for name, file in files_at(root, commit).items() if name.startswith(origin.NEEDED)}
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
