"""Find images that look like those to erase: in the log, references of bundles, measures of data/."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa

from flows.erasure.occurrences import log_keys
from tasks.common.paths import state_dir
from tasks.erasure.alike import Looks, find_alike, learn_looks
from tasks.releases import bundle_store
from tasks.releases.store import Releases
from tasks.storage.blobs import Store

SHOWN = 10  # ids that a note names


def look_alikes(root: Path, releases: Releases, log: Store, ids: Collection[str]) -> list[str]:
    """Ids of other images that have nearly the same perceptual hash or the same model's nearest embeddings."""
    looks, found = Looks(), set()
    for file, model in _tables(root, releases, log):
        learn_looks(looks, file(), ids, model)
    if looks.hashes or looks.features:
        for file, model in _tables(root, releases, log):
            found |= find_alike(looks, file(), ids, model)
    return sorted(found)


def alike_note(alike: list[str]) -> list[str]:
    """What a person should know of them."""
    if not alike:
        return []
    shown = ", ".join(name[:12] for name in alike[:SHOWN]) + (", ..." if len(alike) > SHOWN else "")
    count = "1 other image looks" if len(alike) == 1 else f"{len(alike)} other images look"
    return [f"{count} alike, by perceptual hash or nearest embeddings ({shown}): if one shows the same, erase it too"]


def _tables(root: Path, releases: Releases, log: Store) -> Iterator[tuple[Callable[[], Path | pa.BufferReader], str]]:
    """(opens a table, the bundle whose features it holds, if no column says it)."""
    for file in sorted(state_dir(root).glob("cache/inspect/*/*.parquet")):
        yield (lambda file=file: file), ""
    for key in log_keys(log):
        if (found := log.read(key)) is not None:
            yield (lambda content=found[0]: pa.BufferReader(content)), ""
    for key in list(releases.store.list("bundles/")):
        named = bundle_store.files(releases.store.read(key)[0], key)
        if (sha256 := named.get("reference.parquet")) and (found := releases.store.read(f"objects/{sha256}")):
            yield (
                (lambda content=found[0]: pa.BufferReader(content)),
                key.removeprefix("bundles/").removesuffix(".json"),
            )
