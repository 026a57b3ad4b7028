"""Say in one message what the machine lacks: room, rights, open files, memory; for all commands.

Libraries wrap the system's errors in their own. So the whole chain of an error is searched, and for those that keep
only the text, the text. What is not of this kind is a bug, and keeps its traceback.
"""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

AGAIN = "then run the same command again: nothing was left half done"
FULL = (errno.ENOSPC, errno.EDQUOT)
RIGHTS = (errno.EACCES, errno.EPERM)
FILES = (errno.EMFILE, errno.ENFILE)
ADVICE = {  # other errors of the machine, and what the user can do
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    errno.ENOTDIR: "choose a path that does not lead through a file",
    errno.EISDIR: "move the folder away that is in the place of a file",
    errno.EEXIST: "move the file away that is in the place of a folder",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "remove the link that leads to itself",
    errno.EIO: "check the disk (`dmesg`), and copy the project to another one",
    errno.EAGAIN: "raise the limit on processes (`ulimit -u`), or end some",
}
TEXTS = {  # what libraries say without an error number: SQLite, PyTorch, ONNX Runtime, the dynamic linker, Python
    "no space left on device|database or disk is full|disk quota exceeded": errno.ENOSPC,
    "readonly database|read-only file system": errno.EROFS,
    "disk i/o error": errno.EIO,
    "too many open files": errno.EMFILE,
    "bad_alloc|can't allocate memory|cannot allocate memory|failed to map segment|can't start new thread"
    "|failed to launch worker thread|out of memory|insufficient memory": errno.ENOMEM,
}


def machine_error(error: BaseException) -> str | None:
    """One message about what the machine lacks, if that is what made `error`; else None."""
    for one in _chain(error):
        if isinstance(one, MemoryError):
            return _memory()
        if isinstance(one, SystemError | ImportError) and not isinstance(one, ModuleNotFoundError) and _memory_limit():
            return _memory()  # the C code of a library met the limit, and lost the error
        if type(one).__name__ in ("BrokenProcessPool", "TerminatedWorkerError"):
            return _killed()
        if isinstance(one, OSError) and (said := os_error(one)):
            return said
    for one in _chain(error):
        for pattern, number in TEXTS.items():
            if isinstance(one, Exception) and re.search(pattern, str(one), re.IGNORECASE):
                return os_error(OSError(number, str(one).strip().splitlines()[0][:200]))
    return None


def os_error(error: OSError) -> str | None:
    """One message about an error of the operating system that a user can repair; else None."""
    number, place = error.errno, error.filename
    at = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes | os.PathLike) else ""
    if number in FULL:
        return (
            f"disk full (disk_full): {at}{error.strerror}. {free_space(_folder(place))}. Make room (`evergreen gc` "
            f"shows what can go) or ask for a larger quota, {AGAIN}"
        )
    if number == errno.EROFS:
        return f"{at}{error.strerror}: work in a checkout on a writable disk, {AGAIN}"
    if number in RIGHTS:
        return f"{at}{error.strerror}: make it readable and writable for you ({_owner(place)}), {AGAIN}"
    if number in FILES:
        return f"too many open files: {at}{_limit('RLIMIT_NOFILE', 'files')}; `ulimit -n 4096` raises it, {AGAIN}"
    if number == errno.ENOMEM:
        return _memory()
    if number in ADVICE and (at or number in (errno.EFBIG, errno.EIO, errno.EAGAIN)):
        return f"{at}{error.strerror}: {ADVICE[number]}, {AGAIN}"
    return None


def free_space(folder: Path | None = None) -> str:
    """How much is free where Evergreen writes: under `folder`, in this folder, in the temporary one."""
    found = {}
    for place in filter(None, (folder, Path.cwd(), _temporary())):
        try:
            usage, device = shutil.disk_usage(place), os.stat(place).st_dev
        except OSError:
            continue
        found.setdefault(device, f"{usage.free / 1e6:,.1f} MB are free at {place}")
    return ", ".join(found.values()) or "the free space is unknown"


def memory_left() -> str:
    """How much memory the system has left, and the limit of this process."""
    try:
        import psutil

        found = [f"{psutil.virtual_memory().available / 1e6:,.0f} MB are available on this machine"]
    except (MemoryError, ImportError):  # too little even to find out
        found = []
    if limit := _memory_limit():
        found.append(limit)
    return ", ".join(found) or "nothing is left"


def _memory_limit() -> str | None:
    limit = _limit("RLIMIT_AS", "KB of memory")
    return None if "no limit" in limit else limit


def _memory() -> str:
    return (
        f"out of memory (out_of_memory): {memory_left()}. End other programs, raise the limit (`ulimit -v`), or lower "
        f"images.resolution or train_backbone.batch_size in params.yaml, {AGAIN}"
    )


def _killed() -> str:
    return (
        f"a worker process was killed, as the system does when memory runs out (out_of_memory): {memory_left()}. End "
        f"other programs or use a machine with more memory, {AGAIN}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, what caused it, and what was being handled when it came."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _folder(place: object) -> Path | None:
    if not isinstance(place, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(place)).absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), None)


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # it is full or cannot be written
        return Path("/tmp")


def _owner(place: object) -> str:
    folder = _folder(place)
    if folder is None or sys.platform == "win32":
        return "its permissions"
    return f"`ls -ld {folder}`; you are user {os.geteuid()}, it belongs to {folder.stat().st_uid}"


def _limit(name: str, what: str) -> str:
    try:
        import resource

        soft, _ = resource.getrlimit(getattr(resource, name))
    except (ImportError, AttributeError):
        return "this process has no limit"
    if soft == resource.RLIM_INFINITY:
        return "this process has no limit"
    return f"this process may use {soft // 1024 if 'KB' in what else soft:,} {what}"
