"""The picked images of data/ as people are shown them, next to those of production."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.labels.first_labels import FirstLabels
from flows.labels.pick_data import DataPick, images, pick_data, picked, waiting
from flows.labels.stones import tombstones_now
from monitoring.review.asked import Asked
from tasks.active.outlook import lines, training_curve
from tasks.active.samples import class_names, live_samples
from tasks.common.errors import DataError
from tasks.common.params import Params

DETAIL = {
    "train": "teaches the next model",
    "calibration": "measures the next model",
    "test": "measures the next model",
    "hard": "measures the next model on hard images",
}


def pick_and_forecast(
    root: Path, params: Params, budget: int, clip: str | None = None, prompts: Sequence[str] = ()
) -> tuple[list[DataPick], list[str]]:
    """Pick up to `budget` unlabelled images of data/; also says, for the terminal, what so many labels would bring.

    clip: the CLIP model that suggests their labels from class names, in the sentences `prompts`.
    """
    suggester = None if clip is None else FirstLabels(root, params, clip, prompts)
    samples = live_samples(root, params, tombstones_now(root, params))
    found = pick_data(root, params, budget, samples, suggester)
    try:
        curve, classes = training_curve(root, params, samples)
    except DataError as error:
        return found, [f"what these labels would bring cannot be told yet: {error}"]
    return found, lines(curve, classes, budget, params.review.min_gain)[1:3]


class DataQueue:
    """The picks that still have no label. Reads data/ only if anything was ever picked."""

    def __init__(self, root: Path, params: Params):
        self._root = root
        self._samples = live_samples(root, params, tombstones_now(root, params)) if picked(root) else None
        self._found = [] if self._samples is None else waiting(root, self._samples)
        self.entries = [_asked(entry, row) for entry, row in self._found]

    @property
    def rows(self) -> list[dict]:
        """Where the images of the entries are: shard and row, among others."""
        return [row for _, row in self._found]

    def shown(self) -> Iterator[tuple[Asked, bytes]]:
        """The entries with their encoded images, with one image in memory at a time."""
        yield from ((_asked(entry, row), content) for entry, row, content in images(self._root, self._found))

    def classes(self) -> list[str]:
        """The classes that images of data/ have now."""
        return [] if self._samples is None else class_names(self._samples["label"])


def _asked(entry: DataPick, row: dict) -> Asked:
    return Asked(
        id=entry.id,
        why=entry.why,
        prediction=entry.prediction,
        confidence=entry.confidence,
        detail=DETAIL[entry.split],
        source=row["source"],
        at=row["taken_at"],
    )
