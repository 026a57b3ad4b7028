"""What several test files need and nothing changes: made once in a test run, by the process that asks first."""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = "EVERGREEN_TEST_FOLDER"  # names the run's own folder, for its workers and the processes they start


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` that `make` filled. Copy it before changing anything."""
    if FOLDER not in os.environ:  # a benchmark, outside of pytest
        place(Path(tempfile.mkdtemp(prefix="evergreen-test-")))
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    shared = Path(os.environ[FOLDER])
    shared.mkdir(exist_ok=True)
    folder, done = shared / name, shared / f"{name}.done"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of it, from a process that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def networks(root: Path) -> None:
    """Let the project at `root` share its exports of frozen networks with all others of this run."""
    cache = root / ".evergreen/cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "networks").symlink_to(once("networks", lambda folder: None))


def place(folder: Path) -> None:
    """Let `once` keep what it makes under `folder`."""
    os.environ[FOLDER] = str(folder)
