"""A correction counts, is explained, and can be undone; single images can be left out and taken back."""

import sys

import numpy as np
import pytest

from flows.labels import journal
from flows.labels.classes import plan_change, record_change
from flows.labels.exclude import correct, exclude, include, readable
from flows.labels.journal import Answer
from flows.labels.people import read_words
from flows.labels.status import label_lines
from flows.labels.take import take
from flows.labels.undo import batch_images, undo_batch, undo_newest
from flows.labels.why import explain, labels_now
from flows.production.finish import finish
from flows.repo.pipeline import open_repo, restore_data
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import load_params
from tasks.dataset.annotation_files import annotation_batches
from tasks.labels import agreed
from tasks.labels.annotations import decide_label, read_annotations
from tasks.releases.store import open_store
from tests.flows.labels.corrections import commits, labels_of, project
from tests.support import released_project, versions_project
from tests.support.checkout import git

ME = "Ann"  # as git knows who works in versions_project


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    return project(tmp_path_factory.mktemp("labels") / "project")


def test_a_reviewer_overrides_annotators_and_both_can_be_undone(main):
    root, (image, *_) = main
    votes = [Answer(image, "dog", annotator=who) for who in ("ann", "bob")]
    first = take(root, votes)
    assert (first.added, labels_of(root, [image])) == (2, ["dog"])
    second = correct(root, image, "cat", "it meows")
    assert labels_of(root, [image]) == ["cat"]
    assert commits(root)[0] == f"correct: took 1 answer about samples; batch {second.batch}"
    assert git(root, "status", "--porcelain") == ""
    undo_newest(root, image, "it barks")
    assert labels_of(root, [image]) == ["dog"]
    undone = undo_batch(root, first.batch, "wrong file")
    assert labels_of(root, [image]) == ["cat"]  # as first given
    with pytest.raises(EvergreenError, match="was undone before"):
        undo_batch(root, first.batch, "again")
    with pytest.raises(EvergreenError, match="is the one first given"):
        undo_newest(root, image, "again")
    undo_batch(root, undone.batch, "it was right")
    assert labels_of(root, [image]) == ["dog"]


def test_the_same_answers_again_add_nothing(main):
    root, (_, image, *_) = main
    answers = [Answer(image, "dog", annotator="ann"), Answer(image, "dog", annotator="eve", role="reviewer")]
    assert take(root, answers).added == 2
    head = git(root, "rev-parse", "HEAD")
    again = take(root, answers)
    assert (again.batch, again.repeated, git(root, "rev-parse", "HEAD")) == (None, 2, head)
    take(root, [Answer(image, "cat", annotator="carl", role="reviewer")])
    assert take(root, answers).added == 1  # eve's word is news where another reviewer has spoken since
    assert labels_of(root, [image]) == ["dog"]


def test_what_only_a_deleted_batch_says_can_be_said_again_and_is_not_undone(tmp_path):
    root, (image, *_) = project(tmp_path / "project")
    answers = [Answer(image, "dog", annotator="eve", role="reviewer")]
    batch = take(root, answers).batch
    write_json(root / "tombstones.json", {batch: {"why": "a bad day"}})
    assert labels_of(root, [image]) == ["cat"]
    with pytest.raises(EvergreenError, match="is the one first given"):
        undo_newest(root, image, "")
    assert take(root, answers).added == 1
    assert labels_of(root, [image]) == ["dog"]


def test_why_says_the_label_on_which_the_annotators_settle(tmp_path, monkeypatch):
    root, _ = project(tmp_path / "project")
    monkeypatch.setattr(agreed, "ENOUGH", 50)
    rng, told = np.random.default_rng(0), []
    for row in versions_project.rows(1).select(["id", "label"]).to_pylist():
        for who, skill in [("good", 1.0), *((f"poor {number}", 0.55) for number in range(4))]:
            word = row["label"] if rng.random() < skill else {"cat": "dog", "dog": "cat"}[row["label"]]
            told.append(Answer(row["id"], word, annotator=who))
    take(root, told)
    decisions = read_words(root, load_params(root / "params.yaml")).decisions
    outvoted = [one for one, found in decisions.items() if found.label != decide_label(None, said_of(root, one))]
    assert outvoted
    assert f"  counts now:   {decisions[outvoted[0]].label} (votes" in "\n".join(explain(root, outvoted[0]))


def said_of(root, image: str) -> list[dict]:
    return [row for row in read_annotations(root / "data").to_pylist() if row["id"] == image]


def test_single_images_are_left_out_and_taken_back(main):
    root, (*_, image, other) = main
    exclude(root, [image, other], "blurred")
    assert labels_of(root, [image, other]) == [None, None]
    include(root, [image], "sharp enough")
    assert labels_of(root, [image, other]) == ["cat", None]
    with pytest.raises(EvergreenError, match="is not excluded"):
        include(root, [image], "")


def test_images_that_the_data_set_does_not_hold_are_named(main):
    root, (image, *_) = main
    found = take(root, [Answer("f" * 64, "dog", annotator="ann"), Answer(image, "bird", annotator="zoe")])
    assert (found.added, found.unknown) == (1, ["f" * 64])


@pytest.mark.parametrize(
    "wrong", [{}, {"label": ["cat"]}, {"label": "cat", "exclude": True}, {"label": "cat", "role": "king"}]
)
def test_an_answer_that_is_not_one_is_refused(main, wrong):
    root, (image, *_) = main
    with pytest.raises(EvergreenError, match="expected a label"):
        take(root, [Answer(image, **wrong)])


def test_why_tells_the_whole_story(main):
    root, (_, _, image, *_) = main
    batch = take(root, [Answer(image, "dog", annotator="ann", why="ears", model_version="v1")]).batch
    correct(root, image, "bird", "wings")
    last = correct(root, image, "dog", "no wings").batch
    undo_newest(root, image, "sure")
    lines = explain(root, image)
    assert lines[0].startswith(image)
    assert lines[1].startswith("  train, batch b-000000000001") or "batch b-000000000001" in lines[1]
    assert lines[2] == "  first given:  cat"
    assert "annotator ann: dog (ears, saw v1) - overridden by a reviewer" in lines[3]
    assert f"reviewer {ME}: bird (wings) - decides" in lines[4]
    assert f"reviewer {ME}: dog (no wings) - undone  [{last}]" in lines[5]
    assert "undoes an earlier one (sure)" in lines[6]
    assert lines[7] == "  counts now:   bird (reviewer, confirmed)"
    assert lines[8] == "  no model was trained yet"
    write_json(root / "tombstones.json", {batch: {"why": "a bad day"}})
    assert "its batch is tombstoned" in explain(root, image)[3]
    write_json(root / "tombstones.json", {})


def test_why_tells_what_each_version_made_of_the_label(tmp_path):
    root = released_project.copy(tmp_path / "project")
    corrected = released_project.corrected_id()
    told = [line.strip() for line in explain(root, corrected) if line.startswith("  v")]
    assert told == ["v0.3.0: trained on as boot", "v0.2.0: trained on as boot", "v0.1.0: trained on as bag"]


def test_a_reviewers_typing_error_is_not_a_new_class(main):
    with pytest.raises(EvergreenError, match=r"'catt' is not a class: did you mean 'cat'\? There are 'cat', 'dog'"):
        readable(["catt"], "multiclass", ["cat", "dog"])
    with pytest.raises(EvergreenError, match="quote a name with spaces"):
        readable(["big", "dog"], "multiclass", None)
    with pytest.raises(EvergreenError, match="cannot be a label: an empty label"):
        readable([" "], "multiclass", ["cat"])
    assert readable(["catt"], "multiclass", None) == "catt"
    assert readable(["dog", "cat"], "multilabel", ["cat", "dog"]) == ["cat", "dog"]


def test_what_became_of_labels_can_be_said_before_and_after(main):
    root, ids = main
    image = ids[4]
    assert labels_now(root, [image])[image][0] == "excluded"
    first = include(root, [image], "again").batch
    assert labels_now(root, [image])[image][0] == "cat"
    assert batch_images(root, first) == [image]
    twice = [Answer(image, label, annotator="ann") for label in ("dog", "bird")]
    take(root, twice)
    told = explain(root, image)
    assert any("ann: dog - replaced by a newer word" in line for line in told)
    assert any("ann: bird - counts" in line for line in told)
    assert any("counts now:   cat (votes: the label first given stays)" in line for line in told)


def test_why_shows_names_of_the_past_with_those_of_today(tmp_path):
    root, (image, *_) = project(tmp_path / "project")
    take(root, [Answer(image, "dog", annotator="ann")])
    for about in (("rename", ["cat"], ["feline"]), ("split", ["dog"], ["hound", "poodle"])):
        record_change(root, plan_change(root, *about, by="ann", why=""))
    story = "\n".join(explain(root, image))
    assert "first given:  cat (today: feline)" in story
    assert "annotator ann: dog (today: one of hound, poodle)" in story
    assert "counts now:   feline" in story


def test_status_says_how_often_people_err_and_what_waits(tmp_path):
    root, ids = project(tmp_path / "project")
    assert label_lines(root, None) == []
    settings = root / "params.yaml"
    settings.write_text(settings.read_text().replace("second_look: 0.02", "second_look: 1.0"))
    take(root, [Answer(ids[0], "dog", annotator="ann"), Answer(ids[1], "cat", annotator="ann")])
    journal.record(root, [Answer(ids[2], "dog", annotator="ann"), Answer("f" * 64, "dog", annotator="ann")])
    (rate, waiting) = label_lines(root, None)
    words = read_words(root, load_params(settings)).error_rate(1.0)
    assert (words.looks > 1, rate) == (True, f"how often people err: {words.sentence()}")
    assert waiting == "2 answers wait to be taken: `evergreen finish` takes them now"
    finish(root)
    assert label_lines(root, None)[1] == "1 answers are about images that data/ does not hold: another branch may"


def test_status_says_by_which_labels_the_live_version_was_judged(tmp_path):
    root = released_project.copy(tmp_path)
    live = open_store(load_params(root / "params.yaml").store, root).live()
    write_json(root / "metrics/validate.json", {"label_revision": "0123456789ab"})
    git(root, "add", "-f", "metrics/validate.json")
    git(root, "commit", "-qm", "what a run records")
    judged = live.model_copy(update={"git_rev": git(root, "rev-parse", "HEAD")})
    assert f"{live.version} was judged by the labels of revision 0123456789ab" in label_lines(root, judged)


def test_gits_merge_of_two_branches_keeps_the_labels_of_both(tmp_path):
    root, (one, two, *_) = project(tmp_path / "project")
    driver = f"{sys.executable} -m dvc git-hook merge-driver --ancestor %O --our %A --their %B"
    git(root, "config", "merge.dvc.driver", driver)
    (root / ".gitattributes").write_text("data.dvc merge=dvc\n")
    git(root, "add", ".gitattributes")
    git(root, "commit", "-qm", "merge data.dvc with DVC's driver")
    main_branch = git(root, "branch", "--show-current")
    git(root, "checkout", "-q", "-b", "other")
    correct(root, one, "dog", "on another branch")
    git(root, "checkout", "-q", main_branch)
    restore_data(open_repo(root))
    assert labels_of(root, [one, two]) == ["cat", "cat"]
    correct(root, two, "dog", "here")
    git(root, "merge", "-q", "--no-edit", "other")
    restore_data(open_repo(root))
    assert labels_of(root, [one, two]) == ["dog", "dog"]
    assert len({batch.batch for batch in annotation_batches(root / "data")}) == len(annotation_batches(root / "data"))
