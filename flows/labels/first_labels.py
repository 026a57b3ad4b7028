"""Suggest first labels from class names alone, by a CLIP model, for people to check.

A suggestion is a pick of the queue (flows.labels.pick_data) with an answer. It becomes a label when a person says so.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.labels.define import meanings
from flows.labels.pick_data import SUGGESTED
from flows.labels.samples import data_classes
from tasks.active.methods import in_turn
from tasks.active.pool import Limits, Pool, source_quota
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.labels.taxonomy import read_taxonomy
from tasks.models import zero_shot
from tasks.models.clip import find_clip


class FirstLabels:
    """Suggestions of the CLIP model `name` for the classes of the project. Raises EvergreenError before any work."""

    def __init__(self, root: Path, params: Params, name: str, prompts: Sequence[str] = ()):
        if params.data.task == "multilabel":
            raise EvergreenError("suggestions from class names need one label per image: data.task is multilabel")
        if wrong := [text for text in prompts if "{}" not in text]:
            raise EvergreenError(f"--prompt {wrong[0]!r} does not say where the class goes: write {{}} there")
        self._root, self._params = root, params
        self._prompts = tuple(prompts) or zero_shot.PROMPTS
        self.because = f"suggested from class names by the CLIP model {name}, not checked by a person"
        taxonomy = read_taxonomy(root / "data")
        listed = params.data.classes
        names = data_classes(root) if listed is None else [*taxonomy.current(listed), *taxonomy.classes]
        said = meanings(root / "data")
        self._classes = {one: said[one].text if one in said else "" for one in dict.fromkeys(names)}
        if len(self._classes) < 2:
            raise EvergreenError(
                f"suggestions need two class names or more, found {len(self._classes)}: "
                "give them with `evergreen classes add NAME`"
            )
        self._folder = find_clip(name)

    def entries(self, free: pa.Table, budget: int, seen: Sequence[int]) -> list[tuple[str, str, str, float, str]]:
        """Up to `budget` of the unlabelled images `free` with an answer, the most certain first."""
        images = self._params.images
        p = zero_shot.zero_shot(self._root, free, self._folder, self._classes, images, self._prompts)
        pool = Pool(p, p, sources=free["source"].to_pylist(), hashes=free["phash"].to_numpy())
        names, share = list(self._classes), self._params.review.max_source_share
        return [
            (free["id"][row].as_py(), SUGGESTED, names[int(p[row].argmax())], float(p[row].max()), "train")
            for row in most_certain(pool, budget, share, seen)
        ]


def most_certain(pool: Pool, budget: int, max_source_share: float, seen: Sequence[int] = ()) -> list[int]:
    """Rows of up to `budget` images, the most certain first; each class gives its most certain ones in turn.

    So a class that the model answers rarely is among them, too. Near-duplicates and quotas as for other picks.
    """
    p = pool.probabilities
    limits = Limits(pool, source_quota(pool, budget, max_source_share), seen)
    for row in in_turn(p.argmax(axis=1), -p.max(axis=1), np.zeros(p.shape[1])):
        if len(limits.taken) < budget and limits.open[row]:
            limits.take(int(row))
    return sorted(limits.taken, key=lambda row: -p[row].max())
