"""The images most like one image, by stored features.

Images of data/ are compared in two steps: all of them by short sketches of their features, which stay in memory, then
the best by the features themselves. A sketch is a random projection of the direction (Johnson and Lindenstrauss, 1984),
which keeps angles to about 1/sqrt(SKETCH). N images, D dimensions.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flows.console.images.features import data_maps, nearest, read_features
from flows.console.index.index import ImageRow, Index
from tasks.common.params import Params

MOST = 12
SKETCH = 64  # dimensions of a sketch
KEPT = 200  # images whose neighbours are remembered until the index changes
AGAIN = 200  # images that are compared by their features
FILES, ANSWERS = 15, 1_000  # of the log, nearest in time, that an answer is compared with
Near = list[tuple[ImageRow, float]]  # with the cosine similarity, best first


class Sketches:
    """Sketches of the features of data/, shard by shard: 128 bytes an image; and what was found lately."""

    def __init__(self):
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple, Near] = OrderedDict()
        self._known: dict[tuple[str, int], np.ndarray] = {}  # (shard, D) -> (rows, SKETCH) float16, of length 1

    def remembered(self, key: tuple, look: Callable[[], Near]) -> Near:
        """What `look` found for `key`, of the last KEPT keys."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        found = look()
        with self._lock:
            self._found[key] = found
            while len(self._found) > KEPT:
                self._found.popitem(last=False)
        return found

    def nearest(self, maps: dict[str, np.ndarray], wanted: np.ndarray, most: int) -> list[tuple[str, int]]:
        """(shard, row) of the images of `maps` (shard -> (rows, D) features) most like `wanted` (D,), best first."""
        with self._lock:
            used = {
                (shard, values.shape[1]): values for shard, values in maps.items() if values.shape[1] == len(wanted)
            }
            self._known = {key: self._known[key] if key in self._known else sketch(used[key]) for key in used}
            known = dict(self._known)
        aim = sketch(wanted[None])[0].astype(np.float32)
        names, similar = [], []
        for (shard, _), values in known.items():
            scores = values.astype(np.float32) @ aim
            best = np.argpartition(-scores, min(most, len(scores) - 1))[:most] if len(scores) else []
            names += [(shard, int(row)) for row in best]
            similar += [scores[row] for row in best]
        return [names[place] for place in np.argsort(-np.array(similar), kind="stable")[:most]]


def sketch(features: np.ndarray) -> np.ndarray:
    """(N, SKETCH) float16: directions of the (N, D) features, projected and of length 1. Few at a time in float32."""
    projection = _projection(features.shape[1])
    found = np.empty((len(features), SKETCH), np.float16)
    for start in range(0, len(features), 4096):
        part = np.nan_to_num(np.asarray(features[start : start + 4096], np.float32)) @ projection
        found[start : start + 4096] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return found


@functools.cache
def _projection(dimensions: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (dimensions, SKETCH)).astype(np.float32)


@functools.cache
def sketches_of(root: Path) -> Sketches:
    """The sketches of the project at `root`; every request shares them."""
    return Sketches()


def neighbours(root: Path, params: Params, index: Index, row: ImageRow, most: int = MOST) -> Near:
    """The images most like `row`; [] where no features of it are stored."""
    look = _among_answers if row.logged else _in_data
    key = (row.id, row.file, row.place, most, index.columns().generation)
    return sketches_of(root).remembered(key, lambda: look(root, params, index, row, most))


def _in_data(root: Path, params: Params, index: Index, row: ImageRow, most: int) -> Near:
    maps = data_maps(root, params, index.shards())
    if row.file not in maps or row.place >= len(maps[row.file]):
        return []
    wanted = np.asarray(maps[row.file][row.place], np.float32)
    places = sketches_of(root).nearest(maps, wanted, AGAIN)
    features = np.array([maps[shard][place] for shard, place in places], np.float32)
    order = nearest(features, wanted, most + 5)
    rows = index.at_places([places[number] for number, _ in order])
    close = [(rows[places[number]], similar) for number, similar in order if places[number] in rows]
    return [(other, similar) for other, similar in close if other.id != row.id][:most]


def _among_answers(root: Path, params: Params, index: Index, row: ImageRow, most: int) -> Near:
    mine, wanted = read_features(root, params, [row])
    if not mine:
        return []
    others = [other for other in index.answers_near(row, ANSWERS) if other.id != row.id]
    others.sort(key=lambda other: abs(other.at - row.at))
    files = list(dict.fromkeys(other.file for other in others))[:FILES]
    rows, features = read_features(root, params, [other for other in others if other.file in set(files)])
    if not rows or features.shape[1] != wanted.shape[1]:
        return []
    return [(rows[place], similar) for place, similar in nearest(features, wanted[0], most)]
