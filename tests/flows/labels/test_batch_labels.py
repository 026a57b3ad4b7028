"""A whole batch's labels corrected at once: first what would change, then one word of the reviewer per image."""

import pytest

from flows.labels.batch_labels import plan_fix, take_fix
from flows.labels.people import read_words
from flows.labels.undo import undo_batch
from flows.project.tombstoning import lift_tombstone, tombstone_batch
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.person import acting_as
from tests.support import versions_project
from tests.support.versions_project import store

BATCH = "b-000000000002"


@pytest.fixture
def root(tmp_path):
    return versions_project.copy(tmp_path / "project")


def labels(root, ids) -> dict:
    now = read_words(root, load_params(root / "params.yaml")).now()
    return {one: now[one] for one in ids}


def test_a_class_of_a_batch_is_taken_for_another_and_back(root):
    plan = plan_fix(root, BATCH, "cat", "dog", known=["cat", "dog"])
    before = labels(root, plan.changes)
    assert set(before.values()) == {"cat"}
    assert plan.classes[1]["cat"] == 0
    assert plan.lines()[0].startswith(f"{len(before)} of the batch's images get another label (")
    assert f"'cat' {len(before)} -> 0" in plan.lines()[1]
    everything = read_words(root, load_params(root / "params.yaml"))
    with acting_as("Ann"):
        taken = take_fix(root, plan, "the folders were mixed up")
    assert taken.added == len(before)
    assert set(labels(root, before).values()) == {"dog"}
    after = read_words(root, load_params(root / "params.yaml"))
    assert sum(after.now()[one] != everything.now()[one] for one in after.ids) == len(before), "no other batch"
    words = after.said[next(iter(before))][-1]
    assert (words["annotator"], words["role"], words["why"]) == ("Ann", "reviewer", "the folders were mixed up")
    undo_batch(root, taken.batch, "it was right")
    assert labels(root, before) == before


def test_two_classes_are_swapped_and_one_is_left_out(root):
    one_way, swapped = plan_fix(root, BATCH, "cat", "dog"), plan_fix(root, BATCH, "cat", "dog", swap=True)
    assert swapped.changes.items() > one_way.changes.items()
    assert set(swapped.changes.values()) == {"cat", "dog"}
    assert swapped.classes[0]["cat"] == swapped.classes[1]["dog"]
    out = plan_fix(root, BATCH, "cat", None)
    assert set(out.changes.values()) == {None}
    take_fix(root, out, "blurred")
    words = read_words(root, load_params(root / "params.yaml"))
    assert all(words.decisions[one].excluded for one in out.changes)


def test_a_refused_batch_can_be_corrected_before_it_is_allowed_again(root):
    store(root).tombstone(BATCH, why="labels are noisy", by="run r-1")
    take_fix(root, plan_fix(root, BATCH, "cat", "dog"), "mixed up")
    assert lift_tombstone(root, BATCH, "corrected", "Ann") == f"{BATCH} is allowed again"
    assert store(root).lifted()[BATCH][0]["lifted"]["by"] == "Ann"
    with pytest.raises(EvergreenError, match="nothing to take back"):
        lift_tombstone(root, BATCH, "twice", "Ann")
    with pytest.raises(EvergreenError, match="a reason is missing"):
        tombstone_batch(root, BATCH, " ", "Ann")
    (root / "tombstones.json").write_text(f'{{"{BATCH}": {{"why": "x"}}}}\n')
    with pytest.raises(EvergreenError, match="is committed: delete its entry"):
        lift_tombstone(root, BATCH, "why", "Ann")


@pytest.mark.parametrize(
    ("batch", "given", "right", "swap", "said"),
    [
        ("b-ffffffffffff", "cat", "dog", False, "no batch"),
        (BATCH, "bird", "dog", False, "its classes are 'cat'"),
        (BATCH, "cat", "cat", False, "name another class"),
        (BATCH, "cat", "bird", False, "'bird' is not a class"),
        (BATCH, "cat", None, True, "two classes are needed"),
    ],
)
def test_what_cannot_be_meant_is_refused(root, batch, given, right, swap, said):
    with pytest.raises(EvergreenError, match=said):
        plan_fix(root, batch, given, right, swap=swap, known=["cat", "dog"])


def test_without_a_reason_nothing_is_taken(root):
    with pytest.raises(EvergreenError, match="a reason is missing"):
        take_fix(root, plan_fix(root, BATCH, "cat", "dog"), "")
