"""Who may read what a project writes: its owner, and the group of a folder that was given to one.

Images, labels, logs and keys must not be readable by other users of the machine, whatever their umask. So new files get
mode 0600 and new folders 0700. A folder with the setgid bit is shared with its group on purpose (`chmod g+rwxs`): what
we make in it gets the rights that the folder gives to the group. Nothing is ever open to all.

DVC and other libraries make files with modes of their own, so `close_to_others` closes the folders above them.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
CLOSED = ("data", "artifacts", ".dvc/cache", ".dvc/tmp")  # of a checkout; DVC makes files in them


def file_mode(folder: Path) -> int:
    """The mode of a new file in `folder`."""
    mode = folder.stat().st_mode
    return FILE | mode & 0o060 if mode & stat.S_ISGID else FILE


def open_private(path: Path | str, flags: int) -> int:
    """Open `path`, a new file with `file_mode`; returns the descriptor. It can be the `opener` of Python's open."""
    mode = file_mode(Path(path).parent)
    handle = os.open(path, flags, mode)
    if mode != FILE and os.fstat(handle).st_uid == os.geteuid():  # the umask takes the group's rights otherwise
        os.fchmod(handle, mode)
    return handle


def make_folder(path: Path) -> Path:
    """Make the folder `path` and those above it where they are missing, with mode 0700 or the group's rights."""
    if not path.is_dir():
        make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(FOLDER)
            share_folder(path)
    return path


def share_folder(folder: Path) -> None:
    """Give the new `folder` the group's rights if the one above is shared with a group."""
    above = folder.parent.stat().st_mode
    if above & stat.S_ISGID:
        folder.chmod(FOLDER | above & 0o070 | stat.S_ISGID)


def close_to_others(main: Path, state: Path) -> None:
    """Close the folders of the checkout `main` that hold images, labels and state to other users.

    Older versions and DVC leave them as the umask says. A folder that is shared with its group stays so.
    """
    made = [state, main / ".dvc/cache", main / ".dvc/tmp"] if (main / ".dvc").is_dir() else []
    with suppress(OSError):  # a checkout that this user may only read
        for folder in made:
            make_folder(folder)
    for name in (state, *(main / name for name in CLOSED)):
        with suppress(OSError):
            mode = stat.S_IMODE(name.stat().st_mode)
            closed = mode & ~0o007 if mode & stat.S_ISGID else mode & ~0o077
            if mode != closed and not name.is_symlink():
                name.chmod(closed)
