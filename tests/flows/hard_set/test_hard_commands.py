"""`evergreen hard` on real projects: what it says first, what it does, and how it is taken back."""

import json
import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows.cli.hard import app
from flows.erasure.forget import forget
from flows.hard_set.candidates import Candidate, candidates_of, production_mistakes, training_counts
from flows.hard_set.content import read_hard_set
from flows.hard_set.history import set_history
from flows.hard_set.looks import status_lines
from flows.hard_set.plan import STAYS, Limits, plan_add
from flows.hard_set.take import take_plan
from flows.labels.why import explain
from flows.publishing.asked_sets import Unfair, data_of, unfair_to
from flows.repo.pipeline import record_data
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, sha256_bytes
from tasks.dataset.hard_set import membership, never_again, write_changes
from tasks.dataset.shards import HARD_SET_VERSION, batches, live_shards, next_seq, read_columns
from tasks.ingest.erase import ids_starting
from tasks.labels.storing import write_annotations
from tasks.releases.looks import Look, SetLook, record_look
from tests.support import released_project, versions_project, wrong_answers
from tests.support.annotating import said as annotated
from tests.support.checkout import git
from tests.support.children import killed_at
from tests.support.label_queues import project as live_project
from tests.support.live_project import commit_project
from tests.support.small_project import finished_project


def hard(root, *arguments, code=0):
    """Run `evergreen hard ...` in `root`; returns what it prints, or raises what it raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("EVERGREEN_PERSON", "ann")
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def splits(root):
    tables = [read_columns(shard.path, ["id", "split"]).to_pylist() for shard in live_shards(root / "data")]
    return {row["id"]: row["split"] for rows in tables for row in rows}


@pytest.fixture
def root(tmp_path):
    """Three releases; "part bag 0" is in train, 1 in calibration, 2 in test; v0.3.0 is live."""
    return released_project.copy(tmp_path)


def image(place, number=1, label="bag"):
    return sha256_bytes(f"image {label} {number} {place}".encode())


def test_chosen_images_are_said_first_then_taken_removed_and_put_back(root):
    names = [image(0)[:20], image(1)[:20], image(2)[:20]]
    before = git(root, "rev-parse", "HEAD")
    said = hard(root, "add", *names, "--why", "a scratch", "--dry-run")
    assert "1 image goes into the hard set: boot 1" in said  # people corrected its label
    assert "1 image of these leaves training from the next run on" in said
    assert "v0.3.0 was trained on 1 of them, so it looks better on these than it is" in said
    assert "1 image is in the test split, which keeps its images" in said
    assert "1 image is in the calibration split" in said
    assert "the hard set was not asked yet; its 1 image bears 1 look" in said
    assert (git(root, "rev-parse", "HEAD"), read_hard_set(root).members) == (before, [])
    with pytest.raises(EvergreenError, match="a reason is missing"):
        hard(root, "add", names[0])

    assert "hard set: 1 image added (h-" in hard(root, "add", *names, "--why", "a scratch")
    (member,) = read_hard_set(root).members
    assert (member.id, member.label, member.by, member.why, member.origin) == (
        image(0), "boot", "ann", "a scratch", "chosen",
    )  # fmt: skip
    assert "a scratch" in git(root, "log", "-1", "--format=%s")
    assert [splits(root)[image(place)] for place in range(3)] == ["hard", "calibration", "test"]
    assert "1 image is in the hard set already" in hard(root, "add", names[0], "--why", "again")

    assert "hard set: 1 image taken out" in hard(root, "remove", names[0], "--why", "blurred")
    assert splits(root)[image(0)] == "train"
    assert "1 image is not in the hard set" in hard(root, "remove", names[0], "--why", "again")
    assert "hard set: 1 image added" in hard(root, "undo", "--why", "it was fine")
    assert splits(root)[image(0)] == "hard"

    said = "\n".join(explain(root, image(0)))
    assert "  hard set:     added by ann, " in said
    assert "taken out by ann, " in said
    assert ": blurred" in said

    history = json.loads(hard(root, "history", "--json"))
    assert [(one["what"]["add"], one["what"]["remove"], one["images"]) for one in history] == [
        (1, 0, 1), (0, 1, 0), (1, 0, 1),
    ]  # fmt: skip
    assert [one["why"] for one in history] == ["a scratch", "blurred", "it was fine"]
    assert history[0]["version"] == history[2]["version"] == read_hard_set(root).version
    assert history[0]["version"] in hard(root)
    assert "by ann: blurred" in hard(root, "history")
    with pytest.raises(EvergreenError, match="later changes have taken it back"):
        hard(root, "undo", set_history(root)[1].batch, "--why", "x")


def test_synthetic_images_stay_out():
    said = Candidate("a" * 64, "bag", None, "train", "b-1", synthetic=True).stays()
    assert STAYS[said] == "synthetic: models are judged on real images only"
    assert Candidate("a" * 64, "bag", None, "train", "b-1").stays() is None


def test_images_are_marked_where_models_are_judged_on_them(root):
    hard(root, "add", image(0), "--why", "a scratch")
    said = hard(root, "never-again", image(0), image(2), image(3), "--why", "the one of the recall")
    assert "2 images are marked" in said
    assert "1 image is neither in the hard set nor in the test split" in said
    assert never_again(root / "data") == {image(0), image(2)} == read_hard_set(root).never
    assert "1 image is no longer marked" in hard(root, "never-again", image(2), "--undo", "--why", "wrong image")
    assert never_again(root / "data") == {image(0)}


def test_a_model_that_was_trained_on_an_image_is_known_by_its_data(root):
    versions = {pointer.version: pointer for pointer in released_project.store(root).history()}
    assert data_of(root, versions["v0.1.0"]).batches == {"b-1"}
    late = image(0, 3)
    hard(root, "add", image(0), late, "--why", "a scratch")
    predictions = pa.table({"id": [image(0), late], "split": ["hard"] * 2, "batch": ["b-1", "b-3"]})
    assert unfair_to(root, versions["v0.1.0"], predictions).trained == {image(0)}
    unfair = unfair_to(root, versions["v0.3.0"], predictions)
    assert unfair.trained == {image(0), late}
    assert unfair.sentence("v0.3.0") == "2 are training images of v0.3.0: the comparison with it leaves them out"
    now = versions["v0.3.0"].model_copy(update={"git_rev": git(root, "rev-parse", "HEAD")})  # made from today's data
    assert unfair_to(root, now, predictions).ids == frozenset()
    assert Unfair(picked=frozenset("a")).sentence("v1") == (
        "1 was picked because v1 was wrong: the comparison with it leaves them out"
    )
    lost = versions["v0.3.0"].model_copy(update={"git_rev": "0" * 40})  # its commit is not here
    assert unfair_to(root, lost, predictions).trained == {image(0), late}


def test_looks_are_counted_from_the_oldest_image_on(root):
    hard(root, "add", image(0), "--why", "a scratch")
    store, seq = released_project.store(root).store, set_history(root)[-1].seq

    def look(number, seq):
        sets = {"hard": SetLook(version="hard-1", images=1)}
        at = datetime(2026, 11, 21, 12, number, tzinfo=UTC)
        record_look(
            store,
            Look(at=at, run=f"r-{number}", by="eve", challenger=f"{number:064}", champion=None, seq=seq, sets=sets),
        )

    look(1, seq - 1)  # of an earlier hard set
    look(2, seq)
    look(3, seq)
    said = hard(root)
    assert "the hard set was asked 2 times, more often than its 1 image bears (1 look)" in said
    assert "Add 55 new images to it" in said
    assert "r-3  run by eve, a first model: hard-1 of 1" in hard(root, "looks")
    assert "was asked 2 times" in status_lines(root)[0]
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("look_margin: 0.1", "look_margin: 0.9"))  # the setting is read
    assert "its 1 image bears 7 looks" in hard(root)
    assert status_lines(root) == []


def test_mistakes_of_production_within_quotas_and_without_near_duplicates(tmp_path):
    root = live_project(tmp_path / "main")
    ids, truth = wrong_answers.add(root), wrong_answers.TRUTH
    assert "0 images go into" in hard(root, "add", "--week", "2026-W46", "--dry-run")
    said = hard(root, "refresh", "--per-class", "1", "--dry-run")
    assert "2 images go into the hard set: Trouser 1, Ankle boot 1" in said
    assert "1 image is left out, as a near-duplicate" in said
    assert "1 image is beyond the quota of a class" in said
    hard(root, "refresh", "--per-class", "2", "--why", "what the line got wrong")
    now = read_hard_set(root)
    assert {(one.id, one.label, one.source, one.key, one.origin, one.model) for one in now.members} == {
        (ids[n], truth[n], "cam 1", f"order {n}", "production", "v0.1.0") for n in (0, 1, 4)
    }
    assert batches(root / "data")[-1].kind == "hard"
    assert git(root, "status", "--porcelain", "--", "data.dvc") == ""
    assert membership(root / "data").rows[ids[0]]["was"] is None

    hard(root, "remove", ids[0], "--why", "no reader could tell")
    assert splits(root)[ids[0]] is None
    assert "0 images go into" in hard(root, "refresh", "--dry-run")  # what people took out stays out
    assert "1 image goes into the hard set: Trouser 1" in hard(root, "add", ids[0], "--dry-run")


def take_mistakes(root):
    plan = plan_add(root, production_mistakes(root), counts=training_counts(root))
    return take_plan(root, plan, "wrong", origin="production")


@pytest.mark.parametrize("point", ["hard.written", "hard.ingested", "hard.recorded"])
def test_a_change_that_was_killed_is_completed_by_the_same_command(tmp_path, point):
    root = live_project(tmp_path / "main")
    ids = wrong_answers.add(root)
    before = git(root, "rev-parse", "HEAD")
    assert killed_at(point, take_mistakes, root)
    take_mistakes(root)
    assert {one.id: one.model for one in read_hard_set(root).members} == {ids[n]: "v0.1.0" for n in (0, 1, 2, 4)}, (
        "which model was wrong about them is known, so they do not count in a comparison with it"
    )
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    assert git(root, "status", "--porcelain", "--", "data.dvc") == ""
    assert [one.images for one in set_history(root)][-1] == 4
    assert read_json(root / "data/dataset.json")["schema"] == HARD_SET_VERSION, "an earlier Evergreen must refuse it"


def test_when_git_refuses_the_commit_no_image_of_production_is_taken(tmp_path):
    root = live_project(tmp_path / "main")
    wrong_answers.add(root)
    hook = root / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    before = sorted((root / "data").rglob("*")), (root / "data.dvc").read_text()
    with pytest.raises(EvergreenError, match="Nothing was taken"):
        take_mistakes(root)
    assert (sorted((root / "data").rglob("*")), (root / "data.dvc").read_text()) == before


def test_an_erased_image_leaves_no_trace_in_changes_old_or_new(tmp_path):
    root = versions_project.settled(versions_project.copy(tmp_path / "project"))
    gone, stays = (sha256_bytes(versions_project.image(1, row)) for row in (3, 4))
    split = splits(root)
    assert {split[gone], split[stays]} <= {"train", "calibration", "test"}
    about = {"what": "never", "at": datetime(2026, 11, 21, tzinfo=UTC), "by": "ann", "why": "x", "origin": "chosen"}
    rows = [{"id": one, **about} for one in (gone, stays)]
    write_changes(root / "data", rows, next_seq(root / "data"))
    record_data(root)
    git(root, "commit", "-qm", "marks", "--", "data.dvc")
    forget(root, gone, "asked", yes=True)
    assert never_again(root / "data") == {stays}
    files = [file for file in (root / ".dvc/cache").rglob("*") if file.is_file()]
    assert any(ids_starting(file, stays) for file in files)
    assert not any(ids_starting(file, gone) for file in files)


def test_with_several_labels_an_image_counts_for_each_and_may_have_none(tmp_path):
    root = tmp_path / "main"
    shutil.copytree(finished_project("multilabel"), root)
    commit_project(root)
    tables = [read_columns(shard.path, ["id", "label", "split"]).to_pylist() for shard in live_shards(root / "data")]
    trained = [row for rows in tables for row in rows if row["split"] == "train"]
    both = next(row["id"] for row in trained if len(row["label"]) == 2)
    one = next(row["id"] for row in trained if row["label"] == ["Ankle boot"])
    write_annotations(root / "data", [annotated(one, [], role="reviewer", annotator="eve")])
    found = candidates_of(root, [both, one])
    plan = plan_add(root, found, Limits(per_class=1), counts=training_counts(root))
    assert plan.lines()[0] == "2 images go into the hard set: Trouser 1, Bag 1"
    take_plan(root, plan, "hard ones", commit=False)
    assert {member.id: member.label for member in read_hard_set(root).members} == {both: ["Trouser", "Bag"], one: []}
    again = plan_add(root, candidates_of(root, [row["id"] for row in trained]), Limits(per_class=1), counts={})
    assert len(again.left["class quota"]) > 10
