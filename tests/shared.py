"""What several test files need and nothing changes: made once in a test run, by the worker that asks first."""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


class Shared:
    folder: Path | None = None  # the run's own, under pytest's base folder: set in conftest.py


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` that `make` filled. Copy it before changing anything."""
    if Shared.folder is None:  # a benchmark: nobody to share it with
        Shared.folder = Path(tempfile.mkdtemp(prefix="evergreen-test-"))
        atexit.register(shutil.rmtree, Shared.folder, ignore_errors=True)
    Shared.folder.mkdir(exist_ok=True)
    folder, done = Shared.folder / name, Shared.folder / f"{name}.done"
    with open(Shared.folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of it, from a worker that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def place(own: Path) -> None:
    """Share with the other workers of this run; `own`: this worker's base folder, inside the run's."""
    Shared.folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
