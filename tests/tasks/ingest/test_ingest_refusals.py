"""What an ingest refuses: each bad row with its reason, or a whole source."""

import io
import zipfile
from collections import Counter

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.params import DataParams
from tasks.common.schemas import QUARANTINE_REASONS
from tasks.dataset import shards
from tasks.ingest.existing import ExistingSamples
from tasks.ingest.found import IngestSettings
from tasks.ingest.reading import read_source
from tasks.ingest.writing import shard_parts
from tasks.sources.source import open_source
from tests.support.ingesting import IMAGES, INSPECT, folder, image, manifest, noise, reasons, take
from tests.support.photos import cutouts, encode


def test_each_bad_row_is_refused_with_its_reason_and_the_others_are_taken(tmp_path):
    source = tmp_path / "s"
    jpeg = encode(cutouts(1)[0], "JPEG")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.png", encode(noise(1)))
    bad = {
        "empty.png": (b"", "empty_file"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "archive.png": (zipped.getvalue(), "archive"),
        "text.png": (b"no image at all", "unknown_format"),
        "tiny.png": (encode(noise(1).resize((4, 4))), "too_small"),
    }
    rows = [{"path": image(source, name, data), "label": "x"} for name, (data, _) in bad.items()]
    rows += [{"path": name, "label": "x"} for name in ("../up.png", "gone.png")]
    rows += [{"path": image(source, f"{n}.png", noise(n)), "label": "x"} for n in range(5)]
    rows += [{"path": "0.png", "label": "x" * 300}]
    report = take(tmp_path, manifest(source, rows))
    expected = [reason for _, reason in bad.values()] + ["outside_root", "missing_file", "bad_label"]
    assert [refused.reason for refused in report.quarantined] == expected
    assert set(expected) <= set(QUARANTINE_REASONS)
    assert (report.offered, report.taken, report.known) == (13, 5, 0)
    (batch,) = shards.batches(tmp_path / "data")
    assert batch.quarantined == dict(Counter(expected))
    assert batch.offered == batch.rows + sum(batch.quarantined.values())
    listed = pq.read_table(tmp_path / f".evergreen/quarantine/{report.batch}.parquet").to_pylist()
    assert [row["reason"] for row in listed] == expected
    assert listed[0]["where"] == "m.csv line 2"


def test_an_unusable_image_offered_twice_is_refused_twice(tmp_path):
    for name in ("a/x.png", "a/y.png"):
        image(tmp_path / "s", name, b"no image")
    report = take(tmp_path, tmp_path / "s")
    assert reasons(report) == {"a/x.png": "unknown_format", "a/y.png": "unknown_format"}
    assert (report.batch, report.offered) == (None, 2)
    assert not (tmp_path / "data").exists()


def test_labels_outside_the_list_of_classes_are_refused(tmp_path):
    report = take(tmp_path, folder(tmp_path / "s", 4), data=DataParams(classes=["a"]))
    assert report.classes == {"a": 2}
    assert set(reasons(report).values()) == {"unknown_label"}


def test_a_manifest_without_rows_is_an_error(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="no rows: nothing to ingest"):
        take(tmp_path, tmp_path / "m.csv")


def test_a_source_that_changes_while_it_is_read_is_an_error(tmp_path):
    source = open_source(folder(tmp_path / "s", 2))
    settings = IngestSettings("import", None, DataParams(), IMAGES, INSPECT)
    reading = read_source(source.rows(), ExistingSamples(tmp_path), (), settings)
    image(tmp_path / "s", "b/0001.png", noise(99))
    with pytest.raises(DataError, match=r"b/0001.png changed while it was read"):
        list(shard_parts(source, reading, "b-1"))


def test_small_pictures_of_refused_images_are_kept_but_never_their_bytes(tmp_path):
    source, label = tmp_path / "s", "x" * 300
    rows = [
        {"path": image(source, "long.jpg", noise(1, 300)), "label": label},
        {"path": image(source, "broken.png", b"\x89PNG\r\n\x1a\n<script>"), "label": label},
        {"path": image(source, "empty.png", b""), "label": "x"},
        *({"path": image(source, f"{n}.png", noise(n)), "label": "x"} for n in range(2, 5)),
    ]
    report = take(tmp_path, manifest(source, rows))
    assert reasons(report)["m.csv line 2"] == "bad_label"
    folder = tmp_path / ".evergreen/quarantine" / report.batch
    (kept,) = folder.iterdir()
    place = [one.where for one in report.quarantined].index("m.csv line 2")
    assert kept.name == f"{place}.png"
    with Image.open(kept) as shown:
        assert (shown.format, max(shown.size)) == ("PNG", 128)
    assert kept.read_bytes() != (source / "long.jpg").read_bytes()
