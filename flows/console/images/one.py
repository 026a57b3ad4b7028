"""Everything that the page of one image says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.console.images.pictures import Pictures
from flows.console.index.index import ImageRow, Index
from flows.labels.journal import Answer, pending
from flows.labels.why import explain_label, in_models, newest_run
from monitoring.log.production_log import Log
from tasks.common.errors import EvergreenError
from tasks.common.files import content_key, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.dataset.decode import Undecodable, open_image
from tasks.releases import bundle_store
from tasks.releases.store import Releases

BARS = 10  # classes shown: the most probable


@dataclass(frozen=True)
class Bar:
    """One class with its probability."""

    name: str
    value: float
    said: bool  # the model's answer


@dataclass(frozen=True)
class File:
    """What the file itself says."""

    width: int
    height: int
    format: str
    size: int  # bytes
    whole: bool  # False: only a small copy is stored


@dataclass(frozen=True)
class One:
    """One image."""

    id: str
    data: ImageRow | None  # in data/
    answers: list[ImageRow]  # of the production log, newest first
    file: File | None  # None: gone, or not decodable
    bars: list[Bar]
    waiting: list[Answer]  # answers of people that were not taken yet

    @property
    def first(self) -> ImageRow:
        """The row that says most: of data/ where it is there."""
        return self.data or self.answers[0]

    @property
    def title(self) -> str:
        """What people call it."""
        return self.first.key or self.first.path or f"Image {self.id[:12]}"


def read_one(root: Path, index: Index, pictures: Pictures, log: Log, releases: Releases, image: str) -> One | None:
    """What is known about the image `image`; None if neither data/ nor the log has it."""
    rows = index.of_id(image)
    if not rows:
        return None
    data = None if rows[0].logged else rows[0]
    answers = [row for row in rows if row.logged]
    waiting = [answer for answer in pending(root) if answer.id == image]
    return One(image, data, answers, _file(pictures, image), _bars(index, log, releases, data, answers), waiting)


def _file(pictures: Pictures, image: str) -> File | None:
    found = pictures.encoded(image)
    if found is None:
        return None
    try:
        opened = open_image(found[0], 1 << 62)
    except Undecodable:
        return None
    return File(*opened.size, str(opened.format), len(found[0]), found[1])


def _bars(index: Index, log: Log, releases: Releases, data: ImageRow | None, answers: Sequence[ImageRow]) -> list[Bar]:
    """The probabilities of the newest answer, or what the model said of the image in data/."""
    if data is not None and (found := index.probabilities(data.id)) is not None:
        return bars(*found, data.facets["predicted"])
    if not answers:
        return []
    table = log.at_places(answers[0].file, [answers[0].place], ["probabilities", "bundle"])
    if table is None or not len(table) or not table["probabilities"][0].as_py():
        return []
    classes = classes_of(releases, table["bundle"][0].as_py())
    return bars(classes, np.array(table["probabilities"][0].as_py()), answers[0].facets["predicted"])


def bars(classes: Sequence[str], probabilities: np.ndarray, said: str | None) -> list[Bar]:
    """The most probable classes. probabilities: (K,). Without the names of the classes there are none."""
    if len(classes) != len(probabilities):
        return []
    answer = set((said or "").split(" + ")) if said not in classes else {said}
    order = np.argsort(-probabilities, kind="stable")[:BARS]
    return [Bar(classes[code], float(probabilities[code]), classes[code] in answer) for code in order]


def classes_of(releases: Releases, bundle: str | None) -> list[str]:
    """The classes of a bundle, in the model's order; [] if they are not known."""
    try:
        content = bundle_store.read_file(releases.store, bundle, "bundle.json") if bundle else None
        return list(json.loads(content)["classes"]) if content else []
    except (EvergreenError, ValueError, KeyError, TypeError):
        return []


def label_hops(root: Path, row: ImageRow) -> list[str]:
    """How an image of data/ got its label, a line a hop."""
    return [line.strip() for line in explain_label(root, row.id, row.file)[1:]]


def model_hops(root: Path, releases: Releases, image: str) -> list[str]:
    """What the newest versions made of an image of data/: kept on disk until another version is live or judged.

    .evergreen/console/models/<id>.json   {"key", "lines"}
    """
    live = releases.live()
    key = content_key("models", live.seq if live else 0, newest_run(releases) or "")
    file = state_dir(root) / "console" / "models" / f"{image}.json"
    found = read_rebuildable(file, lambda about: (expect(about["key"], str), expect(about["lines"], list)))
    if found is None or found[0] != key:
        found = (key, [line.strip() for line in in_models(root, image)])
        make_folder(file.parent)
        write_json(file, {"key": key, "lines": found[1]})
    return found[1]
