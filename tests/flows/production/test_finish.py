"""Answers about production samples wait in the journal, and are taken once: into the log and data/, as one commit."""

from datetime import UTC, datetime

import pytest

from flows.labels import journal
from flows.labels.journal import Answer
from flows.production.finish import finish
from monitoring.review.queue import waiting
from tasks.dataset.shards import batches, read_columns
from tasks.labels.annotations import read_annotations
from tests.support.checkout import git
from tests.support.children import killed_at
from tests.support.label_queues import project, the_log
from tests.support.live_project import samples

AT = datetime(2026, 11, 27, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def root(tmp_path):
    return project(tmp_path / "main")


def by(name: str, image: str, label: str | None, **about) -> Answer:
    return Answer(image, label, annotator=name, at=AT, exclude=label is None, **about)


def answer_some(root) -> tuple[list, tuple[str, str]]:
    """ann labels all but the last queued production sample and excludes that; eve corrects one of data/."""
    queued = waiting(the_log(root))
    corrected, label = samples(root)[20]
    told = [by("ann", entry.id, "Bag") for entry in queued[:-1]] + [by("ann", queued[-1].id, None)]
    other = "Bag" if label != "Bag" else "Trouser"
    journal.record(root, [*told, by("eve", corrected, other, role="reviewer", model_version="v0.1.0")])
    return queued, (corrected, other)


def taken_once(root, queued, corrected) -> None:
    """Everything of `answer_some` is where it belongs, once."""
    rows = the_log(root).labels().to_pylist()
    assert {(row["id"], row["label"]) for row in rows} == {
        *((entry.id, "Bag") for entry in queued[:-1]),
        (queued[-1].id, None),
    }
    assert {(row["annotator"], row["role"], row["at"]) for row in rows} == {("ann", "annotator", AT)}
    how = {row["id"]: (row["picked"], row["sampling_probability"]) for row in rows}
    assert {how[entry.id][0] for entry in queued} == {"audit", "queue"}
    assert how == {entry.id: (entry.picked, pytest.approx(entry.sampling_probability)) for entry in queued}
    batch = batches(root / "data")[-1]
    assert (batch.kind, batch.rows) == ("production", len(queued) - 1)
    (shard,) = batch.shards
    held = read_columns(root / "data" / shard, ["id", "label"]).to_pylist()
    assert {row["id"] for row in held} == {entry.id for entry in queued[:-1]}
    words = [row for row in read_annotations(root / "data").to_pylist() if row["id"] == corrected[0]]
    assert [(row["annotator"], row["role"], row["label"]) for row in words] == [("eve", "reviewer", corrected[1])]
    assert words[0]["model_version"] == "v0.1.0"
    assert waiting(the_log(root)) == []
    assert (journal.pending(root), journal.unplaced(root)) == ([], [])
    assert git(root, "status", "--porcelain", "--", "data.dvc") == ""


def test_a_sitting_becomes_one_commit_whatever_its_answers_are_about(root):
    before = git(root, "rev-parse", "HEAD")
    queued, corrected = answer_some(root)
    found = finish(root)
    taken_once(root, queued, corrected)
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    assert git(root, "show", "--stat", "--format=", "HEAD").split()[0] == "data.dvc"
    subject = git(root, "log", "-1", "--format=%s")
    assert f"took {len(queued) - 1} new images" in subject
    assert "took 1 answer about samples; batch l-" in subject
    assert found.sentence().startswith(f"took {len(queued)} labels of production; took {len(queued) - 1} new images")


def test_production_labels_alone_are_one_commit_too(root):
    before = git(root, "rev-parse", "HEAD")
    entry, *_ = waiting(the_log(root))
    journal.record(root, [by("ann", entry.id, "Bag")])
    finish(root)
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    journal.record(root, [by("ann", entry.id, "Bag")])  # said again: nothing new
    assert finish(root).labels == 0
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"


@pytest.mark.parametrize("point", ["ingest.after_manifest", "labels.stored"])
def test_a_killed_finish_is_completed_by_the_next_one(root, point):
    before = git(root, "rev-parse", "HEAD")
    queued, corrected = answer_some(root)
    assert killed_at(point, finish, root)
    finish(root)
    taken_once(root, queued, corrected)
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"


def test_an_answer_about_an_image_that_is_nowhere_is_kept(root):
    journal.record(root, [by("ann", "f" * 64, "Bag")])
    assert finish(root).unknown == ["f" * 64]
    assert [one.id for one in journal.unplaced(root)] == ["f" * 64]
