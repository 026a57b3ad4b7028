"""The queue of label issues of the data set: what is asked, in which order, and what is left out."""

import shutil

import pytest

from flows.labels.classes import plan_change, record_change
from flows.labels.issues_queue import find_issues, images
from flows.labels.people import annotators, read_words
from flows.repo import label_issues
from tasks.common.params import load_params
from tasks.labels.storing import write_annotations
from tests.support.annotating import said
from tests.support.live_project import make, samples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a finished run, without second looks."""
    return make(tmp_path_factory.mktemp("issues"), replace={"second_look: 0.02": "second_look: 0.0"})


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


def other(label: str) -> str:
    return "Bag" if label != "Bag" else "Trouser"


def issues(root, why=None):
    found = find_issues(root, load_params(root / "params.yaml"))
    return [entry for entry in found if why in (None, entry.why)]


def looks_wrong(root, *lines: str) -> None:
    """Write what the stage `clean` found suspicious."""
    file = root / "artifacts/clean/queue.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["id,given,predicted,confidence,quality,split,reason,path", *lines, ""]))


def annotate(root, *rows):
    return write_annotations(root / "data", list(rows))


def test_annotators_who_differ_are_asked_about_until_a_reviewer_decides(root):
    (name, label), (agreed, same), *_ = samples(root)
    annotate(root, said(name, other(label), 2, annotator="ann", role="annotator"))
    annotate(root, said(agreed, same, 2, annotator="ann", role="annotator"))
    (entry,) = issues(root, "annotators disagree")
    assert (entry.id, entry.given) == (name, label)
    assert entry.detail == f"first given: {label}; ann: {other(label)}"
    annotate(root, said(name, label, 3, annotator="eve", role="reviewer"))
    assert issues(root, "annotators disagree") == []
    annotate(root, said(name, other(label), 4, annotator="bob", role="annotator"))
    assert [entry.id for entry in issues(root, "annotators disagree")] == [name]


def test_labels_that_look_wrong_are_asked_about_until_a_person_says_something(root):
    (name, label), (second, given), *_ = samples(root)
    looks_wrong(
        root, f"{name},{label},{other(label)},0.9,0.1,test,held_out,", f"{second},{given},Bag,0.8,0.2,train,unsure,"
    )
    label_issues.keep_queue(root, "run-1")
    first, last = issues(root, "looks wrong")
    assert (first.id, first.given, first.prediction, first.confidence) == (name, label, other(label), 0.9)
    assert first.detail == "test: held out"
    annotate(root, said(name, label, 3, annotator="eve", role="reviewer"))
    assert [entry.id for entry in issues(root, "looks wrong")] == [last.id]
    label_issues.keep_queue(root, "run-2")  # a run that knew what eve said, and doubts it all the same
    assert [entry.id for entry in issues(root, "looks wrong")] == [name, second]
    annotate(root, said(second, other(given), 3, annotator="eve", role="reviewer"))
    assert [entry.id for entry in issues(root, "looks wrong")] == [name]


def change(root, *about) -> None:
    record_change(root, plan_change(root, *about, by="ann", why="a test"))


def test_after_a_change_of_classes_issues_are_asked_about_in_the_names_of_today(root):
    bags = [name for name, label in samples(root) if label == "Bag"]
    looks_wrong(root, f"{bags[0]},Bag,Trouser,0.9,0.1,test,held_out,")
    label_issues.keep_queue(root, "run-1")
    change(root, "rename", ["Bag"], ["Sack"])
    change(root, "rename", ["Trouser"], ["Jeans"])
    (entry,) = issues(root, "looks wrong")
    assert (entry.id, entry.given, entry.prediction) == (bags[0], "Sack", "Jeans")


def test_naming_the_part_of_a_split_class_contradicts_no_one(root):
    bags = [name for name, label in samples(root) if label == "Bag"]
    change(root, "split", ["Bag"], ["Purse", "Rucksack"])
    for name in bags[:10]:
        annotate(root, said(name, "Purse", 2, annotator="ann", role="annotator"))
    assert issues(root, "annotators disagree") == []
    found = read_words(root, load_params(root / "params.yaml")).error_rate(1.0)
    assert (found.wrong, found.looks) == (0, 10)


def test_near_duplicates_with_different_labels_are_asked_about_together(root):
    rows = dict(samples(root))
    one = next(iter(rows))
    two = next(name for name, label in rows.items() if label != rows[one])
    looks_wrong(root)
    label_issues.keep_queue(root, "run-1")
    kept = label_issues.queue_file(root, "run-1").with_suffix(".json")
    kept.write_text(f'{{"seq": 1, "clusters": [["{one}", "{two}"]]}}')
    found = issues(root, "duplicates differ")
    assert [entry.id for entry in found] == [one, two]
    assert found[0].detail == f"looks the same: {two[:12]} {rows[two]}"
    annotate(root, said(two, rows[one], 3, annotator="eve", role="reviewer"))
    assert issues(root, "duplicates differ") == []


def test_every_entry_comes_with_its_image_in_the_order_of_the_queue(root):
    for name, label in samples(root)[:70]:
        annotate(root, said(name, other(label), 2, annotator="ann", role="annotator"))
    asked = issues(root, "annotators disagree")
    shown = list(images(root, asked))
    assert [entry.id for entry, _ in shown] == [entry.id for entry in asked]
    assert len(shown) == 70
    assert all(image for _, image in shown)


def test_second_looks_are_blind_and_measure_how_often_people_err(root):
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("second_look: 0.0", "second_look: 0.3"))
    first = issues(root, "second look")
    assert 0.15 * len(samples(root)) < len(first) < 0.45 * len(samples(root))
    assert {(entry.given, entry.prediction, entry.path) for entry in first} == {(None, None, None)}
    assert issues(root)[: len(first)] == first
    labels = dict(samples(root))
    for number, entry in enumerate(first[:10]):
        word = other(labels[entry.id]) if number < 2 else labels[entry.id]
        annotate(root, said(entry.id, word, 2, annotator="eve", role="reviewer"))
    assert [entry.id for entry in issues(root, "second look")] == [entry.id for entry in first[10:]]
    words = read_words(root, load_params(params))
    found = words.error_rate(0.3)
    assert (found.wrong, found.looks) == (2, 10)
    assert found.low < 0.2 < found.high
    assert annotators(words, 0.0)[0].name == "eve"
