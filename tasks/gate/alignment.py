"""The champion's answers in the classes of the challenger: names are read through the taxonomy.

N images, J classes of the champion, K of the challenger.

- renamed: the same column; merged: the columns are one class; retired: left out
- split: the champion cannot tell the parts apart, and need not: its whole probability goes to the part that the
  challenger finds likeliest, so that both are compared by what the champion can say
- new: probability 0
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.labels.taxonomy import Taxonomy

HALF = 0.5  # the threshold of a class that several multi-label columns make


@dataclass(frozen=True)
class Alignment:
    """Where each of the champion's J classes lies among the K classes of today."""

    own: tuple[str, ...]  # (J,)
    classes: tuple[str, ...]  # (K,)
    places: tuple[tuple[int, ...], ...]  # (J,) columns of today; several where the class was split

    @property
    def divided(self) -> bool:
        """Whether a class of the champion was split: its answers then depend on the challenger's."""
        return any(len(columns) > 1 for columns in self.places)

    def sources(self, column: int) -> list[int]:
        """The champion's columns that make column `column` of today."""
        return [number for number, columns in enumerate(self.places) if column in columns]

    def thresholds(self, thresholds: Mapping[str, float]) -> dict[str, float]:
        """Thresholds of the classes of today that the champion knows, from those of its own classes."""
        found = {}
        for column, name in enumerate(self.classes):
            sources = self.sources(column)
            if sources:
                found[name] = thresholds[self.own[sources[0]]] if len(sources) == 1 else HALF
        return found

    def weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Weights of multi-class answers for the classes of today, from those of its own classes; merged: the mean."""
        found = {}
        for column, name in enumerate(self.classes):
            own = [weights.get(self.own[number], 1.0) for number in self.sources(column)]
            if own:
                found[name] = sum(own) / len(own)
        return found

    def columns(
        self,
        probabilities: np.ndarray,
        task: str,
        thresholds: Mapping[str, float] | None = None,
        challenger: np.ndarray | None = None,
    ) -> np.ndarray:
        """(N, K) from the champion's (N, J). challenger: its (N, K) weighted probabilities, needed where `divided`.

        thresholds: of the champion's classes; merged multi-label columns are put on one scale by them, so that the
        class is answered where one of them was.
        """
        out = np.zeros((len(probabilities), len(self.classes)), probabilities.dtype)
        rows = np.arange(len(probabilities))
        merged = {column for column in range(len(self.classes)) if len(self.sources(column)) > 1}
        for number, columns in enumerate(self.places):
            if not columns:
                continue
            value = probabilities[:, number]
            part = np.full(len(rows), columns[0])
            if len(columns) > 1:
                part = np.array(columns)[challenger[:, list(columns)].argmax(axis=1)]
            if task == "multiclass":
                out[rows, part] += value
            else:
                if merged.intersection(columns):
                    value = _rescaled(value, (thresholds or {}).get(self.own[number], HALF))
                out[rows, part] = np.maximum(out[rows, part], value)
        return out


def alignment(own: Sequence[str], classes: Sequence[str], taxonomy: Taxonomy) -> Alignment:
    """Place the champion's classes `own` among `classes`."""
    atoms = [taxonomy.atoms(name) for name in classes]
    places = tuple(
        tuple(column for column, inside in enumerate(atoms) if inside & taxonomy.atoms(name)) for name in own
    )
    return Alignment(tuple(own), tuple(classes), places)


def _rescaled(values: np.ndarray, threshold: float) -> np.ndarray:
    """`values` (N,) with `threshold` moved to HALF; 0 and 1 stay."""
    low, high = values * HALF / threshold, HALF + (values - threshold) * HALF / max(1 - threshold, 1e-12)
    return np.where(values >= threshold, high, low).astype(values.dtype)
