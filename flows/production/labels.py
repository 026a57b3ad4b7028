"""`evergreen label`: take people's labels of production samples.

A label goes two ways. The production log joins it by id to the model's answer, which gives the live accuracy. Together
with the image's bytes it also goes into data/, so that the next retraining learns from it. Both steps are idempotent.
"""

import getpass
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.labels.files import LabelFile, read_labels
from flows.labels.resolve import resolve
from flows.production.queue_export import label_classes
from flows.production.sessions import session_groups
from flows.project.ingest import NO_LAYOUT, ingest_command
from monitoring.log.production_log import Log, open_log
from monitoring.log.schema import DEFAULTS, late_labels_schema
from monitoring.review import queue as review_queue
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, shard_groups
from tasks.ingest.batch import IngestReport
from tasks.labels.names import Named
from tasks.sources.times import Times

BLOCK = 64  # images in memory at once
FULL_ID = re.compile(r"[0-9a-f]{64}")
QUOTA_FROM = 20  # unsolicited labels that every source may give
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))


@dataclass
class Labelled:
    """The outcome of importing one file of labels."""

    rows: int = 0
    left: int = 0  # without a label: not seen yet, or skipped
    kept: int = 0  # new in the log
    repeated: int = 0  # already in the log
    refused: list[str] = field(default_factory=list)  # "labels.csv line 3: why"
    untimed: int = 0  # labels whose time cannot be read: they count as given now
    without_image: int = 0  # only a thumbnail is in the log: counts for accuracy, not for training
    notes: list[str] = field(default_factory=list)  # how the file was understood
    ingested: IngestReport | None = None

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        taken = "1 label" if self.kept == 1 else f"{self.kept} labels"
        found = [*self.notes, f"{taken} taken, {self.repeated} already known, {self.left} rows without a label"]
        found += [f"  refused {line}" for line in self.refused[:10]]
        if len(self.refused) > 10:
            found.append(f"  ... and {len(self.refused) - 10} more refused")
        if self.untimed:
            found.append(
                f"  {self.untimed} times cannot be read (see data.time_format): these labels count as given now"
            )
        if self.without_image:
            found.append(f"  {self.without_image} of them have only a thumbnail in the log: not used for training")
        if self.ingested:
            found.append(self.ingested.sentence())
        return found


@dataclass(frozen=True)
class _Given:
    """One label of the file; `where` names its place for error messages."""

    where: str
    id: str
    label: str | list[str]
    annotator: str
    at: datetime | None


def take_labels(
    root: Path,
    file: Path,
    *,
    annotator: str | None = None,
    quota: bool = True,
    new_classes: bool = False,
    ingest: bool = True,
    commit: bool = True,
) -> Labelled:
    """Take the labels in `file` into the log and data/; a row that cannot be used is refused with its reason.

    file: CSV, JSON lines or Parquet with the columns id or key (flows.labels.resolve) and label, optionally annotator
    and labelled_at; or a JSON export of Label Studio. quota: each source may give at most review.max_source_share of
    the unsolicited labels (but always QUOTA_FROM), so that a flood of feedback from one place does not teach the model.
    new_classes: accept labels that the model does not know. ingest: also take the labelled images into data/. Raises
    EvergreenError.
    """
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    classes = None if new_classes else label_classes(root, params) or None
    result = Labelled()
    times = Times(params.data.time_format, params.data.time_zone)
    read = read_labels(file, params.data.task, classes, annotator or getpass.getuser(), times)
    given = _by_name(root, log, read, result)
    located = {row["id"]: row for row in log.find([one.id for one in given], *EVER, ["id", "at", "source"]).to_pylist()}
    given = [one for one in given if _is_known(one, located, result)]
    if quota:
        given = _within_quota(given, located, log, params.review.max_source_share, result)
    _keep(log, given, result)
    if ingest and given:
        _ingest(root, log, given, located, result, commit)
    return result


def _by_name(root: Path, log: Log, read: LabelFile, result: Labelled) -> list[_Given]:
    """The answers of a file, with the id of the one image that each names; others are refused with the reason."""
    result.rows, result.left, result.untimed, result.notes = read.rows, read.left, read.untimed, read.notes
    result.refused += read.refused
    texts = [name for one in read.given for name in one.names if not FULL_ID.fullmatch(name)]
    named = resolve(root, texts, log=log, data=False) if texts else Named()
    given = []
    for one in read.given:
        found = next((named.found.get(n, n) for n in one.names if n in named.found or FULL_ID.fullmatch(n)), None)
        if found is None:
            result.refused.append(f"{one.where}: {named.refused[one.names[0]]} in the production log")
        elif one.exclude:
            result.refused.append(f"{one.where}: only images of the data set can be excluded")
        else:
            given.append(_Given(one.where, found, one.label, one.annotator, one.at))
    return given


def _is_known(one: _Given, located: dict[str, dict], result: Labelled) -> bool:
    if one.id not in located:
        result.refused.append(f"{one.where}: {one.id[:70]!r} is not in the production log, or was erased from it")
    return one.id in located


def _within_quota(
    given: list[_Given], located: dict[str, dict], log: Log, share: float, result: Labelled
) -> list[_Given]:
    """Refuse what a source gives beyond its quota of unsolicited labels; earlier labels count too."""
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
                    f"{one.where}: source {source!r} has reached its quota of {limit} unsolicited labels "
                    "(review.max_source_share); --no-quota takes them anyway"
                )
                continue
            counted.add(one.id)
            have[source] += 1
        kept.append(one)
    return kept


def _keep(log: Log, given: list[_Given], result: Labelled) -> None:
    """Add the labels to the log, except those that their annotator gave before."""
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
            **DEFAULTS,
        }
        result.kept += 1
    log.add_labels(pa.Table.from_pylist(list(new.values()), schema=late_labels_schema(log.task)))


def _ingest(
    root: Path, log: Log, given: list[_Given], located: dict[str, dict], result: Labelled, commit: bool
) -> None:
    """Take the labelled images whose bytes are in the log into data/, as one batch of origin production."""
    given = sorted(
        given, key=lambda one: (located[one.id]["at"], one.id)
    )  # in the log's order, which is read hour by hour
    places = [located[one.id] for one in given]
    known = {name for shard in live_shards(root / "data") for name in shard_groups(shard.path).unique().to_pylist()}
    groups = session_groups([place["source"] for place in places], [place["at"] for place in places], known)
    group_of = {one.id: group for one, group in zip(given, groups, strict=True)}
    schema = late_labels_schema(log.task)
    manifest = pa.schema(
        [
            ("image", pa.binary()),
            schema.field("label"),
            ("source", pa.string()),
            ("group", pa.string()),
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
                block = [
                    _sample(one, images[one.id], located[one.id], group_of[one.id])
                    for one in part
                    if images.get(one.id)
                ]
                result.without_image += len(part) - len(block)
                rows += len(block)
                if block:
                    writer.write_table(pa.Table.from_pylist(block, schema=manifest))
        if rows:
            (result.ingested,) = ingest_command(
                root, file, kind="production", commit=commit, new=False, layout=NO_LAYOUT
            )


def _sample(one: _Given, image: bytes, at: dict, group: str | None) -> dict:
    return {
        "image": image,
        "label": one.label,
        "source": at["source"],
        "group": group,
        "taken_at": at["at"],
        "annotator": one.annotator,
        "labelled_at": one.at,
    }
