"""Which label counts, of all that people said about a sample."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from tasks.common.errors import DataError
from tasks.common.schemas import annotation_schema
from tasks.dataset import shards
from tasks.labels.agreed import ENOUGH
from tasks.labels.annotations import annotation_key, decide, decide_all, decide_label, read_annotations
from tasks.labels.second_look import Look, second_look
from tasks.labels.storing import write_annotations
from tasks.labels.votes import named_ballots
from tests.support.annotating import old_annotations, said


def vote(label=None, annotator=None, day=1, seq=1, **about) -> dict:
    return said("i", label, day, annotator=annotator, batch="l-1", **about) | {"seq": seq}


def review(label=None, annotator="eve", day=1, seq=1, **about) -> dict:
    return vote(label, annotator, day, seq, role="reviewer", **about)


UNTIMED = {"at": None}


@pytest.mark.parametrize(
    ("original", "rows", "expected"),
    [
        ("a", [], "a"),
        ("a", [vote("b")], "a"),  # a tie keeps the original
        ("a", [vote("b"), vote("b")], "b"),
        ("a", [vote("b"), vote("c")], "a"),
        ("a", [vote("b", "x"), vote("b", "x", day=2)], "a"),  # one vote per annotator
        ("a", [vote("b", "x", day=2), vote("a", "x"), vote("b", "y")], "b"),  # their latest
        ("a", [review("b")], "b"),
        ("a", [review("b", day=3), review("c", day=2), vote("c"), vote("c")], "b"),  # the newest of a reviewer
        ("a", [review(exclude=True)], None),
        ("a", [review(exclude=True), review("b", day=2)], "b"),
        ("a", [review("b") | UNTIMED, review("c")], "c"),  # no time: the oldest
        (None, [vote("b")], "b"),
        (None, [vote("c", day=2), vote("b", day=1)], "b"),  # no original: the first given
        (None, [vote("c", **UNTIMED), vote("b", **UNTIMED)], None),  # one source said both: neither is believed
        (None, [vote("c", **UNTIMED), vote("b", **UNTIMED), vote("b", "ann")], "b"),
        (None, [vote(None)], None),
        ("a", [vote(exclude=True), vote(exclude=True)], None),
        ("a", [vote(exclude=True)], "a"),
        (["x", "y"], [vote(["y", "x"]), vote(["x"]), vote(["x"])], ["x", "y"]),  # the order does not matter
        (["x"], [vote(["y", "x"]), vote(["x", "y"])], ["x", "y"]),
    ],
)
def test_the_label_that_counts(original, rows, expected):
    assert decide_label(original, rows) == expected


def test_what_is_retracted_does_not_count_until_its_retraction_is_retracted():
    first, second = review("b"), review("c", day=2)
    undo = review(day=3, retracts=annotation_key(second))
    redo = review(day=4, retracts=annotation_key(undo))
    assert decide_label("a", [first, second]) == "c"
    assert decide_label("a", [first, second, undo]) == "b"
    assert decide_label("a", [redo, second, undo, first]) == "c"  # in whatever order two branches bring them


def test_a_reviewer_or_two_annotators_confirm_a_label():
    assert decide("a", [review("b", seq=4)]).confirmed == 4
    assert decide("a", [vote("b", "x")]).confirmed is None
    assert decide("a", [vote("b"), vote("b")]).confirmed is None  # imports without a name may be one source
    agreed = decide("a", [vote("b", "x", seq=2), vote("b", "y", seq=5), vote("b", "z", seq=9)])
    assert (agreed.label, agreed.confirmed, agreed.disputed) == ("b", 5, None)


def test_what_was_said_against_a_confirmed_label_since_is_named():
    against = vote("c", "bob", day=9, seq=3)
    found = decide("a", [review("b", seq=2), vote("c", "ann", seq=1), against])
    assert (found.label, found.disputed) == ("b", "bob said c")


def test_annotations_of_earlier_versions_are_read_with_a_role(tmp_path):
    shards.create_dataset(tmp_path, "multiclass")
    old = [("x", "b", "review", "eve"), ("y", None, "review", "eve"), ("z", "c", "import", None)]
    rows = [{"id": i, "label": label, "why": why, "annotator": who} for i, label, why, who in old]
    about = {"seq": 1, "batch": "b-1", "kind": "import", "shards": [], "rows": 0}
    manifest = shards.BatchManifest(annotations=[old_annotations(tmp_path, rows, "multiclass")], **about)
    shards.write_manifest(tmp_path, manifest)
    write_annotations(tmp_path, [said("z", "d", 2)])
    found = read_annotations(tmp_path).to_pylist()
    assert [(row["id"], row["role"], row["exclude"], row["why"], row["seq"]) for row in found] == [
        ("x", "reviewer", False, "", 1),
        ("y", "reviewer", True, "", 1),
        ("z", "import", False, "", 1),
        ("z", "import", False, "", 2),
    ]
    assert read_annotations(tmp_path, {"b-1"})["label"].to_pylist() == ["d"]
    assert read_annotations(tmp_path, {found[-1]["batch"]})["label"].to_pylist() == ["b", None, "c"]


def test_annotations_count_once_the_batch_that_they_need_is_there(tmp_path):
    shards.create_dataset(tmp_path, "multiclass")
    write_annotations(tmp_path, [said("x", "b")], "b-1", needs="b-1")
    assert read_annotations(tmp_path).num_rows == 0
    assert shards.listed_files(tmp_path) == set()
    manifest = shards.BatchManifest(seq=1, batch="b-1", kind="import", shards=[], rows=0)
    shards.write_manifest(tmp_path, manifest)
    assert read_annotations(tmp_path)["label"].to_pylist() == ["b"]
    assert len(shards.listed_files(tmp_path)) == 2


def test_the_additions_of_two_branches_merge(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for data, label in ((ours, "b"), (theirs, "c")):
        shards.create_dataset(data, "multiclass")
        write_annotations(data, [said("same", "a", 1, annotator="ann")])
        write_annotations(data, [said("x", label, 2, annotator=label)])
    shutil.copytree(theirs, ours, dirs_exist_ok=True)
    found = read_annotations(ours)
    assert sorted(found["label"].to_pylist()) == ["a", "b", "c"]


def test_a_missing_file_of_annotations_is_named(tmp_path):
    shards.create_dataset(tmp_path, "multiclass")
    batch = write_annotations(tmp_path, [said("x", "b")])
    (file,) = (tmp_path / "annotations").glob("*.parquet")
    file.unlink()
    with pytest.raises(DataError, match=rf"{file} is missing, but batch {batch}"):
        read_annotations(tmp_path)


def test_the_setting_decides_how_annotators_who_differ_are_settled():
    rows, true = [], []
    rng = np.random.default_rng(0)
    for number in range(2 * ENOUGH):
        right = "ab"[number % 2]
        true.append(right)
        for name, skill in (("good", 0.98), ("fair", 0.75), ("poor", 0.75)):
            label = right if rng.random() < skill else "ba"[number % 2]
            rows.append(vote(label, name) | {"id": f"{number:03}"})
    ids, firsts = pa.chunked_array([[f"{n:03}" for n in range(2 * ENOUGH)]]), pa.chunked_array([["a"] * (2 * ENOUGH)])
    schema = annotation_schema("multiclass").append(pa.field("seq", pa.int32()))
    table = pa.Table.from_pylist([*rows, review("c") | {"id": "000"}], schema=schema)

    def errors(method: str) -> int:
        found = decide_all(ids, firsts, table, method=method)
        assert found[0].label == "c"  # a reviewer's word stands
        return sum(found[row].label != label for row, label in enumerate(true) if row)

    assert errors("dawid_skene") < errors("majority") / 2
    found = decide_all(ids, firsts, table, method="dawid_skene").values()
    alone = {one.deciding[0]["annotator"] for one in found if len(one.deciding) == 1 and one.rule == "votes"}
    assert alone == {"good"}


def test_who_labelled_an_image_of_production_and_changes_their_mind_is_one_person():
    first = said("x", "cat", 1, annotator="ann", role="annotator") | {"batch": "b-1", "seq": 1}
    later = said("x", "dog", 2, annotator="ann", role="annotator") | {"batch": "l-1", "seq": 2}
    assert named_ballots("cat", [first]) == {"ann": "cat"}
    assert named_ballots("cat", [first, later]) == {"ann": "dog"}
    assert second_look("x", "cat", [first, later]) is None
    other = said("x", "cat", 3, annotator="bob", role="annotator") | {"batch": "l-2", "seq": 3}
    assert named_ballots("cat", [other]) == {"": "cat", "bob": "cat"}
    assert second_look("x", "cat", [first, later, other]) == Look("x", "ann", same=True, by_reviewer=False)
