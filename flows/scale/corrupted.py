"""Fill the cache of answers for corrupted images by a Ray cluster, before they are read.

A task gets the pixels of one block and calls the function that the stage would call; the driver writes the entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.scale.carried import Carried, carry
from flows.scale.spread import spread
from tasks.common.artifacts import training_rows
from tasks.common.params import Params
from tasks.dataset.pixels import pixel_table
from tasks.inference.onnx_model import OnnxModel
from tasks.stages.evaluate.corrupted import chosen_rows
from tasks.stages.evaluate.corrupted_answers import CorruptedAnswers, answer_block

LEAST = 2  # blocks; a single one is computed where it is read


def fill_evaluate(root: Path, params: Params, say: Callable[[str], object] = print) -> int:
    """Fill the entries that stage evaluate will read in the project at `root`; returns how many."""
    rows = training_rows(root)["test"]
    if not len(rows):  # the stage says what to do
        return 0
    pixels, ids = pixel_table(root, rows, params.images), rows["id"].to_pylist()
    model = root / "artifacts/calibrate/model.onnx"
    return fill_answers(CorruptedAnswers(root, model, params.images, pixels, ids), params, say)


def fill_answers(answers: CorruptedAnswers, params: Params, say: Callable[[str], object] = print) -> int:
    """Fill the entries that `answers` lacks; returns how many. Needs scale.engine: ray."""
    rows = chosen_rows(answers.ids, params.evaluate)
    blocks = [block for name in params.evaluate.corruptions for block in answers.blocks(name, rows)]
    missing = [block for block in blocks if block.stored() is None]
    if len(missing) < LEAST:
        return 0
    items = ((block.corruption, answers.pixels[block.rows], block.ids) for block in missing)
    function = _AnswerBlock(carry(answers.model.parent, [answers.model.name]))
    for block, values in zip(missing, spread(function, items, params.scale, say=say, name=_name), strict=True):
        block.store(values)
    return len(missing)


@dataclass(frozen=True)
class _AnswerBlock:
    model: Carried

    def __call__(self, item: tuple[str, np.ndarray, list[str]]) -> np.ndarray:
        return answer_block(self.model.loaded(_only_model), *item)


def _only_model(folder: Path) -> OnnxModel:
    (file,) = folder.iterdir()
    return OnnxModel(file)


def _name(item: tuple[str, np.ndarray, list[str]]) -> str:
    return f"{len(item[2])} images under {item[0]}"
