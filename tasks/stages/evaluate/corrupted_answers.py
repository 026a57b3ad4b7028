"""Answers of an exported model for corrupted images, cached in blocks.

Cache entry: <state>/cache/corrupted/<key>/<block>.npy, (B, K) float32: probabilities of at most BLOCK images under one
corruption. `key` covers the model's bytes, the images section and the code; `block` the corruption and the ids. A
missing or damaged entry is computed again, so entries that another machine computed save time and change no result.
When a model becomes the champion, the next runs find the entries of its own evaluation.

N images, B of them in a block, S the side of the model's input in pixels, K classes of the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np

from tasks.common.code import code_version
from tasks.common.files import content_key, sha256_file
from tasks.common.params import ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.sealed import sealed_path
from tasks.dataset.pixels import npy_header, open_array
from tasks.dataset.shard_table import ShardTable
from tasks.inference.onnx_model import OnnxModel
from tasks.scoring.corruptions import corrupt

BLOCK = 256  # images in memory at once, and in an entry


def answer_block(model: OnnxModel, corruption: str, pixels: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """(B, K) float32 probabilities of `model` for `pixels` (B, S, S, 3) uint8 of the images `ids`, corrupted."""
    changed = [corrupt(corruption, image, id_) for image, id_ in zip(pixels, ids, strict=True)]
    return model(np.stack(changed)).probabilities


@dataclass(frozen=True)
class Block:
    """Images that are corrupted and answered together."""

    corruption: str
    rows: np.ndarray  # (B,) places in the ids and pixels
    ids: list[str]  # (B,)
    file: Path  # the cache entry

    def stored(self) -> np.ndarray | None:
        """The entry, (B, K) float32; None: it is missing or was damaged."""
        return open_array(self.file)

    def store(self, values: np.ndarray) -> None:
        """Write `values`, (B, K) float32, as the entry."""
        with sealed_path(self.file) as temporary, open(temporary, "wb") as out:
            npy_header(out, np.float32, values.shape)
            out.write(np.ascontiguousarray(values, np.float32).data)


@dataclass(frozen=True)
class CorruptedAnswers:
    """The probabilities of the exported model in the file `model`: `found(corruption, rows)`, from any thread."""

    root: Path
    model: Path
    images: ImagesParams  # how `pixels` were preprocessed
    pixels: ShardTable  # (N or more, S, S, 3) uint8
    ids: Sequence[str]  # (N,) of the first rows of `pixels`
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def __call__(self, corruption: str, rows: np.ndarray) -> np.ndarray:
        """(n, K) float32 for the images in places `rows`, (n,), n at least 1; from the cache where it has them."""
        return np.concatenate([self._answer(block) for block in self.blocks(corruption, rows)])

    def blocks(self, corruption: str, rows: np.ndarray) -> Iterator[Block]:
        """`rows` in blocks, in order."""
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            ids = [self.ids[row] for row in part]
            yield Block(corruption, part, ids, self._folder / f"{content_key(corruption, ids)[:32]}.npy")

    def _answer(self, block: Block) -> np.ndarray:
        if (stored := block.stored()) is not None:
            return stored
        with self._lock:
            model = self._loaded
        values = answer_block(model, block.corruption, self.pixels[block.rows], block.ids)
        block.store(values)
        return values

    @cached_property
    def _folder(self) -> Path:
        code = code_version("tasks.stages.evaluate.corrupted_answers")
        key = content_key(sha256_file(self.model), self.images.model_dump(), code)[:32]
        return cache_dir("corrupted", self.root) / key

    @cached_property
    def _loaded(self) -> OnnxModel:
        return OnnxModel(self.model)
