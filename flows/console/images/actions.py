"""What a person does with chosen images: ask for labels, exclude them, take them home."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.console.images.pictures import ID, Pictures
from flows.console.images.view import View
from flows.console.index.index import ImageRow, Index
from flows.labels.journal import Answer
from flows.labels.pick_data import ask
from flows.labels.take import Waiting, take_later
from monitoring.log.production_log import Log
from monitoring.review.queue import COLUMNS, enqueue_chosen
from tasks.common.errors import EvergreenError
from tasks.dataset.decode import file_suffix

MOST_ASKED = 500  # images that one press puts into the queue
MOST_EXCLUDED = 500
MOST_ZIPPED = 2_000
TABLE = ("id", "key", "path", "from", "window", "source", "version", "predicted", "true label", "given", "confidence")
TABLE = (*TABLE, "out of distribution", "split", "label issue", "batch", "in use", "time")


def chosen(index: Index, view: View, ids: Sequence[str], whole: bool, most: int | None = None) -> list[ImageRow]:
    """The rows of the images `ids`, or all that fit the filters of `view`; each image once.

    Raises EvergreenError if nothing is chosen, or more than `most`.
    """
    if whole:
        numbers = index.columns().all_rows(view.filters)
        if most is not None and len(numbers) > 4 * most:
            raise EvergreenError(f"{len(numbers):,} images fit: at most {most:,} go at once. Filter them further.")
        rows = index.rows(numbers)
    else:
        rows = [row for image in dict.fromkeys(ids) if ID.fullmatch(image) for row in index.of_id(image)[:1]]
    once = list({row.id: row for row in reversed(rows)}.values())[::-1]
    if not once:
        raise EvergreenError("No image is chosen: tick some, or choose all that fit.")
    if most is not None and len(once) > most:
        raise EvergreenError(f"{len(once):,} images are chosen: at most {most:,} go at once. Filter them further.")
    return once


@dataclass(frozen=True)
class Asked:
    """What became of images that a person put into the queue."""

    production: int  # now wait for a label
    data: int
    known: int  # waited already, or have a label that only data/ could change

    def sentence(self) -> str:
        """What the page says."""
        new = self.production + self.data
        text = f"{new} image{'s wait' if new != 1 else ' waits'} for a label now."
        return f"{text} {self.known} waited already or had an answer." if self.known else text


def put_in_queue(root: Path, log: Log, index: Index, rows: Sequence[ImageRow], person: str) -> Asked:
    """Ask people for a label of the images of `rows`: of data/ where it holds them, else of production."""
    because = f"chosen by {person}"
    held = {row.id: row for row in rows if not row.logged}
    for row in rows:
        if row.logged and not (first := index.of_id(row.id)[0]).logged:
            held[row.id] = first
    answers = [row for row in rows if row.id not in held]
    data = ask(root, {row.id: row.facets["split"] or "train" for row in held.values()}, because)
    queued = enqueue_chosen(log, list(_logged(log, answers)), because)
    return Asked(len(queued), len(data), len(rows) - len(queued) - len(data))


def _logged(log: Log, rows: Sequence[ImageRow]) -> Iterator[dict]:
    """What the log says of answers, as the queue needs it."""
    by_file: dict[str, list[int]] = {}
    for row in rows:
        by_file.setdefault(row.file, []).append(row.place)
    columns = [name for name in COLUMNS if name not in ("features", "probabilities")]
    for file, places in by_file.items():
        table = log.at_places(file, sorted(set(places)), columns)
        yield from (row for row in (table.to_pylist() if table is not None else []) if row["reason"] is None)


def leave_out(root: Path, rows: Sequence[ImageRow], why: str, person: str) -> Waiting:
    """Keep the exclusion of images for `finish`, as a reviewer's word. Raises EvergreenError."""
    if not why:
        raise EvergreenError("Say why: the exclusion is recorded with its reason.")
    return take_later(root, [Answer(row.id, exclude=True, annotator=person, role="reviewer", why=why) for row in rows])


def table_rows(rows: Sequence[ImageRow]) -> Iterator[tuple]:
    """The rows of the CSV file, with the columns TABLE."""
    for row in rows:
        of = row.facets
        given = row.given if isinstance(row.given, str | None) else " + ".join(row.given)
        yield (
            row.id, row.key, row.path, of["origin"], of["window"], of["source"], of["version"], of["predicted"],
            of["true"], given, row.confidence, row.ood, of["split"], of["issue"], of["batch"], of["state"], row.at,
        )  # fmt: skip


class _Pipe(io.RawIOBase):
    """A file that can only be written to; what was written is taken out piece by piece."""

    def __init__(self):
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        content = b"".join(self.parts)
        self.parts.clear()
        return content


def zipped(pictures: Pictures, rows: Sequence[ImageRow], table: bytes) -> Iterator[bytes]:
    """A ZIP file, piece by piece: images/<id>.<suffix> and images.csv. Images that are gone are left out."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as file:
        file.writestr("images.csv", table)
        for row in rows:
            if (found := pictures.encoded(row.id)) is not None:
                file.writestr(f"images/{row.id}{file_suffix(found[0])}", found[0])
                yield pipe.taken()
    yield pipe.taken()
