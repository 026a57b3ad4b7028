"""Other images that look like erased ones, by perceptual hash or by the nearest embeddings.

A copy that was compressed again or cropped has another id, so an erasure does not reach it. These are named, for a
person to decide. N rows, D feature dimensions.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BITS = 4  # of 64 that the perceptual hashes of near-duplicates differ in, at most (as inspect.near_duplicate_bits)
COSINE = 0.995  # of the features of two images, at least
BLOCK = 65_536  # rows compared at once


@dataclass
class Looks:
    """What erased images look like: hashes, and features by the model that made them."""

    hashes: set[int] = field(default_factory=set)
    features: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)  # (bundle, D) -> unit vectors


def learn_looks(looks: Looks, file: Path | BinaryIO, ids: Collection[str], model: str = "") -> None:
    """Add the rows of `ids`. model: the bundle whose features the file holds, where no column says it."""
    for table in _tables(file):
        rows = table.filter(pc.is_in(table["id"], pa.array(sorted(ids), pa.string())))
        if "phash" in rows.column_names:
            looks.hashes |= set(rows["phash"].drop_null().to_pylist())
        for bundle, _, vectors in _features(rows, model):
            looks.features.setdefault((bundle, vectors.shape[1]), []).extend(vectors)


def find_alike(looks: Looks, file: Path | BinaryIO, ids: Collection[str], model: str = "") -> set[str]:
    """Ids of other rows that look like one of `looks`."""
    found: set[str] = set()
    for table in _tables(file):
        names = table["id"].to_pylist()
        if looks.hashes and "phash" in table.column_names:
            hashes = table["phash"].fill_null(0).to_numpy().astype(np.uint64)
            known = table["phash"].is_valid().to_numpy()
            near = np.zeros(len(table), bool)
            for one in looks.hashes:
                near |= known & (np.bitwise_count(hashes ^ np.uint64(one)) <= BITS)
            found |= {names[row] for row in np.flatnonzero(near)}
        for bundle, listed, vectors in _features(table, model):
            known = looks.features.get((bundle, vectors.shape[1]))
            if known:
                close = (vectors @ np.array(known).T).max(axis=1) >= COSINE
                found |= {listed[row] for row in np.flatnonzero(close)}
    return found - set(ids)


def _tables(file: Path | BinaryIO) -> Iterator[pa.Table]:
    """The columns id, phash, bundle and features, as far as the file has them, in blocks."""
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, pa.ArrowException):
        return
    names = [name for name in ("id", "phash", "bundle", "features") if name in parquet.schema_arrow.names]
    if "id" in names and len(names) > 1:
        for batch in parquet.iter_batches(batch_size=BLOCK, columns=names):
            yield pa.Table.from_batches([batch])


def _features(table: pa.Table, model: str) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """(bundle, ids, unit vectors (N, D)) of the rows with features, by bundle and D."""
    if "features" not in table.column_names:
        return
    table = table.filter(pc.is_valid(table["features"])).combine_chunks()
    bundles = np.array(table["bundle"].to_pylist() if "bundle" in table.column_names else [model] * len(table), object)
    lengths = pc.list_value_length(table["features"]).to_numpy(zero_copy_only=False)
    names = np.array(table["id"].to_pylist(), object)
    for bundle, length in sorted({(b, n) for b, n in zip(bundles, lengths, strict=True) if b is not None and n > 0}):
        rows = np.flatnonzero((bundles == bundle) & (lengths == length))
        flat = pc.list_flatten(table["features"].take(pa.array(rows))).to_numpy(zero_copy_only=False)
        matrix = np.nan_to_num(flat.astype(np.float32).reshape(len(rows), length), posinf=0, neginf=0)
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        yield bundle, names[rows].tolist(), matrix / np.where(norms > 0, norms, 1)
