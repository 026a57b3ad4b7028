"""Read files of a user's folder, and nothing outside it.

A manifest or folder may come from a stranger. Refused are `..`, absolute paths, links out of the root, files that are
not regular (a pipe would block us), and files too large to be one image.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.common.cells import without_surrogates
from tasks.common.errors import DataError
from tasks.common.written import tidy
from tasks.sources.fields import Unusable

FILE_BYTES = 256 << 20  # larger files are refused before they are read
JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # made by file managers


def resolve_inside(root: Path, written: str) -> Path:
    """The existing regular file at the path `written` under `root`. Raises Unusable (outside_root, missing_file).

    If there is none, the path is also read as Windows, macOS and file:// write it.
    """
    problem = None
    for spelling in _spellings(written):
        try:
            return _resolve(root, spelling)
        except Unusable as error:
            problem = problem or error
            if error.reason != "missing_file" and spelling == written:
                break
    raise Unusable(problem.reason, f"{problem.detail}{_hint(written)}")


def _spellings(written: str) -> list[str]:
    found = [written]
    if written.lower().startswith("file://"):
        found.append(unquote(urlsplit(written).path))
    found.append(tidy(found[-1]))
    if "\\" in written:
        found.append(found[-1].replace("\\", "/"))
    found += [unicodedata.normalize(form, found[-1]) for form in ("NFC", "NFD")]
    return list(dict.fromkeys(found))


def _hint(written: str) -> str:
    if written.lower().startswith("file://"):
        return ": a file:// address is read if it leads into the manifest's folder"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", written):
        return ": addresses are not fetched. Download the images, and list their paths"
    if written.startswith("~"):
        return ": '~' is not expanded. Write paths relative to the manifest's folder"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", written):
        return ": a Windows path of another machine. Write paths relative to the manifest's folder"
    if "\\" in written:
        return ": tried with its backslashes as / too"
    return ""


def _resolve(root: Path, written: str) -> Path:
    shown = repr(without_surrogates(written[:200]))
    if ".." in Path(written).parts:
        raise Unusable("outside_root", f"{shown} contains '..'")
    try:
        base = root.resolve()
        found = (base / written).resolve()
        if not found.is_relative_to(base):
            raise Unusable("outside_root", f"{shown} leads out of {base.name}")
        if not stat.S_ISREG(found.stat().st_mode):
            raise Unusable("missing_file", f"{shown} is not a file")
    except (OSError, ValueError, RuntimeError) as error:  # missing, name too long, NUL byte, a loop of links
        raise Unusable("missing_file", f"{shown}: {getattr(error, 'strerror', None) or error}") from None
    return found


def read_file(file: Path) -> bytes:
    """The content of a regular file. Raises Unusable (missing_file, too_many_pixels)."""
    try:
        # a pipe or a link may have replaced the file since it was listed
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(handle, "rb") as opened:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise Unusable("missing_file", "not a regular file")
            if about.st_size > FILE_BYTES:
                raise Unusable("too_many_pixels", f"a file of {about.st_size} bytes, at most {FILE_BYTES} are read")
            return opened.read(about.st_size)
    except OSError as error:
        raise Unusable("missing_file", error.strerror or "cannot be read") from None


def list_entries(folder: Path, skipped: list[str] | None = None) -> list[os.DirEntry]:
    """Entries of a folder in byte order. Names of hidden files and JUNK go to `skipped` instead. Raises DataError."""
    entries = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not entry.name.startswith(".") and entry.name.lower() not in JUNK:
                    entries.append(entry)
                elif skipped is not None:
                    skipped.append(entry.name)
    except OSError as error:
        raise DataError(f"{without_surrogates(str(folder))} cannot be listed: {error.strerror}") from None
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def walk_folders(
    root: Path, left_out: Collection[tuple[str, ...]] = ()
) -> Iterator[tuple[tuple[str, ...], list[os.DirEntry]]]:
    """(folder, its files) for `root` and all folders under it but `left_out`, a folder before those in it.

    A folder is the tuple of names that lead to it. A link to a folder counts as a file: it is not entered.
    """
    folders: list[tuple[str, ...]] = [()]
    while folders:
        folder = folders.pop()
        entries = list_entries(root.joinpath(*folder))
        yield folder, [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]
        below = [(*folder, entry.name) for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        folders += [name for name in below if name not in left_out]


def walk(root: Path) -> Iterator[os.DirEntry]:
    """All files under `root`, a folder's files before its subfolders. Linked folders are yielded, not entered."""
    for _, entries in walk_folders(root):
        yield from entries
