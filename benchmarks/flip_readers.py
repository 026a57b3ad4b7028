"""Ways in which a project's files are read, and the kinds of files that are damaged, for benchmarks.flips."""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.publishing.history import find
from flows.repo.damage import checkout_whole, repairing
from flows.repo.objects import open_objects, outs_at
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from monitoring.log.production_log import open_log
from tasks.backbones.features import feature_table
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.dataset import shards
from tasks.dataset.pixels import shard_pixels
from tasks.inspection.measures import shard_measures
from tasks.labels.annotations import read_annotations
from tests.monitoring.log.test_log import NOON
from tests.support import versions_project


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and how the product reads them; `read` returns a value to compare."""

    files: Callable[[Path], list[Path]]
    read: Callable[[Path], object]


def tree(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): sha256_bytes(file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def read_data(root: Path) -> object:
    """What training reads of data/: all columns, all images, all annotations."""
    found = []
    for shard in shards.live_shards(root / "data"):
        found.append(shards.read_columns(shard.path, ["id", "label", "split", "group", "origin"]).to_pylist())
        found.append(list(shards.iter_bytes(shard.path)))
    return (
        found,
        read_annotations(root / "data").to_pylist(),
        [batch.model_dump() for batch in shards.batches(root / "data")],
    )


def train_in_workspace(root: Path) -> object:
    """A run's way: data/ from DVC's cache or remote, then the stages read it."""
    shutil.rmtree(root / "data")
    return train_in_place(root, restore=True)


def train_in_place(root: Path, restore: bool = False) -> object:
    with closing(open_repo(root)) as repo:
        restore_data(repo)
        return repairing(repo, lambda: read_data(root))


def without_cache(root: Path) -> object:
    """A clone's way: nothing in the cache."""
    shutil.rmtree(root / ".dvc/cache/files")
    return train_in_workspace(root)


def stage_outputs(root: Path) -> object:
    """The next stage's way: outputs restored, or as they lie there."""
    with closing(open_repo(root)) as repo:
        bring_up_to_date(repo, "bundle", lambda name, at: shutil.copytree(at.parent / "artifacts", at / "artifacts"))
    return tree(root / "artifacts")


def restored_outputs(root: Path) -> object:
    shutil.rmtree(root / "artifacts")
    return stage_outputs(root)


def rolled_back(root: Path) -> object:
    """A rollback's way: every object of the first version's data."""
    with open_objects(root) as objects:
        rev = versions_project.store(root).history()[0].git_rev
        return {
            name: sha256_bytes(objects.read(oid)) for name, oid in objects.files(outs_at(root, rev)["data"]).items()
        }


def served(root: Path) -> object:
    """A server's way: the pointer, then the bundle into the cache; and what a rollback would go back to."""
    releases = versions_project.store(root)
    live = releases.live()
    found = tree(releases.get_bundle(live.bundle, root / ".evergreen/cache/bundles" / live.bundle))
    return live.model_dump(mode="json"), found, find(releases.history(), None).model_dump(mode="json")


def published(root: Path) -> object:
    """An approval's way: what a run has made is hashed against dvc.lock, then uploaded."""
    with closing(open_repo(root)) as repo:
        checkout_whole(repo)
    return versions_project.store(root).put_bundle(root / "artifacts/bundle")


def samples_of(root: Path) -> pa.Table:
    names = [shard.name for shard in shards.live_shards(root / "data")]
    rows = [(name, row) for name in names for row in range(versions_project.PER_BATCH)]
    return pa.table({"shard": [name for name, _ in rows], "row": pa.array([row for _, row in rows], pa.int32())})


def cached(root: Path) -> object:
    """What training reads of the caches."""
    params = load_params(root / "params.yaml")
    names = [shard.name for shard in shards.live_shards(root / "data")]
    pixels = [sha256_bytes(shard_pixels(root, name, params.images, 1).tobytes()) for name in names]
    network = lambda: lambda block: block.mean(axis=(1, 2)).astype(np.float32)  # noqa: E731
    features = feature_table(root, samples_of(root), params.images, "mean", network, 32)[:]
    inspect = params.inspect.model_copy(update={"workers": 1})
    measures = [shard_measures(root, name, params.images, inspect).to_pylist() for name in names]
    return pixels, features.tolist(), measures


def monitored(root: Path) -> object:
    log = open_log(root, load_params(root / "params.yaml"))
    table, unreadable, _ = log.window(NOON, NOON.replace(hour=20))
    if unreadable:
        raise EvergreenError(f"unreadable: {unreadable}")
    found = table.to_pylist(), log.labels().to_pylist()
    if len(found[0]) < 90 or len(found[1]) < 2:  # a log that retention thins out may lack files; a line says so
        raise EvergreenError("files of the log are gone or left out")
    return found


def under(*patterns: str) -> Callable[[Path], list[Path]]:
    return lambda root: sorted(file for pattern in patterns for file in root.glob(pattern) if file.is_file())


def fetched_again(root: Path) -> object:
    """A new server's way: nothing is fetched yet."""
    shutil.rmtree(root / ".evergreen/cache/bundles")
    return served(root)


CACHE, REMOTE, STORE = ".dvc/cache/files/md5/*/*", ".evergreen/remote/files/md5/*/*", ".evergreen/releases"
CACHES = [f".evergreen/cache/{name}/*/*" for name in ("pixels", "features", "inspect")]
KINDS = {
    "shards": Kind(under("data/*.parquet"), train_in_place),
    "annotations": Kind(under("data/annotations/*.parquet"), train_in_place),
    "manifests": Kind(under("data/batches/*", "data/annotations/batches/*", "data/dataset.json"), train_in_place),
    "DVC cache": Kind(under(CACHE), train_in_workspace),
    "DVC cache, outputs": Kind(under(CACHE), restored_outputs),
    "DVC remote": Kind(under(REMOTE), without_cache),
    "run cache": Kind(under(".dvc/cache/runs/*/*/*"), restored_outputs),
    "stage outputs": Kind(under("artifacts/**/*"), stage_outputs),
    "bundle to publish": Kind(under("artifacts/bundle/*"), published),
    "versions' data": Kind(under(CACHE, REMOTE), rolled_back),
    "release store": Kind(under(f"{STORE}/bundles/*", f"{STORE}/objects/*"), fetched_again),
    "pointers": Kind(under(f"{STORE}/champion.json", f"{STORE}/pointers/*"), served),
    "fetched bundles": Kind(under(".evergreen/cache/bundles/*/*"), served),
    "caches": Kind(under(*CACHES), cached),
    "production log": Kind(under(".evergreen/production/2*/*/*", ".evergreen/production/labels/*"), monitored),
}
COPIES = ("DVC cache", "DVC cache, outputs", "versions' data", "fetched bundles", "caches", "stage outputs")
UNCHECKED = ("run cache",)  # DVC's; what it says is compared with dvc.lock when it is used
