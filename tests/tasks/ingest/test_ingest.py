"""Ingest takes each image once, all of a source or nothing, and never moves what is there."""

import csv
import fcntl
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import DataParams, ImagesParams, InspectParams, SplitFractions
from tasks.common.schemas import QUARANTINE_REASONS
from tasks.dataset import shards
from tasks.ingest.batch import _parts, data_lock, ingest
from tasks.ingest.existing import Known
from tasks.ingest.reading import take_in
from tasks.ingest.splits import assign, by_hash
from tasks.inspection.annotations import read_annotations
from tasks.inspection.measures import shard_measures
from tasks.sources.fields import Unusable
from tasks.sources.source import open_source
from tests.support.checkout import ROOT
from tests.support.children import killed_at
from tests.support.photos import cutouts, encode

IMAGES, INSPECT = ImagesParams(), InspectParams(workers=1)


def take(root: Path, source: Path, **options):
    data = options.pop("data", DataParams())
    return ingest(root, source, data=data, images=IMAGES, inspect=INSPECT, **options)


def noise(seed: int, side: int = 24) -> Image.Image:
    """An image like no other: coarse random blocks, which no two seeds share."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST)


def folder(root: Path, count: int, start: int = 0, classes: str = "ab") -> Path:
    """`count` distinct images in class folders."""
    for number in range(start, start + count):
        file = root / classes[number % len(classes)] / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(noise(number)))
    return root


def manifest(root: Path, rows: list[dict], name: str = "m.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(root / name, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return root / name


def image(root: Path, name: str, content: Image.Image | bytes, **options) -> str:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    data = (
        content if isinstance(content, bytes) else encode(content, "JPEG" if name.endswith("jpg") else "PNG", **options)
    )
    file.write_bytes(data)
    return name


def samples(root: Path) -> list[dict]:
    found = shards.live_shards(root / "data")
    return [row for s in found for row in pq.read_table(s.path).to_pylist()]


def tree(root: Path) -> dict[str, str]:
    """Every file under data/ with its sha256."""
    data = root / "data"
    return {str(f.relative_to(data)): sha256_bytes(f.read_bytes()) for f in sorted(data.rglob("*")) if f.is_file()}


def reasons(report) -> dict[str, str]:
    return {refused.where: refused.reason for refused in report.quarantined}


# --- taking


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


def test_the_same_input_gives_the_same_bytes_wherever_and_whenever(tmp_path):
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
    monkeypatch.setattr("tasks.ingest.batch.SHARD_ROWS", 5)
    source = folder(tmp_path / "s", 12)
    take(tmp_path, source)
    found = shards.live_shards(tmp_path / "data")
    assert [len(pq.read_table(s.path)) for s in found] == [5, 5, 2]
    assert [row["image"]["path"] for row in samples(tmp_path)] == [r.path for r in open_source(source).rows()]
    for shard in found:  # what ingest has kept is what inspect would measure
        kept = shard_measures(tmp_path, shard.name, IMAGES, INSPECT)
        for file in (tmp_path / ".evergreen/cache/inspect").rglob(f"{Path(shard.name).stem}.parquet"):
            file.unlink()
        assert kept.equals(shard_measures(tmp_path, shard.name, IMAGES, INSPECT))


def test_every_row_keeps_its_own_bytes(tmp_path, monkeypatch):
    """Parts of a shard, of images large and small, share the memory they are written from."""
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


def test_shards_are_read_by_an_ingest_too(tmp_path):
    take(tmp_path / "one", folder(tmp_path / "s", 5))
    report = take(tmp_path / "two", tmp_path / "one/data" / shards.live_shards(tmp_path / "one/data")[0].name)
    assert report.taken == 5
    keep = ("id", "label", "split", "image")
    one, two = ([{k: row[k] for k in keep} for row in samples(tmp_path / name)] for name in ("one", "two"))
    assert one == two


# --- labels of known images


def annotations(root: Path) -> list[tuple]:
    table = read_annotations(root / "data").to_pylist()
    return [(row["annotator"], row["label"], row["why"]) for row in table]


def test_a_second_label_is_an_annotation_once(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    take(tmp_path, manifest(tmp_path / "s", [{"path": name, "label": "cat"}]))
    other = manifest(tmp_path / "s", [{"path": name, "label": "dog"}], "n.csv")
    report = take(tmp_path, other)
    assert (report.taken, report.known, report.annotated) == (0, 1, 1)
    assert report.batch is not None
    assert annotations(tmp_path) == [(None, "dog", "import")]
    assert [row["label"] for row in samples(tmp_path)] == ["cat"]
    before = tree(tmp_path)
    assert take(tmp_path, other).annotated == 0
    assert take(tmp_path, tmp_path / "s" / "m.csv").annotated == 0
    assert tree(tmp_path) == before


def test_a_label_for_an_image_without_one_is_an_annotation(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    take(tmp_path, tmp_path / "s")
    take(tmp_path, manifest(tmp_path / "s", [{"path": name, "label": "cat"}]))
    assert annotations(tmp_path) == [(None, "cat", "import")]


def test_every_named_annotator_votes_once(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    said = [("anna", "cat"), ("bob", "dog"), ("carl", "dog"), ("bob", "dog")]
    source = manifest(tmp_path / "s", [{"path": name, "label": label, "annotator": who} for who, label in said])
    report = take(tmp_path, source)
    assert (report.taken, report.known) == (1, 3)
    assert annotations(tmp_path) == [("anna", "cat", "import"), ("bob", "dog", "import"), ("carl", "dog", "import")]
    before = tree(tmp_path)
    assert take(tmp_path, source).batch is None
    assert tree(tmp_path) == before


def test_a_review_can_confirm_and_change_its_mind(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    for number, label in enumerate(("cat", "cat", "dog", "cat", "cat")):
        source = manifest(tmp_path / "s", [{"path": name, "label": label}], f"{number}.csv")
        take(tmp_path, source, kind="review" if number else "import", annotator="eve" if number else None)
    assert annotations(tmp_path) == [("eve", "cat", "review"), ("eve", "dog", "review"), ("eve", "cat", "review")]


def test_a_tombstoned_batch_is_still_known(tmp_path):
    source = folder(tmp_path / "s", 3)
    batch = take(tmp_path, source).batch
    write_json(tmp_path / "tombstones.json", {batch: {"why": "bad"}})
    report = take(tmp_path, source)
    assert (report.taken, report.known, report.tombstoned) == (0, 3, 3)
    assert "3 of them in tombstoned batches" in report.sentence()


# --- refusing


def test_every_bad_row_is_refused_with_its_reason_and_the_others_are_taken(tmp_path):
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
    data = DataParams()
    known = Known(tmp_path)
    intake = take_in(source.rows(), known, (), kind="import", annotator=None, data=data, images=IMAGES, inspect=INSPECT)
    image(tmp_path / "s", "b/0001.png", noise(99))
    with pytest.raises(DataError, match=r"b/0001.png changed while it was read"):
        list(_parts(source, intake, [0, 1], "b-1", data))


# --- splits


def splits_of(root: Path) -> dict[str, str]:
    return {row["image"]["path"]: row["split"] for row in samples(root)}


def test_given_splits_are_kept_and_folders_give_them(tmp_path):
    for number, split in enumerate(("train", "val", "test", "hard")):
        image(tmp_path / "s", f"{split}/cat/{number}.png", noise(number))
    take(tmp_path, tmp_path / "s")
    assert sorted(splits_of(tmp_path).values()) == ["calibration", "hard", "test", "train"]


def test_growth_never_moves_an_image_and_a_source_stays_together(tmp_path):
    source = tmp_path / "s"
    rows = [
        {"path": image(source, f"{n}.png", noise(n)), "label": "x", "source": f"cam{n % 7}" if n % 3 else ""}
        for n in range(60)
    ]
    take(tmp_path, manifest(source, rows[:20]))
    first = splits_of(tmp_path)
    other = DataParams(seed=1)  # a new seed moves nothing that is recorded, nor a recorded source
    take(tmp_path, manifest(source, rows), data=other)
    now = splits_of(tmp_path)
    assert len(now) == 60
    assert {path: now[path] for path in first} == first
    of_source = {}
    for row in rows:
        if row["source"]:
            of_source.setdefault(row["source"], set()).add(now[row["path"]])
    assert {len(found) for found in of_source.values()} == {1}


def test_a_near_duplicate_follows_its_neighbour_into_its_split(tmp_path):
    photos = cutouts(8)
    one = tmp_path / "one"
    rows = [
        {"path": image(one, f"{n}.png", photo), "label": "x", "split": ("train", "test", "calibration")[n % 3]}
        for n, photo in enumerate(photos)
    ]
    take(tmp_path, manifest(one, rows))
    two = tmp_path / "two"
    copies = [{"path": image(two, f"{n}.jpg", photo, quality=70), "label": "x"} for n, photo in enumerate(photos)]
    report = take(tmp_path, manifest(two, copies))
    assert (report.taken, report.quarantined) == (8, ())
    now = splits_of(tmp_path)
    assert all(now[f"{n}.jpg"] == now[f"{n}.png"] for n in range(8))


def test_an_image_that_would_bridge_two_splits_is_refused(tmp_path):
    first, second = cutouts(2)
    one = tmp_path / "one"
    rows = [
        {"path": image(one, "train.png", first), "label": "x", "split": "train", "source": "a"},
        {"path": image(one, "test.png", second), "label": "x", "split": "test", "source": "b"},
    ]
    take(tmp_path, manifest(one, rows))
    two = tmp_path / "two"
    rows = [
        {"path": image(two, "given.jpg", first, quality=80), "label": "x", "split": "test", "source": ""},
        {"path": image(two, "source.jpg", second, quality=80), "label": "x", "split": "", "source": "a"},
        {"path": image(two, "fine.jpg", second, quality=60), "label": "x", "split": "", "source": "b"},
        {"path": image(two, "same.png", first), "label": "x", "split": "test", "source": ""},
    ]
    report = take(tmp_path, manifest(two, rows))
    assert reasons(report) == dict.fromkeys(("m.csv line 2", "m.csv line 3", "m.csv line 5"), "bridges_splits")
    assert splits_of(tmp_path)["fine.jpg"] == "test"


def test_the_hard_set_is_kept_apart(tmp_path):
    hard, common = cutouts(2)
    image(tmp_path / "h", "x/hard.png", hard)
    assert take(tmp_path, tmp_path / "h", kind="hard").splits == {"hard": 1}
    source = tmp_path / "s"
    for name, content in (("x/same.png", hard), ("x/common.png", common), ("x/near.jpg", hard)):
        image(source, name, content)
    report = take(tmp_path, source)
    assert reasons(report) == {"x/same.png": "in_hard_set", "x/near.jpg": "in_hard_set"}
    assert report.taken == 1
    image(tmp_path / "h", "x/common.png", common)
    report = take(tmp_path, tmp_path / "h", kind="hard")
    assert reasons(report) == {"x/common.png": "bridges_splits"}
    assert (report.taken, report.known) == (0, 1)


def test_hash_splits_have_the_shares_asked_for():
    fractions = SplitFractions(train=0.7, calibration=0.1, test=0.2)
    found = Counter(by_hash(str(n), 0, fractions) for n in range(20_000))
    assert found["train"] == pytest.approx(14_000, abs=300)
    assert found["test"] == pytest.approx(4_000, abs=250)
    assert {by_hash(str(n), 0, fractions, ("calibration", "test")) for n in range(50)} == {"calibration", "test"}
    all_test = SplitFractions(train=0, calibration=0, test=1)
    assert {by_hash(str(n), 0, all_test) for n in range(50)} == {"test"}
    assert by_hash("x", 0, all_test, ("train",)) == "train"


@st.composite
def offers(draw):
    """Images in groups of identical look, near-duplicate groups, what they were offered for and what is recorded."""
    count = draw(st.integers(1, 12))
    groups = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    _, groups = np.unique(groups, return_inverse=True)
    top = int(groups.max())
    pairs = draw(st.sets(st.tuples(st.integers(0, top), st.integers(0, top)), max_size=6))
    one_of = st.sampled_from([(), (), ("train",), ("test",), ("hard",), ("train", "calibration")])
    allowed = draw(st.lists(one_of, min_size=count, max_size=count))
    sources = draw(st.lists(st.sampled_from([None, None, "a", "b"]), min_size=count, max_size=count))
    neighbours = draw(
        st.dictionaries(st.integers(0, top), st.sets(st.sampled_from(["train", "test", "hard"]), min_size=1))
    )
    recorded = draw(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["train", "test"])))
    pairs = np.array(sorted((a, b) for a, b in pairs if a < b), dtype=int).reshape(-1, 2)
    return allowed, sources, recorded, groups, pairs, neighbours


@given(offers(), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_no_near_duplicates_end_in_two_splits(offer, seed):
    allowed, sources, recorded, groups, pairs, neighbours = offer
    ids = [sha256_bytes(bytes([n])) for n in range(len(groups))]
    options = {"seed": seed, "fractions": SplitFractions()}
    splits = assign(ids, allowed, sources, recorded, groups, pairs, neighbours, **options)
    near = {(a, a) for a in groups.tolist()} | {tuple(pair) for pair in pairs.tolist()}
    for one, first in enumerate(splits):
        if isinstance(first, Unusable):
            assert first.reason in ("bridges_splits", "in_hard_set")
            continue
        assert not allowed[one] or first in allowed[one]
        assert first == "hard" or neighbours.get(int(groups[one]), {first}) == {first}
        if sources[one] in recorded and not allowed[one]:
            assert first == recorded[sources[one]]
        for two, second in enumerate(splits):
            if isinstance(second, str) and (groups[one], groups[two]) in near:
                assert first == second
    again = assign(ids, allowed, sources, recorded, groups, pairs, neighbours, **options)
    assert list(map(str, splits)) == list(map(str, again))


def test_an_image_alone_is_taken_whatever_it_comes_with():
    """The split of an unconnected image is its own: other images in the batch do not change it."""
    ids = [sha256_bytes(bytes([n])) for n in range(30)]
    nothing = np.empty((0, 2), int)
    options = {"seed": 0, "fractions": SplitFractions()}
    together = assign(ids, [()] * 30, [None] * 30, {}, np.arange(30), nothing, {}, **options)
    alone = [assign([i], [()], [None], {}, np.array([0]), nothing, {}, **options)[0] for i in ids]
    assert together == alone


# --- atomic, append-only, one at a time


def in_child(root: Path, source: Path) -> None:
    """An ingest of `source` in shards of four rows; the name of its batch is left beside the images."""
    sys.modules["tasks.ingest.batch"].SHARD_ROWS = 4
    report = take(root, source)
    Path(source, "batch").write_text(report.batch)


def second_source(root: Path) -> Path:
    """New images, and another label for a known one."""
    source = folder(root, 6, start=100)
    image(source, "b/relabelled.png", noise(0))  # class a in the first source
    return source


POINTS = ("after_shard", "after_annotations", "before_manifest", "after_manifest", "after_measures")


def test_failpoints_listed_here_are_those_in_the_code():
    code = (ROOT / "tasks/ingest/batch.py").read_text()
    assert {f'failpoint("ingest.{name}")' for name in POINTS} == {
        f'failpoint("{part.split(chr(34))[1]}")' for part in code.split("failpoint(")[1:]
    }


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_data_set_is_as_before_or_as_after(tmp_path, point, monkeypatch):
    monkeypatch.setattr("tasks.ingest.batch.SHARD_ROWS", 4)
    root, whole = tmp_path / "killed", tmp_path / "whole"
    for each in (root, whole):
        take(each, folder(tmp_path / "s", 6))
    source = second_source(tmp_path / "t")
    before = samples(root), annotations(root)
    take(whole, source)
    after = samples(whole), annotations(whole)
    assert before[1] != after[1]

    assert killed_at(f"ingest.{point}", in_child, root, source)
    assert (samples(root), annotations(root)) == (after if point in POINTS[3:] else before)

    take(root, source)
    assert (samples(root), annotations(root)) == after
    assert tree(root) == tree(whole)


def test_a_killed_ingest_s_files_are_removed_by_the_next_one_and_nobody_else_s(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 6))
    stranger = tmp_path / "data" / "0123456789abcdef01234567.parquet"
    stranger.write_bytes(b"was here before: perhaps a checkout under way")
    assert killed_at("ingest.before_manifest", in_child, tmp_path, second_source(tmp_path / "t"))
    with data_lock(tmp_path) as journal:  # a writer that was in the middle of a file
        write_json(journal, [stranger.name])
    (tmp_path / "data" / ".half.parquet.x.tmp").write_bytes(b"half")
    take(tmp_path, folder(tmp_path / "u", 2, start=200))
    visible = {s.name for s in shards.live_shards(tmp_path / "data")}
    found = {file.name for file in (tmp_path / "data").iterdir() if file.is_file()}
    assert found == visible | {stranger.name, "dataset.json"}
    assert not any((tmp_path / "data" / "annotations").glob("*"))


def test_a_killed_first_ingest_does_not_fix_the_task(tmp_path):
    assert killed_at("ingest.before_manifest", in_child, tmp_path, folder(tmp_path / "s", 3))
    take(tmp_path, tmp_path / "s", data=DataParams(task="multilabel"))
    assert [row["label"] for row in samples(tmp_path)] == [["a"], ["a"], ["b"]]


def test_two_ingests_at_once_become_two_batches(tmp_path):
    one, two = folder(tmp_path / "s", 8), folder(tmp_path / "t", 8, start=4)
    call = "import sys; from tests.tasks.ingest.test_ingest import *; in_child(Path(sys.argv[1]), Path(sys.argv[2]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", call, tmp_path, source], env=env) for source in (one, two)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    names = {(source / "batch").read_text() for source in (one, two)}
    batches = shards.batches(tmp_path / "data")
    assert {b.batch for b in batches} == names
    assert [b.seq for b in batches] == [1, 2]
    assert len({row["id"] for row in samples(tmp_path)}) == len(samples(tmp_path)) == 12


def test_files_that_dvc_links_into_its_cache_are_never_written(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 6))
    cache = tmp_path / "cache"
    before = tree(tmp_path)
    for name in before:
        link = cache / name
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "data" / name, link)
        link.chmod(0o444)
    take(tmp_path, second_source(tmp_path / "t"))
    assert {name: sha256_bytes((cache / name).read_bytes()) for name in before} == before
    assert before.items() <= tree(tmp_path).items()


def test_a_lost_shard_stops_the_ingest(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 3))
    shards.live_shards(tmp_path / "data")[0].path.unlink()
    with pytest.raises(DataError, match=r"is missing, batch .* names it"):
        take(tmp_path, folder(tmp_path / "t", 3, start=50))


def test_measures_of_older_shards_are_made_when_nobody_has_kept_them(tmp_path):
    """A fresh clone has data/ and no caches: near-duplicates of old images are found all the same."""
    (photo,) = cutouts(1)
    image(tmp_path / "s", "x/a.png", photo)
    take(tmp_path, tmp_path / "s", kind="hard")
    for file in (tmp_path / ".evergreen").rglob("*.parquet"):
        file.unlink()
    image(tmp_path / "t", "x/a.jpg", photo)
    assert reasons(take(tmp_path, tmp_path / "t")) == {"x/a.jpg": "in_hard_set"}


def test_it_does_not_wait_for_ever_for_one_that_hangs(tmp_path, monkeypatch):
    folder(tmp_path / "first", 2)
    take(tmp_path, tmp_path / "first")
    (lock,) = tmp_path.rglob("ingest/*.lock")
    monkeypatch.setattr("tasks.ingest.batch.WAIT_SECONDS", 0.2)
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EvergreenError, match=r"data set .* locked by another process .* start again"):
            take(tmp_path, tmp_path / "first")
    assert take(tmp_path, tmp_path / "first").known > 0
