"""Stored features of images, as stages and answers left them: nothing is computed by a network here.

Images of data/ have features of the pretrained backbone (the cache of the stage `embed`), answers those of their own
model (the production log). The two are different spaces. N images, D dimensions.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flows.console.index.index import ImageRow
from monitoring.log.production_log import open_log
from tasks.backbones.features import feature_file, feature_folder
from tasks.common.params import Params
from tasks.dataset.pixels import open_array
from tasks.models.pretrained import network_key


def read_features(root: Path, params: Params, rows: Sequence[ImageRow]) -> tuple[list[ImageRow], np.ndarray]:
    """(the rows among `rows` that have features, their (N, D) float32 features). Rows: all of data/, or all answers."""
    by_file: dict[str, list[ImageRow]] = {}
    for row in rows:
        by_file.setdefault(row.file, []).append(row)
    logged = bool(rows) and rows[0].logged
    read = _of_log(root, params) if logged else _of_data(root, params)
    kept: list[ImageRow] = []
    parts: list[np.ndarray] = []
    for file, of in by_file.items():
        of = sorted(of, key=lambda row: row.place)
        found = read(file, np.array([row.place for row in of]))
        if found is None or (parts and found[1].shape[1] != parts[0].shape[1]):  # another model's space
            continue
        there, values = found
        kept += [row for row, good in zip(of, there, strict=True) if good]
        parts.append(values)
    return kept, np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def data_maps(root: Path, params: Params, shards: Sequence[str]) -> dict[str, np.ndarray]:
    """Shard -> (rows, D) memory map of its cached features, of those that have one."""
    folder = feature_folder(root, params.images, network_key(params.embed))
    maps = {shard: open_array(feature_file(folder, shard)) for shard in shards}
    return {shard: found for shard, found in maps.items() if found is not None}


Reader = Callable[[str, np.ndarray], tuple[np.ndarray, np.ndarray] | None]


def _of_data(root: Path, params: Params) -> Reader:
    def read(shard: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        found = data_maps(root, params, [shard]).get(shard)
        if found is None or places.max() >= len(found):
            return None
        values = np.asarray(found[places], np.float32)
        return _finite(values)

    return read


def _of_log(root: Path, params: Params) -> Reader:
    log = open_log(root, params)

    def read(key: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        table = log.at_places(key, places.tolist(), ["features"])
        found = [] if table is None else table["features"].to_pylist()
        known = [values for values in found if values]
        if len(found) != len(places) or not known or len({len(values) for values in known}) > 1:
            return None
        there = np.array([bool(values) for values in found])
        values = np.array(known, np.float32)
        good, values = _finite(values)
        there[there] = good
        return there, values

    return read


def _finite(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    good = np.isfinite(values).all(axis=1)
    return good, values[good]


def plane(features: np.ndarray) -> np.ndarray:
    """(N, 2) in 0..1: the two directions in which the (N, D) features vary most (PCA), outliers cut to the edge."""
    if len(features) < 3:
        return np.column_stack([np.linspace(0.3, 0.7, len(features)), np.full(len(features), 0.5)])
    centred = features - features.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred / len(features))
    places = centred @ vectors[:, :-3:-1]
    low, high = np.percentile(places, [1, 99], axis=0)
    return np.clip((places - low) / np.maximum(high - low, 1e-12), 0, 1).astype(np.float32)


def nearest(features: np.ndarray, wanted: np.ndarray, most: int) -> list[tuple[int, float]]:
    """(row, cosine similarity) of the (N, D) features most like `wanted` (D,), best first."""
    lengths = np.linalg.norm(features, axis=1) * max(float(np.linalg.norm(wanted)), 1e-12)
    similar = (features @ wanted) / np.maximum(lengths, 1e-12)
    best = np.argpartition(-similar, min(most, len(similar) - 1))[:most] if len(similar) else np.empty(0, int)
    return [(int(row), float(similar[row])) for row in best[np.argsort(-similar[best], kind="stable")]]
