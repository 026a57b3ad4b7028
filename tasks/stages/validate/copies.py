"""Leave out training images that are cropped, turned or augmented copies of held-out ones.

What the perceptual hash sees, stage `inspect` has excluded already. Every pair of images is compared once: results are
kept in the cache, so a run only pays for new images.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.params import EmbedParams, ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.sealed import read_sealed, sealed_path
from tasks.dataset.pixels import pixel_table
from tasks.leaks.find import Found, find_copies
from tasks.models.pretrained import network_key, pretrained_features

COPIES = pa.schema(  # artifacts/validate/copies.parquet: training images excluded as copies of a held-out one
    [
        ("id", pa.string()),
        ("near_id", pa.string()),  # the held-out image
        ("near_split", pa.string()),
        ("agreement", pa.float32()),  # of their pixels, laid over each other (tasks.leaks.align.similarity)
        ("least", pa.float32()),  # what a copy needs in this data set
    ]
)
COMPARED = pa.schema([("id", pa.string()), ("near_id", pa.string()), ("agreement", pa.float32())])


class Search(NamedTuple):
    """What one project's images need to be compared."""

    root: Path
    embed: EmbedParams
    images: ImagesParams


def exclude_copies(search: Search, samples: pa.Table, splits: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """`samples` with copies of images of `splits` excluded, and COPIES. The first split that fits is the reason."""
    excluded = np.array(samples["excluded"].to_pylist(), object)
    split, ids = np.array(samples["split"].to_pylist(), object), samples["id"].to_pylist()
    fine = pc.equal(samples["status"], "ok").to_numpy()
    rows = []
    for name in splits:
        held = np.flatnonzero(fine & (split == name))
        train = np.flatnonzero(fine & (split == "train") & (excluded == None))  # noqa: E711 - elementwise
        if not len(held) or not len(train):
            continue
        found = _searched(search, samples, train, held, name)
        best: dict[int, tuple[float, int, float]] = {}
        shown = (part[found.copies].tolist() for part in (found.pairs, found.z, found.least))
        for (t, h), z, least in zip(*shown, strict=True):
            best[t] = max(best.get(t, (z, h, least)), (z, h, least))
        for t, (z, h, least) in sorted(best.items()):
            excluded[train[t]] = f"leaks_{name}"
            rows.append([ids[train[t]], ids[held[h]], name, z, least])
    place = samples.column_names.index("excluded")
    samples = samples.set_column(place, "excluded", pa.array(excluded, pa.string()))
    columns = list(zip(*rows, strict=True)) or [[]] * len(COPIES)
    return samples, pa.table([pa.array(c, f.type) for c, f in zip(columns, COPIES, strict=True)], schema=COPIES)


def why(copy: dict) -> str:
    """The evidence of a row of COPIES, for people."""
    where = "the hard set" if copy["near_split"] == "hard" else copy["near_split"]
    return (
        f"a copy of {copy['near_id'][:12]} in {where}: laid over each other, their details agree by "
        f"{copy['agreement']:.2f}; {copy['least']:.2f} shows a copy here"
    )


def _searched(search: Search, samples: pa.Table, train: np.ndarray, held: np.ndarray, split: str) -> Found:
    """The search of rows `train` (T,) for copies of rows `held` (H,) of `samples`; earlier results are used."""
    ids = np.array(samples["id"].to_pylist(), object)
    names, held_names = ids[train], ids[held]
    code = code_version("tasks.stages.validate.copies")
    code = content_key(network_key(search.embed), search.images.model_dump(), code)
    file = cache_dir("copies", search.root) / f"{code[:16]}-{split}.parquet"
    known, old, old_held = _read(file)
    of, of_held = ({name: row for row, name in enumerate(part)} for part in (names, held_names))
    earlier = {(of[t], of_held[h]): z for (t, h), z in known.items() if t in of and h in of_held}
    new = np.array([name not in old for name in names])
    new_held = np.array([name not in old_held for name in held_names])
    tables = [samples.take(pa.array(rows)).select(["shard", "row"]) for rows in (train, held)]
    x, held_x = (pretrained_features(search.root, t, embed=search.embed, images=search.images)[:] for t in tables)
    pixels, held_pixels = (pixel_table(search.root, t, search.images).__getitem__ for t in tables)
    found = find_copies(x, pixels, held_x, held_pixels, new, new_held, earlier)
    if new.any() or new_held.any() or len(found.compared) > len(earlier):
        _write(file, found, names, held_names)
    return found


def _read(file: Path) -> tuple[dict[tuple[str, str], float], set[str], set[str]]:
    """(similarity of each pair, ids trained on, ids held out) of the searches so far."""
    if (content := read_sealed(file)) is None:
        return {}, set(), set()
    columns = pq.read_table(io.BytesIO(content)).to_pydict()
    pairs, old, old_held = {}, set(), set()
    for t, h, z in zip(*columns.values(), strict=True):
        if t and h:
            pairs[t, h] = z
        elif t:
            old.add(t)
        else:
            old_held.add(h)
    return pairs, old, old_held


def _write(file: Path, found: Found, names: np.ndarray, held_names: np.ndarray) -> None:
    """Keep what was compared, and which images were searched: rows with one id."""
    rows = [(names[t], held_names[h], z) for (t, h), z in found.compared.items()]
    rows += [(name, None, None) for name in names] + [(None, name, None) for name in held_names]
    columns = zip(*rows, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, COMPARED, strict=True)], schema=COMPARED)
    with sealed_path(file) as temporary:
        pq.write_table(table, temporary, compression="zstd")
