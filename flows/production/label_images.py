"""Take labelled production images into data/, as one batch."""

import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.production.labelled import Given, Labelled
from flows.production.sessions import session_groups
from flows.project.ingest import NO_LAYOUT, ingest_command
from monitoring.log.production_log import Log
from monitoring.log.schema import late_labels_schema
from monitoring.review.queue import Queued
from tasks.common.schemas import MEASURING, SLICE
from tasks.dataset.shards import live_shards, read_columns, shard_groups
from tasks.ingest.splits import GROWING
from tasks.sources.records import Columns

BLOCK = 64  # images in memory at once
OWN_COLUMNS = Columns(picked="picked", sampling_probability="sampling_probability")  # of the manifest made here


def ingest_images(
    root: Path,
    log: Log,
    given: list[Given],
    located: dict[str, dict],
    asked: Mapping[str, Queued],
    result: Labelled,
    commit: bool,
) -> None:
    """Take the labelled images whose bytes are in the log into data/, as one batch of origin production."""
    given = sorted(
        given, key=lambda one: (located[one.id]["at"], one.id)
    )  # in the log's order, which is read hour by hour
    places = [located[one.id] for one in given]
    known = {}
    for shard in live_shards(root / "data"):
        splits = read_columns(shard.path, ["split"])["split"].to_pylist()
        pairs = zip(shard_groups(shard.path).to_pylist(), splits, strict=True)
        known |= {group: split for group, split in pairs if split in GROWING}
    groups = session_groups(
        [place["source"] for place in places],
        [place["at"] for place in places],
        known,
        [picked_how(asked, one.id)["picked"] in MEASURING for one in given],
    )
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
            ("key", pa.string()),
            ("slice", SLICE),
            ("picked", pa.string()),
            ("sampling_probability", pa.float32()),
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
                    _sample(one, images[one.id], located[one.id], group_of[one.id]) | picked_how(asked, one.id)
                    for one in part
                    if images.get(one.id)
                ]
                result.without_image += len(part) - len(block)
                rows += len(block)
                if block:
                    writer.write_table(pa.Table.from_pylist(block, schema=manifest))
        if rows:
            (result.ingested,) = ingest_command(
                root, file, kind="production", commit=commit, new=False, layout=NO_LAYOUT, columns=OWN_COLUMNS
            )


def _sample(one: Given, image: bytes, at: dict, group: str | None) -> dict:
    return {
        "image": image,
        "label": one.label,
        "source": at["source"],
        "group": group,
        "taken_at": at["at"],
        "annotator": one.annotator,
        "labelled_at": one.at,
        "key": at["key"],
        "slice": at["slices"],
    }


def picked_how(asked: Mapping[str, Queued], name: str) -> dict:
    """Why the label was given: the queue asked for it, or somebody sent it in."""
    if (entry := asked.get(name)) is None:
        return {"picked": "feedback", "sampling_probability": None}
    return {"picked": entry.picked, "sampling_probability": entry.sampling_probability}
