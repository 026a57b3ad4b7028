"""Leave out training images that are cropped, turned or augmented copies of held-out ones.

What the perceptual hash sees, stage `inspect` has excluded already. Every pair of images is compared once: what was
measured is kept in the cache, so a run only pays for new images. What is a copy depends on the images alone.
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
LOOKS = pa.schema(
    [
        ("id", pa.string()),
        ("look", pa.binary()),  # float16 for each held-out image
        ("held", pa.list_(pa.string())),  # their ids, in the first row only
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
    """The search of rows `train` (T,) for copies of rows `held` (H,) of `samples`; earlier measurements are used."""
    ids = np.array(samples["id"].to_pylist(), object)
    names, held_names = ids[train], ids[held]
    code = code_version("tasks.stages.validate.copies")
    code = content_key(network_key(search.embed), search.images.model_dump(), code)
    folder = cache_dir("copies", search.root) / f"{code[:16]}-{split}"
    looks = _read_looks(folder / "looks.parquet", names, held_names)
    known = _read_compared(folder / "compared.parquet", names, held_names)
    tables = [samples.take(pa.array(rows)).select(["shard", "row"]) for rows in (train, held)]
    x, held_x = (pretrained_features(search.root, t, embed=search.embed, images=search.images)[:] for t in tables)
    pixels, held_pixels = (pixel_table(search.root, t, search.images).__getitem__ for t in tables)
    found = find_copies(x, pixels, held_x, held_pixels, looks, known)
    if np.isnan(looks).any():
        rows = [part.tobytes() for part in found.looks]
        columns = names.tolist(), rows, [held_names.tolist()] + [None] * (len(rows) - 1)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, LOOKS, strict=True)]
        _write(folder / "looks.parquet", pa.table(arrays, schema=LOOKS))
    if not found.compared.keys() <= known.keys():
        rows = [(names[t], held_names[h], z) for (t, h), z in found.compared.items()]
        columns = zip(*rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, COMPARED, strict=True)]
        _write(folder / "compared.parquet", pa.table(arrays, schema=COMPARED))
    return found


def _read_looks(file: Path, names: np.ndarray, held_names: np.ndarray) -> np.ndarray:
    """(T, H) agreement of a coarse look, NaN for pairs that no search has looked at yet."""
    looks = np.full((len(names), len(held_names)), np.nan, np.float16)
    if (content := read_sealed(file)) is None:
        return looks
    table = pq.read_table(io.BytesIO(content))
    before = {name: row for row, name in enumerate(table["id"].to_pylist())}
    before_held = {name: row for row, name in enumerate(table["held"][0].as_py())}
    rows, held = (
        np.array([(now, then[name]) for now, name in enumerate(part) if name in then], np.int64).reshape(-1, 2)
        for part, then in ((names, before), (held_names, before_held))
    )
    values = table["look"].take(pa.array(rows[:, 1])).to_pylist()
    for now, value in zip(rows[:, 0], values, strict=True):
        looks[now, held[:, 0]] = np.frombuffer(value, np.float16)[held[:, 1]]
    return looks


def _read_compared(file: Path, names: np.ndarray, held_names: np.ndarray) -> dict[tuple[int, int], float]:
    """(row trained on, row held out) -> similarity, of the pairs of the last search that are still here."""
    if (content := read_sealed(file)) is None:
        return {}
    columns = pq.read_table(io.BytesIO(content)).to_pydict().values()
    of, of_held = ({name: row for row, name in enumerate(part)} for part in (names, held_names))
    return {(of[t], of_held[h]): z for t, h, z in zip(*columns, strict=True) if t in of and h in of_held}


def _write(file: Path, table: pa.Table) -> None:
    with sealed_path(file) as temporary:
        pq.write_table(table, temporary, compression="zstd")
