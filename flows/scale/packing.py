"""The code that workers import: the packages of the driver, without static files and caches.

The key of a cache entry covers the code that made it. So the workers must run the very code of the driver's commit,
not the one that the cluster's image has installed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tasks
from flows.scale.scratch import scratch_folder

PACKAGES = ("flows", "tasks", "serving", "monitoring")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "static", "*.tmp")


@contextmanager
def packed_code() -> Iterator[Path]:
    """A folder with a copy of this checkout's packages, for Ray to upload (3 MB)."""
    root = Path(tasks.__file__).resolve().parent.parent
    with scratch_folder("evergreen-code-") as folder:
        for package in PACKAGES:
            shutil.copytree(root / package, folder / package, ignore=LEFT_OUT)
        yield folder
