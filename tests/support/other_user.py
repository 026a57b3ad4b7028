"""What another user of this machine can read in a folder: tried as `nobody` where tests run as root, else by modes."""

import json
import os
import pwd
import stat
from pathlib import Path


def readable(root: Path) -> set[str]:
    """Paths under `root`, relative to it, of files that another user can read and folders that one can list.

    What is above `root` and its own mode do not count: `root` is opened for the time.
    """
    before = root.stat().st_mode
    root.chmod(before | 0o005)
    try:
        return _readable(root)
    finally:
        root.chmod(before)


def _readable(root: Path) -> set[str]:
    if os.geteuid() == 0:
        return set(_as_nobody(root))
    return set(_walk(root, lambda path: bool(path.stat().st_mode & stat.S_IROTH), lambda path: path.stat().st_mode & 1))


def _as_nobody(root: Path) -> list[str]:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        try:
            os.chdir(root)  # before: the folders above may be closed
            nobody = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            found = _walk(Path("."), _opens, lambda path: os.access(path, os.X_OK))
            os.write(writing, json.dumps(found).encode()[: 1 << 16])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        content = answer.read()
    os.waitpid(child, 0)
    return json.loads(content)


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        return False
    except OSError:  # a socket
        return True
    return True


def _walk(root: Path, reads, enters) -> list[str]:
    found, folders = [], [root]
    while folders:
        folder = folders.pop()
        for path in sorted(folder.iterdir()):
            if path.is_symlink():
                continue
            if reads(path):
                found.append(path.relative_to(root).as_posix())
            if path.is_dir() and enters(path) and reads(path):
                folders.append(path)
    return found
