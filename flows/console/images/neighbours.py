"""The images most like one image, by stored features."""

from pathlib import Path

import numpy as np

from flows.console.images.features import data_maps, nearest, read_features
from flows.console.index.index import ImageRow, Index
from tasks.common.params import Params

MOST = 12
Near = list[tuple[ImageRow, float]]  # with the cosine similarity, best first
COMPARED = 2_000  # answers of the same model that an answer is compared with: the nearest in time


def neighbours(root: Path, params: Params, index: Index, row: ImageRow, most: int = MOST) -> Near:
    """The images most like `row`; [] where no features of it are stored."""
    return _among_answers(root, params, index, row, most) if row.logged else _in_data(root, params, index, row, most)


def _in_data(root: Path, params: Params, index: Index, row: ImageRow, most: int) -> Near:
    maps = data_maps(root, params, index.shards())
    if row.file not in maps or row.place >= len(maps[row.file]):
        return []
    wanted = np.asarray(maps[row.file][row.place], np.float32)
    found: list[tuple[float, str, int]] = []
    for shard, values in maps.items():  # one shard in memory at a time
        if values.shape[1] == len(wanted):
            near = nearest(np.asarray(values, np.float32), wanted, most + 1)
            found += [(similar, shard, place) for place, similar in near]
    found = [one for one in sorted(found, key=lambda one: -one[0]) if one[1:] != (row.file, row.place)]
    rows = index.at_places([(shard, place) for _, shard, place in found[: most + 5]])
    close = [(rows[shard, place], similar) for similar, shard, place in found if (shard, place) in rows]
    return [(other, similar) for other, similar in close if other.id != row.id][:most]


def _among_answers(root: Path, params: Params, index: Index, row: ImageRow, most: int) -> Near:
    others = index.answers_near(row, COMPARED)
    mine, wanted = read_features(root, params, [row])
    if not mine:
        return []
    rows, features = read_features(root, params, [other for other in others if other.id != row.id])
    if not rows or features.shape[1] != wanted.shape[1]:
        return []
    return [(rows[place], similar) for place, similar in nearest(features, wanted[0], most)]
