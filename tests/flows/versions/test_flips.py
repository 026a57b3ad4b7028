"""The images that two versions answer differently, from what their commits store."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from flows.versions import comparison
from flows.versions.comparison import compare_versions
from flows.versions.flips import Given, compare_answers, given, is_right
from tasks.common.schemas import predictions_schema
from tasks.inference.thresholds import Rule, read_rule
from tasks.labels.changes import Change
from tasks.labels.taxonomy import UNCHANGED, compose
from tests.support import released_project


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    return released_project.copy(tmp_path_factory.mktemp("flips"))


def one(id_: str, label: str, said: str, sure: float = 0.9, split: str = "test") -> Given:
    return Given(id=id_, key=None, split=split, label=(label,), said=(said,), sure=sure)


def test_images_that_flipped_between_two_versions(main):
    found = compare_versions(main, "v0.1.0", "v0.3.0").flips
    assert (found.images, found.only_a, found.only_b, found.why) == (6, 0, 12, "")
    assert {row.to for row in found.rows} == {"wrong"}, "0.75 right became 0.5 of the same images"
    ids = {row.id for row in found.rows}
    assert ids
    assert all(0.5 * 0x10000 <= int(id_[:4], 16) < 0.75 * 0x10000 for id_ in ids)
    assert found.both_right + len(found.rows) == sum(int(row.n * row.a + 0.5) for row in found.classes)
    back = compare_versions(main, "v0.3.0", "v0.1.0").flips
    assert {row.id for row in back.rows if row.to == "right"} == ids
    assert (found.count("wrong"), back.count("right"), back.count("wrong")) == (len(ids), len(ids), 0)


def test_a_comparison_is_computed_once_and_a_held_run_can_be_compared(main, monkeypatch):
    first = compare_versions(main, "v0.1.0", "v0.2.0")
    monkeypatch.setattr(comparison, "open_objects", None)
    assert compare_versions(main, "v0.1.0", "v0.2.0") == first
    assert first.versions.metrics["test.balanced_accuracy"] == (0.75, 0.875, "better")


def test_lost_answers_are_said_and_not_remembered(main, tmp_path):
    copy = released_project.copy(tmp_path)
    cache, remote = copy / ".dvc/cache", copy / ".evergreen/remote"
    for place in (cache, remote):
        place.rename(place.with_suffix(".away"))
    assert "is missing" in compare_versions(copy, "v0.1.0", "v0.2.0").flips.why
    for place in (cache, remote):
        shutil.rmtree(place, ignore_errors=True)
        place.with_suffix(".away").rename(place)
    assert compare_versions(copy, "v0.1.0", "v0.2.0").flips.images == 6


def test_wrong_answers_come_first_the_surest_before_all():
    a = [one("a", "cat", "cat"), one("b", "cat", "cat"), one("c", "dog", "cat"), one("d", "dog", "dog")]
    b = [one("a", "cat", "dog", 0.6), one("b", "cat", "dog", 0.8), one("c", "dog", "dog"), one("d", "dog", "dog")]
    found = compare_answers(a, [*b, one("e", "dog", "dog")], UNCHANGED)
    assert [(row.id, row.to) for row in found.rows] == [("b", "wrong"), ("a", "wrong"), ("c", "right")]
    assert (found.images, found.only_b, found.both_right) == (4, 1, 1)
    cat, dog = found.classes
    assert (cat.name, cat.n, cat.a, cat.b) == ("cat", 2, 1.0, 0.0)
    assert dog.low < 0.5 < dog.high
    assert dog.trend == "same", "two images prove nothing"
    many = compare_answers(a[:1] * 1, b[:1], UNCHANGED).classes[0]
    assert many.n == 1


def test_a_corrected_label_counts_for_both_versions():
    a, b = [one("a", "cat", "dog")], [one("a", "dog", "dog")]
    assert compare_answers(a, b, UNCHANGED).rows == []


def test_names_are_read_as_today():
    changes = [
        ("rename", ["cat"], ["feline"]),
        ("split", ["dog"], ["hound", "poodle"]),
        ("merge", ["ox", "yak"], ["cattle"]),
    ]
    taxonomy = compose(
        [
            Change(number=number, kind=kind, old=old, new=new, at="", by="", why="", state="")
            for number, (kind, old, new) in enumerate(changes)
        ]
    )
    assert is_right(["cat"], ["feline"], taxonomy)
    assert is_right(["dog"], ["hound"], taxonomy)
    assert not is_right(["hound"], ["poodle"], taxonomy)
    assert is_right(["cattle"], ["ox"], taxonomy)
    assert not is_right(["ox"], ["cattle"], taxonomy)
    flip = compare_answers([one("a", "cat", "ox")], [one("a", "cat", "feline")], taxonomy).rows[0]
    assert (flip.label, flip.a.said, flip.b.said, flip.to) == ("feline", "cattle", "feline", "right")


def test_multi_label_answers_are_right_only_as_a_whole():
    row = {"id": "a", "split": "test", "label": ["bag", "boot"], "probabilities": [0.9, 0.7, 0.4]}
    table = pa.Table.from_pylist([row], predictions_schema("multilabel"))
    rule = Rule("multilabel", np.array([0.5, 0.8, 0.5]), np.ones(3))
    (found,) = given(table, ["bag", "boot", "coat"], rule)
    assert found.said == ("bag",)
    assert not is_right(found.said, found.label, UNCHANGED)
    whole = found.model_copy(update={"said": ("boot", "bag")})
    assert is_right(whole.said, whole.label, UNCHANGED)
    assert given(table.slice(0, 0), ["bag", "boot", "coat"], rule) == []


def test_multi_class_answers_follow_the_weights_of_the_model_that_gave_them():
    row = {"id": "a", "split": "test", "label": "bag", "probabilities": [0.3, 0.7]}
    table = pa.Table.from_pylist([row], predictions_schema("multiclass"))
    about = {"classes": ["bag", "boot"], "task": "multiclass", "thresholds": {"bag": 0.25, "boot": 0.5}}
    (found,) = given(table, about["classes"], read_rule(about))  # as written before there were weights
    assert (found.said, found.sure) == (("boot",), 0.7)
    (found,) = given(table, about["classes"], read_rule(about | {"weights": {"bag": 3.0, "boot": 1.0}}))
    assert (found.said, found.sure) == (("bag",), 0.3)
