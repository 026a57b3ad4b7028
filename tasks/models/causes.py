"""Which training rows taught a classifier its mistakes, and which look most like the mistaken image.

N training rows, K classes, D features, Q mistakes.
"""

from dataclasses import dataclass

import numpy as np

from tasks.models import influence
from tasks.models.influence import Taught

ROWS = 9  # training rows named for one mistake
WORK = 4e11  # multiplications for all questions: about a minute on two cores
LEAST, MOST = 20, 500  # mistakes that are explained


@dataclass(frozen=True)
class Causes:
    """Training rows behind one mistake, the strongest first.

    taught: (row, by how much the wrong answer's lead over the right one falls without it). near: (row, cosine
    similarity).
    """

    taught: list[tuple[int, float]]
    near: list[tuple[int, float]]


def explainable(taught: Taught) -> int:
    """How many mistakes can be explained in about a minute."""
    each = len(taught.y) * taught.classes * taught.x.shape[1] * 12.0
    return int(np.clip(WORK / each, LEAST, MOST))


def find_causes(
    taught: Taught, x: np.ndarray, answers: np.ndarray, truths: np.ndarray, rows: int = ROWS
) -> list[Causes]:
    """The causes of Q mistakes. x: (Q, D - 1) features; answers, truths: (Q, K) of 0 and 1.

    Rows are ordered by their effect alone. Relative to a row's effect on itself (RelatIF, Barshan et al. 2020), half as
    many of the rows named have wrong labels, and no few outliers win here.
    """
    found: list[Causes] = []
    if not len(x):
        return found
    block = max(1, influence.TOGETHER // max(taught.y.size, 1))
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        z = taught.standardised(x[part])
        directions = (answers[part] - truths[part]).astype(np.float32)
        solved = influence.solve(taught, directions[:, :, None] * z[:, None, :], influence.ROUGH)
        effects, similar = -influence.left_out(taught, solved), influence.cosine(taught, z)
        for effect, like in zip(effects, similar, strict=True):
            strongest = [row for row in _first(effect, rows) if effect[row] > 0]
            taught_by = [(row, float(effect[row])) for row in strongest]
            found.append(Causes(taught_by, [(row, float(like[row])) for row in _first(like, rows)]))
    return found


def _first(values: np.ndarray, most: int) -> list[int]:
    best = np.argpartition(-values, min(most, len(values) - 1))[:most]
    return [int(row) for row in best[np.argsort(-values[best], kind="stable")]]
