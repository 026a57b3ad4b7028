"""Splits of new images: given, inherited from group or near-duplicate, or balanced; never changed."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.common.files import read_json, sha256_bytes, write_json
from tasks.common.params import DataParams
from tasks.common.sections.data import SplitFractions
from tasks.dataset import shards
from tasks.ingest.splits import Lookalikes, NewRow, RecordedSplits, assign_splits
from tasks.sources.fields import Unusable
from tasks.sources.records import Columns
from tests.support.ingesting import folder, image, manifest, noise, reasons, samples, splits_of, take
from tests.support.photos import cutouts


def test_given_splits_are_kept_and_folders_give_them(tmp_path):
    for number, split in enumerate(("train", "val", "test", "hard")):
        image(tmp_path / "s", f"{split}/cat/{number}.png", noise(number))
    take(tmp_path, tmp_path / "s")
    assert sorted(splits_of(tmp_path).values()) == ["calibration", "hard", "test", "train"]


def test_growth_never_moves_an_image_and_a_group_stays_together(tmp_path):
    source = tmp_path / "s"
    rows = [
        {"path": image(source, f"{n}.png", noise(n)), "label": "x", "session": f"s{n % 7}" if n % 3 else ""}
        for n in range(60)
    ]
    take(tmp_path, manifest(source, rows[:20]))
    first = splits_of(tmp_path)
    other = DataParams(seed=1)  # a new seed moves nothing that is recorded, nor a recorded group
    take(tmp_path, manifest(source, rows), data=other)
    now = splits_of(tmp_path)
    assert len(now) == 60
    assert {path: now[path] for path in first} == first
    of_group = {}
    for row in rows:
        if row["session"]:
            of_group.setdefault(row["session"], set()).add(now[row["path"]])
    assert {len(found) for found in of_group.values()} == {1}


def test_a_class_called_none_is_a_class_and_not_a_source(tmp_path):
    names = ("None", "nan", "()", "cat")
    for number in range(80):
        image(tmp_path / "s", f"{names[number % 4]}/{number}.png", noise(number))
    report = take(tmp_path, tmp_path / "s")
    assert report.classes == dict.fromkeys(sorted(names), 20)
    assert {row["source"] for row in samples(tmp_path)} == {None}
    assert all(report.splits[split] for split in ("train", "calibration", "test"))


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
        {"path": image(one, "train.png", first), "label": "x", "split": "train", "group": "a"},
        {"path": image(one, "test.png", second), "label": "x", "split": "test", "group": "b"},
    ]
    take(tmp_path, manifest(one, rows))
    two = tmp_path / "two"
    rows = [
        {"path": image(two, "given.jpg", first, quality=80), "label": "x", "split": "test", "group": ""},
        {"path": image(two, "group.jpg", second, quality=80), "label": "x", "split": "", "group": "a"},
        {"path": image(two, "fine.jpg", second, quality=60), "label": "x", "split": "", "group": "b"},
        {"path": image(two, "same.png", first), "label": "x", "split": "test", "group": ""},
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


@st.composite
def offers(draw):
    """N images in groups of identical images, near-duplicate groups, offered splits and recorded splits."""
    count = draw(st.integers(1, 12))
    groups = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    _, groups = np.unique(groups, return_inverse=True)
    top = int(groups.max())
    pairs = draw(st.sets(st.tuples(st.integers(0, top), st.integers(0, top)), max_size=6))
    one_of = st.sampled_from([(), (), ("train",), ("test",), ("hard",), ("train", "calibration")])
    allowed = draw(st.lists(one_of, min_size=count, max_size=count))
    names = draw(st.lists(st.sampled_from([None, None, "a", "b"]), min_size=count, max_size=count))
    neighbours = draw(
        st.dictionaries(st.integers(0, top), st.sets(st.sampled_from(["train", "test", "hard"]), min_size=1))
    )
    recorded = draw(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["train", "test"])))
    pairs = np.array(sorted((a, b) for a, b in pairs if a < b), dtype=int).reshape(-1, 2)
    return allowed, names, recorded, groups, pairs, neighbours


@given(offers(), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_neither_near_duplicates_nor_groups_are_ever_divided(offer, seed):
    allowed, names, recorded, looks, pairs, neighbours = offer
    rows = [
        NewRow(sha256_bytes(bytes([n])), may, name, labels=("x",) if n % 3 else ())
        for n, (may, name) in enumerate(zip(allowed, names, strict=True))
    ]
    known, options = RecordedSplits(recorded), {"seed": seed, "fractions": SplitFractions()}
    splits = assign_splits(rows, known, Lookalikes(looks, pairs, neighbours), **options)
    near = {(a, a) for a in looks.tolist()} | {tuple(pair) for pair in pairs.tolist()}
    of_group = {name: {split} for name, split in recorded.items()}
    for one, first in enumerate(splits):
        if isinstance(first, Unusable):
            assert first.reason in ("bridges_splits", "in_hard_set")
            continue
        assert not allowed[one] or first in allowed[one]
        assert first == "hard" or neighbours.get(int(looks[one]), {first}) == {first}
        if names[one] and first != "hard":
            of_group.setdefault(names[one], set()).add(first)
        for two, second in enumerate(splits):
            if isinstance(second, str) and (looks[one], looks[two]) in near:
                assert first == second
    assert all(len(found) == 1 for found in of_group.values())


def test_the_order_of_rows_decides_nothing():
    rng = np.random.default_rng(0)
    rows = [
        NewRow(sha256_bytes(bytes([n])), (), f"g{n % 9}" if n % 2 else None, "c", (str(n % 3),)) for n in range(200)
    ]
    pairs = np.array([(n, n + 1) for n in range(0, 200, 20)])
    options = {"seed": 0, "fractions": SplitFractions()}
    first = assign_splits(rows, RecordedSplits(), Lookalikes(np.arange(200), pairs, {}), **options)
    order = rng.permutation(200)
    shuffled = assign_splits([rows[n] for n in order], RecordedSplits(), Lookalikes(order, pairs, {}), **options)
    assert [first[n] for n in order] == shuffled


def old_project(root, images: dict[str, str], source: str, split: str) -> None:
    """A data set as Evergreen 0.2 wrote it: shards of version 1, whose source is the group key."""
    take(root, manifest(root / "old", [{"path": p, "label": label, "split": split} for p, label in images.items()]))
    data = root / "data"
    (batch,), (shard,) = shards.batches(data), shards.live_shards(data)
    table = pq.read_table(shard.path)
    column = table.schema.get_field_index("source")
    table = table.set_column(column, "source", pa.array([source] * len(table)))
    name = shards.write_shard(data, table, "multiclass", version=1)
    shard.path.unlink()
    shards.write_manifest(data, batch.model_copy(update={"shards": [name]}))
    write_json(data / "dataset.json", {"schema": 1, "task": "multiclass"})


def test_a_source_that_was_recorded_as_group_key_stays_whole(tmp_path):
    old_project(tmp_path, {image(tmp_path / "old", f"{n}.png", noise(n)): "x" for n in range(3)}, "cam", "test")
    new = tmp_path / "new"
    rows = [{"path": image(new, f"{n}.png", noise(n)), "label": "x", "camera": "cam"} for n in range(10, 30)]
    rows += [
        {"path": image(new, f"{n}.png", noise(n)), "label": "x", "camera": "cam", "track": f"t{n // 2}"}
        for n in range(30, 60)
    ]
    rows += [{"path": image(new, "same name.png", noise(60)), "label": "x", "track": "cam"}]
    rows += [{"path": image(new, "given.png", noise(61)), "label": "x", "camera": "cam", "split": "train"}]
    take(tmp_path, manifest(new, rows))
    found = {row["image"]["path"]: row for row in samples(tmp_path)}
    bound, own = ([found[f"{n}.png"] for n in numbers] for numbers in (range(10, 30), range(30, 60)))
    assert {(row["split"], row["group"], row["source"]) for row in bound} == {("test", "cam", "cam")}
    assert {row["split"] for row in own} >= {"train", "calibration"}
    assert len({(row["group"], row["split"]) for row in own}) == 15
    assert found["same name.png"]["split"] == "test"
    assert (found["given.png"]["split"], found["given.png"]["group"]) == ("train", None)
    assert read_json(tmp_path / "data/dataset.json")["schema"] == shards.SCHEMA_VERSION


def test_labels_from_production_are_divided_within_an_old_source(tmp_path):
    old_project(tmp_path, {image(tmp_path / "old", f"{n}.png", noise(n)): "x" for n in range(3)}, "cam", "train")
    new = tmp_path / "new"
    rows = [{"path": image(new, f"{n}.png", noise(n)), "label": "x", "source": "cam"} for n in range(10, 40)]
    report = take(tmp_path, manifest(new, rows), kind="production", picked="audit")
    assert set(report.splits) == {"train", "calibration", "test"}


@pytest.mark.parametrize("picked", ["queue", "feedback", "unknown"])
def test_what_is_not_a_fair_sample_is_trained_on_and_measures_nothing(tmp_path, picked):
    new = tmp_path / "new"
    rows = [{"path": image(new, f"{n}.png", noise(n)), "label": "ab"[n % 2]} for n in range(40)]
    report = take(tmp_path, manifest(new, rows), kind="production", picked=picked)
    assert report.splits == {"train": 40}
    assert any(f"40 images are not a fair sample (picked: {picked})" in note for note in report.notes)
    given = [{"path": image(new, "t.png", noise(50)), "label": "a", "split": "test"}]
    given += [{"path": image(new, "h.png", noise(51)), "label": "a", "split": "hard"}]
    report = take(tmp_path, manifest(new, given), picked=picked)
    (refused,) = report.quarantined
    assert (refused.reason, report.splits) == ("bad_split", {"hard": 1})
    assert f"offered for test, but picked as {picked}" in refused.detail


def test_the_queues_picks_let_the_audit_fill_the_held_out_splits(tmp_path):
    take(tmp_path, folder(tmp_path / "base", 20))
    new = tmp_path / "new"
    rows = [{"path": image(new, f"{n}.png", noise(n)), "label": "ab"[n % 2], "why": "queue"} for n in range(100, 140)]
    rows += [{"path": image(new, f"{n}.png", noise(n)), "label": "ab"[n % 2], "why": "audit"} for n in range(140, 156)]
    take(tmp_path, manifest(new, rows), kind="production", columns=Columns(picked="why"))
    found = Counter((row["picked"], row["split"]) for row in samples(tmp_path) if row["origin"] == "production")
    assert found["queue", "train"] == 40
    assert found["audit", "test"] + found["audit", "calibration"] > 8  # of 16: five would be their share


def test_a_label_of_the_queue_for_a_known_test_image_is_taken(tmp_path):
    row = {"path": image(tmp_path / "s", "a.png", noise(1)), "label": "x", "split": "test"}
    take(tmp_path, manifest(tmp_path / "s", [row]))
    report = take(
        tmp_path, manifest(tmp_path / "s", [{**row, "label": "y", "split": ""}]), kind="production", picked="queue"
    )
    assert (report.known, report.annotated, report.quarantined) == (1, 1, ())


def test_ingest_says_how_it_understands_the_columns(tmp_path):
    row = {"path": image(tmp_path / "s", "a.png", noise(1)), "label": "x", "Session": "s", "camera": "c", "more": "m"}
    said = []
    take(tmp_path, manifest(tmp_path / "s", [row]), say=said.append)
    expected = "group 'Session' (kept together in one split)", "source 'camera' (a slice: divided between the splits)"
    (sentence,) = said
    assert all(part in sentence for part in expected)
    assert "more" not in sentence
    (sample,) = samples(tmp_path)
    assert (sample["group"], sample["source"]) == ("s", "c")
    said.clear()
    image(tmp_path / "f", "x/b.png", noise(2))
    take(tmp_path, tmp_path / "f", say=said.append)
    assert said == ["understood: 1 class from folder names (x)"]


def test_what_groups_do_not_allow_is_said(tmp_path):
    source = tmp_path / "s"
    of = [("a", f"t{n // 3}") for n in range(30)] + [("b", "t90"), ("b", "t91"), ("b", "t91")]
    rows = [
        {"path": image(source, f"{n}.png", noise(n)), "label": label, "track": track}
        for n, (label, track) in enumerate(of)
    ]
    first, advice = take(tmp_path, manifest(source, rows)).notes
    assert first == "note: 1 of 2 classes do not reach every split: 'b' (2 images or groups) not in calibration"
    assert "bring 3 of each class" in advice
    more = [{"path": image(source, "new.png", noise(99)), "label": "b", "track": "t92"}]
    assert take(tmp_path, manifest(source, more)).notes == ()
    assert splits_of(tmp_path)["new.png"] == "calibration"
    single = [{"path": image(source, "other.png", noise(100)), "label": "c", "track": ""}]
    assert take(tmp_path, manifest(source, single)).notes == ()


def test_two_groups_cannot_fill_three_splits_which_is_said_with_the_remedy(tmp_path):
    rows = [
        {"path": image(tmp_path / "s", f"{n}.png", noise(n)), "label": "ab"[n % 2], "session": n // 5}
        for n in range(10)
    ]
    report = take(tmp_path, manifest(tmp_path / "s", rows))
    assert report.splits == {"train": 5, "test": 5}
    (note,) = (note for note in report.notes if "leave no image" in note)
    assert "no image for calibration" in note
    assert "at least 3 groups" in note
    more = [
        {"path": image(tmp_path / "s", f"{n}.png", noise(n)), "label": "ab"[n % 2], "session": "third"}
        for n in range(10, 15)
    ]
    report = take(tmp_path, manifest(tmp_path / "s", more))  # the remedy works
    assert report.splits == {"calibration": 5}
    assert not any("not reach" in note or "leave no image" in note for note in report.notes)


def test_large_groups_that_miss_the_shares_are_said(tmp_path):
    rows = [
        {"path": image(tmp_path / "s", f"{n}.png", noise(n)), "label": "ab"[n % 2], "site_id": "x", "session": n // 8}
        for n in range(24)
    ]
    (note,) = take(tmp_path, manifest(tmp_path / "s", rows)).notes
    assert note.startswith("note: of 24 rows, train 33% (asked 70%), calibration 33% (asked 15%)")
