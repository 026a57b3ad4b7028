"""What an ingest takes from a source: each image once, all of a source or nothing."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.common.errors import DataError
from tasks.common.params import DataParams
from tasks.dataset import shards
from tasks.inspection.measure import measure_all
from tasks.inspection.measures import shard_measures
from tasks.sources.source import open_source
from tests.support.ingesting import IMAGES, INSPECT, folder, image, manifest, noise, reasons, samples, take, tree


def test_what_is_taken_can_be_read_back(tmp_path):
    name = image(tmp_path / "s", "i/one.png", noise(1))
    row = {"path": name, "label": "cat", "source": "cam", "time": "2024-05-31T12:00:00Z", "slice_light": "dim"}
    report = take(tmp_path, manifest(tmp_path / "s", [row]))
    (sample,) = samples(tmp_path)
    encoded = (tmp_path / "s" / name).read_bytes()
    assert sample["id"] == hashlib.sha256(encoded).hexdigest()
    assert sample["image"] == {"bytes": encoded, "path": "i/one.png"}
    assert (sample["label"], sample["source"], sample["origin"]) == ("cat", "cam", "import")
    assert sample["taken_at"].isoformat() == "2024-05-31T12:00:00+00:00"
    assert sample["slice"] == [{"name": "light", "value": "dim"}]
    assert sample["batch"] == report.batch
    assert sample["split"] in report.splits
    assert (report.offered, report.taken, report.classes) == (1, 1, {"cat": 1})
    assert report.sentence().startswith("took 1 new images of 1 class (1 ")


def test_ingesting_twice_takes_nothing_and_writes_nothing(tmp_path):
    source = folder(tmp_path / "s", 12)
    first = take(tmp_path, source)
    before = tree(tmp_path)
    second = take(tmp_path, source)
    assert (first.taken, first.known) == (12, 0)
    assert (second.taken, second.known, second.batch) == (0, 12, None)
    assert tree(tmp_path) == before


def test_the_same_input_gives_the_same_bytes_in_any_place_and_order(tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    for root, order in zip(roots, (1, -1), strict=True):
        numbers = [3, 1, 2, 0][::order]
        for number in numbers:
            image(root / "s", f"{'ab'[number % 2]}/{number}.png", noise(number))
        take(root, root / "s")
        take(root, folder(root / "t", 3, start=10))
    assert tree(roots[0]) == tree(roots[1])
    assert len(tree(roots[0])) == 5


def test_the_batch_is_named_by_its_content(tmp_path):
    names = set()
    for root, label in ((tmp_path / "one", "cat"), (tmp_path / "two", "dog")):
        row = {"path": image(root / "s", "i.png", noise(1)), "label": label}
        names.add(take(root, manifest(root / "s", [row])).batch)
    assert len(names) == 2


def test_only_what_is_new_is_taken_and_seq_grows(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 6))
    report = take(tmp_path, folder(tmp_path / "s", 10))
    assert (report.taken, report.known) == (4, 6)
    assert [b.seq for b in shards.batches(tmp_path / "data")] == [1, 2]


def test_the_same_bytes_under_two_names_are_one_sample(tmp_path):
    for name in ("a/x.png", "a/y.png"):
        image(tmp_path / "s", name, noise(1))
    report = take(tmp_path, tmp_path / "s")
    assert (report.taken, report.known, report.annotated) == (1, 1, 0)


def test_many_shards_keep_rows_measures_and_order(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.ingest.writing.SHARD_ROWS", 5)
    source = folder(tmp_path / "s", 12)
    take(tmp_path, source)
    found = shards.live_shards(tmp_path / "data")
    assert [len(pq.read_table(s.path)) for s in found] == [5, 5, 2]
    assert [row["image"]["path"] for row in samples(tmp_path)] == [r.path for r in open_source(source).rows()]
    for shard in found:  # ingest has stored what inspect would measure
        kept = shard_measures(tmp_path, shard.name, IMAGES, INSPECT)
        for file in (tmp_path / ".evergreen/cache/inspect").rglob(f"{Path(shard.name).stem}.parquet"):
            file.unlink()
        assert kept.equals(shard_measures(tmp_path, shard.name, IMAGES, INSPECT))


def test_every_row_keeps_its_own_bytes(tmp_path, monkeypatch):
    """All parts of a shard, of large and small images, are written from the same buffer."""
    monkeypatch.setattr("tasks.dataset.shards.ROW_GROUP", 4)
    monkeypatch.setattr("tasks.ingest.image_column.FIRST_BYTES", 1000)
    for number, side in enumerate((8, 90, 8, 200, 30, 8, 8, 8, 300, 10)):
        image(tmp_path / "s", f"a/{number}.png", noise(number, side))
    take(tmp_path, tmp_path / "s")
    kept = samples(tmp_path)
    assert [row["id"] for row in kept] == [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in kept]
    assert [row["image"]["path"] for row in kept] == [f"a/{number}.png" for number in range(10)]


def test_multilabel(tmp_path):
    names = [image(tmp_path / "s", f"{n}.png", noise(n)) for n in range(3)]
    rows = [{"path": name, "label": label} for name, label in zip(names, ("b|a|b", "a", ""), strict=True)]
    report = take(tmp_path, manifest(tmp_path / "s", rows), data=DataParams(task="multilabel"))
    assert [row["label"] for row in samples(tmp_path)] == [["a", "b"], ["a"], None]
    assert (report.classes, report.unlabelled) == ({"a": 2, "b": 1}, 1)
    with pytest.raises(DataError, match=r"multilabel data set, params.yaml says data.task: multiclass"):
        take(tmp_path, folder(tmp_path / "t", 2))


def test_kinds_give_the_origin(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 2), kind="production")
    assert {row["origin"] for row in samples(tmp_path)} == {"production"}
    with pytest.raises(DataError, match="kind 'prod': expected one of import"):
        take(tmp_path, tmp_path / "s", kind="prod")


def test_a_shard_of_another_data_set_is_a_source_too(tmp_path):
    take(tmp_path / "one", folder(tmp_path / "s", 5))
    report = take(tmp_path / "two", tmp_path / "one/data" / shards.live_shards(tmp_path / "one/data")[0].name)
    assert report.taken == 5
    keep = ("id", "label", "split", "image")
    one, two = ([{k: row[k] for k in keep} for row in samples(tmp_path / name)] for name in ("one", "two"))
    assert one == two


def test_a_dry_run_says_what_would_be_taken_and_writes_nothing(tmp_path):
    take(tmp_path, folder(tmp_path / "first", 6))
    source = folder(tmp_path / "s", 12)
    (source / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    before = tree(tmp_path)
    said: list[str] = []
    dry = take(tmp_path, source, dry=True, say=said.append)
    assert tree(tmp_path) == before
    assert (dry.taken, dry.known, len(dry.quarantined), dry.dry) == (6, 6, 1, True)
    assert dry.sentence().startswith("dry run, nothing is written: took 6 new images of 2 classes")
    assert said[0].startswith("understood: 2 classes")
    about = dry.as_json()
    assert (about["classes"], about["refused"], about["quarantined"][0]["where"]) == (
        {"a": 3, "b": 3},
        1,
        "a/broken.png",
    )
    taken = take(tmp_path, source)
    assert (taken.batch, taken.splits) == (dry.batch, dry.splits), "the dry run promised what is taken"


def test_who_measures_the_images_changes_nothing_and_what_they_refuse_is_quarantined(tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    source = folder(tmp_path / "s", 6)
    image(source, "a/bad.png", b"no image")
    measured = []

    def measure(items):
        for data in items:
            measured.append(data)
            yield from measure_all([data], IMAGES.max_pixels, 1, IMAGES.bit_depth)

    local, other = take(here, source), take(elsewhere, source, measure=measure)
    assert (local, tree(here)) == (other, tree(elsewhere))
    assert len(measured) == 7
    assert list(reasons(other)) == ["a/bad.png"]
