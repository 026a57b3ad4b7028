"""Files that tasks need on the machine where they run: a bundle, an exported network.

A function of `ray_map` that holds them takes them into Ray's object store, which each machine of the cluster fetches
once. Each worker process writes them to a temporary folder, checks their digests, loads what it needs and deletes the
folder. So a task needs neither the project's folder nor the release store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flows.scale.scratch import scratch_folder
from tasks.common.errors import DamagedFile
from tasks.common.files import sha256_file

T = TypeVar("T")

_loaded: dict[tuple, Any] = {}  # what this process has made, by its maker and the digests


@dataclass(frozen=True)
class Carried:
    """Files of one folder."""

    digests: tuple[tuple[str, str], ...]  # (name, sha256)
    content: tuple[np.ndarray, ...] = field(repr=False)  # (size,) uint8 each: Ray shares arrays and copies bytes

    def loaded(self, make: Callable[[Path], T]) -> T:
        """What the top-level function `make` returns for a folder with the files; made once per process.

        Raises DamagedFile if a file is not the one that the driver read.
        """
        key = (make.__module__, make.__qualname__, self.digests)
        if key not in _loaded:
            with scratch_folder("evergreen-carried-") as folder:
                self._write(folder)
                _loaded[key] = make(folder)
        return _loaded[key]

    def _write(self, folder: Path) -> None:
        for (name, digest), values in zip(self.digests, self.content, strict=True):
            values.tofile(folder / name)
            if (found := sha256_file(folder / name)) != digest:
                raise DamagedFile(folder / name, digest, found, remedy="Run the command again")


def carry(folder: Path, names: Sequence[str]) -> Carried:
    """The files `names` of `folder`."""
    return Carried(
        tuple((name, sha256_file(folder / name)) for name in names),
        tuple(np.fromfile(folder / name, np.uint8) for name in names),
    )
