"""`evergreen queue` and `evergreen label`: what people are asked, and what they answer.

An answer goes two ways: into the production log, where it is joined by id to what the model said (live accuracy), and
with the image's bytes into data/, so that the next retrain learns from it. Both are idempotent.
"""

import csv
import getpass
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.project.ingest import ingest_command
from monitoring.log.production_log import Log, open_log
from monitoring.log.schema import late_labels_schema
from monitoring.review import label_studio, page
from monitoring.review import queue as review_queue
from monitoring.review.queue import Queued
from tasks.common.cells import optional_text
from tasks.common.errors import DataError
from tasks.common.files import atomic_path, write_json
from tasks.common.params import Params, load_params
from tasks.ingest.batch import IngestReport
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.records import Columns, json_records, parquet_records, text_records

READERS = {".csv": text_records, ".tsv": text_records, ".jsonl": json_records, ".ndjson": json_records}
READERS |= {".parquet": parquet_records}
BLOCK = 64  # images in memory at once
QUOTA_FROM = 20  # labels that any source may give without having been asked
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))


# --- the queue, out


def queue(
    root: Path,
    *,
    pick_hours: float | None = None,
    csv_file: Path | None = None,
    label_studio_file: Path | None = None,
    html: Path | None = None,
    home: str | None = None,
) -> tuple[list[Queued], list[Queued]]:
    """(samples that wait for a label, those of them picked just now).

    pick_hours: first pick from the newest answers, those of so many hours before the last one. csv_file: to be filled
    in, the images beside it in a folder of its name. label_studio_file: tasks, and the labelling interface beside it
    (.xml). html: a page to label on; home: where it leads back to. Raises EvergreenError.
    """
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    picked = []
    if pick_hours is not None and (last := log.last_at()) is not None:
        end = last + timedelta(microseconds=1)
        because = f"asked for by {getpass.getuser()}"
        picked = review_queue.enqueue(log, params.review, end - timedelta(hours=pick_hours), end, because)
    entries = review_queue.waiting(log)
    classes = _classes(root, params)
    multilabel, pixels = params.data.task == "multilabel", params.images.max_pixels
    if csv_file:
        _write_csv(csv_file, log, entries)
    if label_studio_file:
        write_json(
            label_studio_file, [label_studio.task(*found, pixels) for found in review_queue.images(log, entries)]
        )
        with atomic_path(label_studio_file.with_suffix(".xml")) as temporary:
            temporary.write_text(label_studio.config(classes, multilabel), encoding="utf-8")
    if html:
        page.write(html, review_queue.images(log, entries), len(entries), classes, multilabel, pixels, home)
    return entries, picked


def _write_csv(path: Path, log: Log, entries: list[Queued]) -> None:
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    names = ["id", "label", "prediction", "confidence", "why", "source", "at", "image"]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for entry, image in review_queue.images(log, entries):
            shown = ""
            if image:
                picture = folder / f"{entry.id}{_suffix(image)}"
                with atomic_path(picture) as part:
                    part.write_bytes(image)
                shown = f"{folder.name}/{picture.name}"
            said = entry.prediction if isinstance(entry.prediction, str) else "|".join(entry.prediction or [])
            confidence = "" if entry.confidence is None else f"{entry.confidence:.3f}"
            row = [entry.id, "", said, confidence, entry.why, entry.source or "", entry.at.isoformat(), shown]
            writer.writerow([_harmless(value) for value in row])


def _harmless(value: str) -> str:
    """Spreadsheets run a cell that begins like a formula; only `id`, `label` and `annotator` are ever read back."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _suffix(image: bytes) -> str:
    kinds = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp"}
    return kinds.get(image[:2], ".img")


def _classes(root: Path, params: Params) -> list[str]:
    """What a label may be: data.classes, else the classes of the live model; [] where there is neither."""
    if params.data.classes:
        return list(params.data.classes)
    from tasks.releases.bundle import read
    from tasks.releases.store import cached_bundle, open_store

    releases = open_store(params.store, root)
    pointer = releases.live()
    if pointer is None:
        return []
    return read(cached_bundle(releases, pointer.bundle, root))["classes"]


# --- labels, in


@dataclass
class Labelled:
    """What became of a file of labels."""

    rows: int = 0
    left: int = 0  # without a label: not looked at, or skipped
    kept: int = 0  # new in the log
    repeated: int = 0  # there already
    refused: list[str] = field(default_factory=list)  # "labels.csv line 3: why"
    without_image: int = 0  # in the log as a thumbnail only: they count for accuracy, not for training
    ingested: IngestReport | None = None

    def lines(self) -> list[str]:
        """For the terminal."""
        found = [f"{self.kept} labels taken, {self.repeated} were there already, {self.left} rows without a label"]
        found += [f"  refused {line}" for line in self.refused[:10]]
        if len(self.refused) > 10:
            found.append(f"  ... and {len(self.refused) - 10} more refused")
        if self.without_image:
            found.append(f"  {self.without_image} of them are in the log as thumbnails only: not for training")
        if self.ingested:
            found.append(self.ingested.sentence())
        return found


@dataclass(frozen=True)
class _Given:
    where: str
    id: str
    label: str | list[str]
    annotator: str
    at: datetime | None


def label(
    root: Path,
    file: Path,
    *,
    annotator: str | None = None,
    quota: bool = True,
    new_classes: bool = False,
    ingest: bool = True,
    commit: bool = True,
) -> Labelled:
    """Take the labels in `file`: CSV, JSON lines or Parquet with columns id, label and maybe annotator, labelled_at,
    or Label Studio's JSON export. What cannot be taken is refused row by row with its reason.

    quota: of labels that nobody asked for, no source may give more than review.max_source_share (nor more than
    QUOTA_FROM): a flood of feedback from one place must not teach the model. new_classes: accept labels the model
    does not know. ingest: take the labelled images into data/, too. Raises EvergreenError.
    """
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    classes = None if new_classes else _classes(root, params) or None
    result = Labelled()
    given = list(_read(file, params.data.task, classes, annotator or getpass.getuser(), result))
    located = {row["id"]: row for row in log.find([one.id for one in given], *EVER, ["id", "at", "source"]).to_pylist()}
    given = [one for one in given if _is_known(one, located, result)]
    if quota:
        given = _within_quota(given, located, log, params.review.max_source_share, result)
    _keep(log, given, result)
    if ingest and given:
        _ingest(root, log, given, located, result, commit)
    return result


def _read(file: Path, task: str, classes: list[str] | None, annotator: str, result: Labelled) -> Iterator[_Given]:
    for where, values in _records(file):
        result.rows += 1
        try:
            found = fields.label(values.get("label"), task, classes)
            if values.get("label") in (None, "", []) or found is None:
                result.left += 1
                continue
            name = optional_text(values.get("id"))
            if name is None:
                raise Unusable("bad_label", "no id")
            by, at = optional_text(values.get("annotator")) or annotator, fields.moment(values.get("labelled_at"))
            yield _Given(where, name, found, by, at)
        except Unusable as error:
            result.refused.append(f"{where}: {error.detail}")


def _records(file: Path) -> Iterator[tuple[str, dict]]:
    if not file.is_file():
        raise DataError(f"{file} does not exist: expected labels as .csv, .jsonl, .parquet or Label Studio's .json")
    if file.suffix.lower() == ".json":
        try:
            found = list(label_studio.labels(json.loads(file.read_text(encoding="utf-8-sig"))))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file} cannot be read as an export of Label Studio: {error}") from None
        yield from ((f"{file.name} annotation {number}", one) for number, one in enumerate(found, 1))
        return
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file}: expected labels as {', '.join(READERS)} or Label Studio's .json")
    for where, roles, record in reader(file, Columns(image="id"), True):
        names = {"id": "id", "label": roles.label, "annotator": roles.annotator, "labelled_at": roles.labelled_at}
        yield where, {role: record.get(column) for role, column in names.items() if column}


def _is_known(one: _Given, located: dict[str, dict], result: Labelled) -> bool:
    if one.id not in located:
        result.refused.append(f"{one.where}: {one.id[:70]!r} is not in the production log (or no longer)")
    return one.id in located


def _within_quota(
    given: list[_Given], located: dict[str, dict], log: Log, share: float, result: Labelled
) -> list[_Given]:
    """Without what a source gives beyond its share of the labels that nobody asked for; new and earlier ones count."""
    asked = {entry.id for entry in review_queue.queued(log)}
    earlier = {name for name in log.labels()["id"].to_pylist() if name not in asked}
    rest = [name for name in earlier if name not in located]
    of = {row["id"]: row["source"] for row in log.find(rest, *EVER, ["id", "source"]).to_pylist()} if rest else {}
    of |= {name: row["source"] for name, row in located.items()}
    have = Counter(of.get(name) for name in earlier)
    total = len(earlier | {one.id for one in given if one.id not in asked})
    limit = max(QUOTA_FROM, int(share * total))
    kept, counted = [], set(earlier)
    for one in given:
        source = of.get(one.id)
        if one.id not in asked and one.id not in counted:
            if have[source] >= limit:
                result.refused.append(
                    f"{one.where}: source {source!r} has given {limit} labels that nobody asked for, its quota "
                    "(review.max_source_share); --no-quota takes them all the same"
                )
                continue
            counted.add(one.id)
            have[source] += 1
        kept.append(one)
    return kept


def _keep(log: Log, given: list[_Given], result: Labelled) -> None:
    """Into the log what its annotator has not said already."""
    said = {(row["id"], row["annotator"]): row["label"] for row in log.labels().to_pylist()}
    now, new = datetime.now(UTC), {}
    for one in given:
        if said.get((one.id, one.annotator)) == one.label:
            result.repeated += 1
            continue
        said[one.id, one.annotator] = one.label
        new[one.id, one.annotator] = {
            "id": one.id,
            "at": one.at or now,
            "annotator": one.annotator,
            "label": one.label,
        }
        result.kept += 1
    log.add_labels(pa.Table.from_pylist(list(new.values()), schema=late_labels_schema(log.task)))


def _ingest(
    root: Path, log: Log, given: list[_Given], located: dict[str, dict], result: Labelled, commit: bool
) -> None:
    """The labelled images whose bytes are in the log, as one batch of data/ (origin production)."""
    given = sorted(given, key=lambda one: (located[one.id]["at"], one.id))  # the log is read hour by hour
    schema = late_labels_schema(log.task)
    manifest = pa.schema(
        [
            ("image", pa.binary()),
            schema.field("label"),
            ("source", pa.string()),
            ("taken_at", pa.timestamp("us", tz="UTC")),
            ("annotator", pa.string()),
            ("labelled_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    rows = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.parquet"
        with pq.ParquetWriter(file, manifest, compression="none") as writer:
            for first in range(0, len(given), BLOCK):
                part = given[first : first + BLOCK]
                start, end = located[part[0].id]["at"], located[part[-1].id]["at"] + timedelta(microseconds=1)
                found = log.find([one.id for one in part], start, end, ["id", "image"])
                images = dict(zip(found["id"].to_pylist(), found["image"].to_pylist(), strict=True))
                block = [_sample(one, images[one.id], located[one.id]) for one in part if images.get(one.id)]
                result.without_image += len(part) - len(block)
                rows += len(block)
                if block:
                    writer.write_table(pa.Table.from_pylist(block, schema=manifest))
        if rows:
            (result.ingested,) = ingest_command(root, file, kind="production", commit=commit, new=False)


def _sample(one: _Given, image: bytes, at: dict) -> dict:
    return {
        "image": image,
        "label": one.label,
        "source": at["source"],
        "taken_at": at["at"],
        "annotator": one.annotator,
        "labelled_at": one.at,
    }
