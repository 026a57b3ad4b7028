"""Answers survive a kill, come from several processes at once, and are taken exactly once."""

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels import journal
from flows.labels.journal import Answer
from flows.labels.take import Waiting, take, take_later
from flows.production.finish import finish, finish_idle
from flows.services.supervisor import take_idle_answers
from tasks.common.errors import EvergreenError
from tests.flows.labels.corrections import answers_in, commits, labels_of, project
from tests.support import versions_project
from tests.support.checkout import git
from tests.support.children import killed_at, start


def record_many(root: Path, who: str, count: int) -> None:
    for number in range(count):
        journal.record(root, [Answer(f"{number}", "cat", annotator=who, why="ä" * 2000)])


def test_answers_of_several_processes_at_once_are_all_there(tmp_path):
    (tmp_path / ".evergreen").mkdir()
    writers = [start(record_many, tmp_path, who, 25) for who in ("ann", "bob", "carl")]
    for writer in writers:
        writer.join()
    found = journal.pending(tmp_path)
    assert {(one.annotator, one.id) for one in found} == {
        (who, str(n)) for who in ("ann", "bob", "carl") for n in range(25)
    }
    assert all(one.at for one in found)


def test_a_torn_answer_is_dropped_and_harms_no_other(tmp_path):
    journal.record(tmp_path, [Answer("a", "cat")])
    with open(tmp_path / ".evergreen/labels/journal.jsonl", "a") as file:
        file.write('{"id": "b", "label": "d')  # what a full disk leaves of a line
    journal.record(tmp_path, [Answer("c", "dog")])
    assert [one.id for one in journal.pending(tmp_path)] == ["a", "c"]


def test_an_answer_can_be_taken_back_until_it_is_taken(tmp_path):
    journal.record(tmp_path, [Answer("a", "cat"), Answer("b", "cat"), Answer("a", "dog")])
    with open(tmp_path / ".evergreen/labels/journal.jsonl", "a") as file:
        file.write('{"id": "b", "label": "d\n')  # damaged: a person may still read it
    first, _, last = journal.pending(tmp_path)
    assert journal.withdraw(tmp_path, last)
    assert not journal.withdraw(tmp_path, last)
    assert [(one.id, one.label) for one in journal.pending(tmp_path)] == [("a", "cat"), ("b", "cat")]
    assert journal.unreadable(tmp_path) == 1
    journal.start_taking(tmp_path)
    assert not journal.withdraw(tmp_path, first)
    assert len(journal.pending(tmp_path)) == 2


@pytest.mark.parametrize("point", ["recording", "recorded"])
def test_an_answer_is_kept_once_it_was_acknowledged(tmp_path, point):
    journal.record(tmp_path, [Answer("a", "cat")])
    assert killed_at(f"labels.{point}", journal.record, tmp_path, [Answer("b", "cat")])
    expected = ["a", "b"] if point == "recorded" else ["a"]
    assert [one.id for one in journal.pending(tmp_path)] == expected


@pytest.mark.parametrize("point", ["aside", "written", "stored", "committed"])
def test_a_killed_finish_is_completed_by_the_next_and_takes_nothing_twice(tmp_path, point):
    root, ids = project(tmp_path / "project")
    journal.record(root, [Answer(one, "dog", annotator="ann") for one in ids[:3]])
    assert killed_at(f"labels.{point}", finish, root)
    journal.record(root, [Answer(ids[3], "dog", annotator="ann")])  # given after the crash
    finish(root)
    assert answers_in(root) == [(one, "dog") for one in ids[:4]]
    assert journal.pending(root) == []
    assert finish(root).batch is None
    if point in ("written", "stored"):  # the killed call's batch is in the commit of the next one
        assert commits(root)[1].endswith("of 3 labels, taken before")
    assert "data" not in git(root, "status", "--porcelain")
    assert labels_of(root, ids[:5]) == ["cat"] * 5  # one vote against the label first given is a tie


def test_waiting_answers_are_taken_after_fifteen_idle_minutes(tmp_path):
    root, ids = project(tmp_path / "project")
    journal.record(root, [Answer(ids[0], "dog", annotator="ann", role="reviewer")])
    assert finish_idle(root) == 0
    assert take_idle_answers(root, dict(os.environ)) is None
    quarter = time.time() - journal.IDLE_SECONDS - 1
    os.utime(root / ".evergreen/labels/journal.jsonl", (quarter, quarter))
    started = take_idle_answers(root, dict(os.environ) | {"PYTHONPATH": os.getcwd()})
    assert started.wait() == 0, (root / ".evergreen/finish.log").read_text()
    assert labels_of(root, ids[:1]) == ["dog"]
    assert commits(root)[0].startswith("took 1 answer about samples; batch l-")


def test_an_answer_about_a_sample_of_another_branch_waits_until_data_holds_it(tmp_path):
    root, (here, *_) = project(tmp_path / "project")
    journal.record(root, [Answer(here, "dog", annotator="ann"), Answer("f" * 64, "dog", annotator="ann")])
    assert finish(root).unknown == ["f" * 64]
    assert journal.pending(root) == []
    assert [one.id for one in journal.unplaced(root)] == ["f" * 64]
    table = versions_project.rows(2)
    image = table["id"][0].as_py()
    journal.record(root, [Answer(image, "dog", annotator="ann")])
    assert finish(root).unknown == sorted(["f" * 64, image])
    versions_project.add_batch(root, 2)
    journal.record(root, [Answer(here, "cat", annotator="ann")])
    assert (finish(root).added, [one.id for one in journal.unplaced(root)]) == (2, ["f" * 64])
    assert journal.forget_answers(root, ["f" * 64]) == 1


def test_words_given_with_later_are_taken_as_one_batch_and_one_commit(tmp_path, monkeypatch):
    root, ids = project(tmp_path / "project")
    monkeypatch.chdir(root)
    before = commits(root)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--later"])
        assert done.exit_code == 0, done.output
        return done.output

    take(root, [Answer(ids[3], exclude=True, annotator="eve", role="reviewer")])
    votes = tmp_path / "votes.csv"
    votes.write_text(f"id,label,annotator\n{ids[2]},dog,ann\n{ids[2]},dog,bob\n")
    assert run("correct", ids[0][:12], "dog") == sentence_of(1, 1)
    assert run("exclude", ids[1][:12], "--why", "blurred") == sentence_of(1, 2)
    assert run("include", ids[3][:12]) == sentence_of(1, 3)
    assert "data set: kept 2 answers with 3 others" in run("label", str(votes))
    assert labels_of(root, ids[:4]) == ["cat", "cat", "cat", None]
    assert len(commits(root)) == len(before) + 1  # the exclusion that was taken at once
    early = CliRunner().invoke(app, ["include", ids[1][:12]])
    assert (type(early.exception), "still waits: `evergreen finish`" in str(early.exception)) == (EvergreenError, True)

    assert CliRunner().invoke(app, ["finish"]).exit_code == 0
    assert labels_of(root, ids[:4]) == ["dog", None, "dog", "cat"]
    assert len(commits(root)) == len(before) + 2
    assert commits(root)[0].startswith("took 5 answers about samples; batch l-")
    assert journal.pending(root) == []


def sentence_of(added: int, waiting: int) -> str:
    return Waiting(added, waiting).sentence() + "\n"


def test_an_answer_that_cannot_be_taken_is_not_kept_for_later(tmp_path):
    root, (image, *_) = project(tmp_path / "project")
    with pytest.raises(EvergreenError, match="expected a label"):
        take_later(root, [Answer(image, "dog", annotator="ann"), Answer(image, ["cat"], annotator="ann")])
    assert journal.pending(root) == []
