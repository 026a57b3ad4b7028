"""What a training needs where its workers do not see the project's folder, and what it brings back.

Small files travel with the job, pixels and features through `scale.shared`. Each machine keeps them in a temporary
folder until the training ends, with the checkpoint: if one machine is lost, the others have it.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.scale import entries
from flows.scale.shared import Place, shared_place
from flows.scale.stages import STAGE
from tasks.common.artifacts import FOLDER
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, content_key, locked, sha256_bytes
from tasks.common.params import Params
from tasks.common.paths import cache_dir
from tasks.common.private import make_folder
from tasks.common.sealed import open_sealed

VARIABLE = "EVERGREEN_STATE"
NEEDED = ("params.yaml", "artifacts/validate/**/*", "artifacts/clean/*", "data/dataset.json", "data/batches/*")
OUTPUTS = (
    *(f"{FOLDER}/{name}" for name in ("history.csv", "model.json", "weights.safetensors")),
    "metrics/train_backbone.json",
)
PREFIX = "evergreen-train-"
KEPT_SECONDS = 14 * 24 * 3600.0  # of the folder of a training that did not end
LOCK_SECONDS = 3600.0


@dataclass(frozen=True)
class Delivery:
    """A project for workers that do not see it: `files`, and `entries` of `place` with their sha256."""

    place: Place
    files: dict[str, bytes]
    entries: dict[str, str]

    @property
    def name(self) -> str:
        """The name of its folder on a worker's machine."""
        digests = {path: sha256_bytes(content) for path, content in self.files.items()}
        return f"{PREFIX}{os.getuid()}-{content_key(digests, self.entries)[:24]}"

    def outputs(self, root: Path) -> dict[str, bytes]:
        """What the stage wrote under `root`."""
        return _read(root, OUTPUTS)


def deliver(root: Path, params: Params) -> Delivery | None:
    """What workers need of the project at `root`; puts entries that the shared place lacks there.

    None where workers see the folder.
    """
    if (place := shared_place(root, params)) is None:
        return None
    left = entries.missing(STAGE, root, params)  # a single one is not worth a task of the cluster
    entries.prepare(root, left)
    for unit in left:
        entries.make(unit, root)
    cache, found = cache_dir("pixels", root).parent, {}
    for unit in entries.of_training(root, params):
        found[unit.file] = place.digest(unit.file) or place.put_entry(unit.file, cache)
    return Delivery(place, _read(root, NEEDED), found)


def receive(root: Path, files: dict[str, bytes]) -> None:
    """Write the outputs that the first worker sent. Raises EvergreenError, and writes none, unless it sent all."""
    if set(files) != set(OUTPUTS):
        raise EvergreenError(
            f"the training on Ray ended without a whole result: expected the files {', '.join(OUTPUTS)}, its first "
            f"worker sent {', '.join(sorted(files)) or 'no files'}. Start the command again"
        )
    for path, content in files.items():
        with atomic_path(root / path) as temporary:
            temporary.write_bytes(content)


@contextmanager
def project_of(root: Path, state: Path, delivery: Delivery | None) -> Iterator[Path]:
    """The project in a training worker: `root` itself, or a folder made of `delivery`. Sets EVERGREEN_STATE.

    The folder stays if the block fails: another try finds the checkpoint in it.
    """
    if delivery is None:
        if not (root / "params.yaml").is_file():
            raise EvergreenError(
                f"a Ray worker does not see {root}: mount the project under this path on every node, or name a place "
                "that all reach in params.yaml (scale.shared)"
            )
        os.environ[VARIABLE] = str(state)
        yield root
        return
    _sweep()
    folder = make_folder(Path(tempfile.gettempdir()) / delivery.name)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EvergreenError(f"{folder} belongs to another user: remove it")
    os.environ[VARIABLE] = str(folder / ".evergreen")
    cache = cache_dir("pixels", folder).parent
    with locked(folder / "lock", LOCK_SECONDS, f"the training's files in {folder}"):
        for path, content in delivery.files.items():
            with atomic_path(folder / path) as temporary:
                temporary.write_bytes(content)
        for entry, digest in delivery.entries.items():
            if (opened := open_sealed(cache / entry)) is None:
                delivery.place.fetch_entry(entry, cache, digest)
            else:
                opened.close()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _read(root: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    files = sorted({file for pattern in patterns for file in root.glob(pattern) if file.is_file()})
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def _sweep() -> None:
    """Remove folders of trainings that were given up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getuid()}-*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
