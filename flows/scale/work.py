"""What a worker does for one unit: find its shard, make the entry, put it where it is looked for.

Workers that see the project's folder write into its cache, as every process of this machine does. Others work in a
folder of their own for the time of one unit: they fetch the shard from `scale.shared` and put the entry there.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.scale import entries
from flows.scale.entries import Unit
from flows.scale.scratch import scratch_folder
from flows.scale.shared import Place
from tasks.common.errors import EvergreenError
from tasks.common.paths import cache_dir
from tasks.common.private import make_folder
from tasks.common.sealed import open_sealed

STATE = "EVERGREEN_STATE"


@dataclass(frozen=True)
class Work:
    """A function of a unit, for `ray_map`: makes its entry; returns the entry's sha256 in the shared place, if any."""

    root: Path
    state: Path
    place: Place | None

    def __call__(self, unit: Unit) -> str | None:
        if self.place is None:
            with _state(self.state):
                self._check_seen(unit)
                _make(unit, self.root)
            return None
        with scratch_folder("evergreen-unit-") as folder, _state(folder / ".evergreen"):
            cache = cache_dir("inspect", folder).parent
            make_folder(folder / "data")
            self.place.fetch_shard(unit.shard, folder / "data")
            for entry in unit.needs:
                if digest := self.place.digest(entry):
                    self.place.fetch_entry(entry, cache, digest)
            _make(unit, folder)
            return self.place.put_entry(unit.file, cache)

    def _check_seen(self, unit: Unit) -> None:
        if not (file := self.root / "data" / unit.shard).is_file():
            raise EvergreenError(
                f"the Ray worker on {socket.gethostname()} does not see {file}: mount the project under this path on "
                "every node, or name a place that all reach in params.yaml (scale.shared)"
            )


def _make(unit: Unit, root: Path) -> None:
    """Make the entry, and check that it has the name that the driver expects."""
    entries.make(unit, root)
    if (opened := open_sealed(cache_dir("inspect", root).parent / unit.file)) is None:
        raise EvergreenError(
            f"the Ray worker on {socket.gethostname()} made no {unit.file} for the {unit}: it runs other code or "
            "other packages than the driver. Install what requirements.lock says in the image of the cluster"
        )
    opened.close()


@contextmanager
def _state(folder: Path) -> Iterator[None]:
    """Let the block's functions keep caches under `folder`. A worker process does one thing at a time."""
    before = os.environ.get(STATE)
    os.environ[STATE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(STATE, None)
        else:
            os.environ[STATE] = before
