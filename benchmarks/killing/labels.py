"""Kills of what people say: answers in the journal, taking them as one batch, changes of classes."""

from pathlib import Path

from benchmarks.killing.checks import check
from flows.labels import journal
from flows.labels.class_list import class_rows
from flows.labels.classes import plan_change, record_change
from flows.labels.journal import Answer
from flows.production.finish import finish
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.labels.annotations import read_annotations
from tasks.labels.changes import read_changes
from tests.support import versions_project


def _project(root: Path) -> None:
    versions_project.copy(root, 1)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "what the release left", "--allow-empty")


def _ids(seed: int) -> list[str]:
    """Five images of the batch; the seed varies which."""
    ids = versions_project.rows(1)["id"].to_pylist()
    return [ids[(seed * 5 + number) % len(ids)] for number in range(5)]


class Answers:
    """One answer after the other into the journal: each is there whole, or was never given."""

    points = ("labels.recording", "labels.recorded")

    @staticmethod
    def make(root: Path) -> None:
        root.mkdir(parents=True)
        journal.record(root, [Answer("first", "cat", annotator="ann")])

    @staticmethod
    def act(root: Path, seed: int) -> None:
        given = {one.id for one in journal.pending(root)}
        for one in [f"{seed}-{number}" for number in range(5)]:
            if one not in given:
                journal.record(root, [Answer(one, "cat", annotator="ann", why="x" * 200 * seed)])

    @staticmethod
    def state(root: Path) -> object:
        """Answers are a beginning of those given, in order; how many is not looked at."""
        found = [one.id for one in journal.pending(root)]
        numbers = [int(one.rpartition("-")[2]) for one in found[1:]]
        check(found[0] == "first" and numbers == list(range(len(numbers))), f"answers {found}")
        return "whole"

    @staticmethod
    def again(root: Path, seed: int) -> None:
        Answers.act(root, seed)
        check(len(journal.pending(root)) == 6, "an answer is lost or there twice")

    @staticmethod
    def whole(root: Path) -> None:
        check(len({one.id for one in journal.pending(root)}) == 6, "an answer twice")


class Finish:
    """Taking the answers of the journal: one batch, one commit."""

    every = 3
    points = ("labels.aside", "labels.written", "labels.stored", "labels.committed")

    @staticmethod
    def make(root: Path) -> None:
        _project(root)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        if git(root, "log", "-1", "--format=%s").startswith("took"):
            return
        if not journal.pending(root):
            journal.record(root, [Answer(one, "dog", annotator="carl") for one in _ids(seed)])
        finish(root)

    @staticmethod
    def state(root: Path) -> object:
        """How many commits took answers: what HEAD says, whatever lies in the checkout."""
        return sum(line.startswith("took") for line in git(root, "log", "--format=%s").splitlines())

    @staticmethod
    def again(root: Path, seed: int) -> None:
        Finish.act(root, seed)
        finish(root)

    @staticmethod
    def whole(root: Path) -> None:
        said = [row["id"] for row in read_annotations(root / "data").to_pylist() if row["annotator"] == "carl"]
        check(len(said) == len(set(said)) == 5, f"{len(said)} answers in data/")
        check(journal.pending(root) == [], "answers wait")
        check("batch l-" in git(root, "log", "-1", "--format=%s"), "the commit does not name the batch")
        check("data" not in git(root, "status", "--porcelain"), "data.dvc is not committed")


class Classes:
    """A change of class names."""

    every = 3
    points = ("classes.written", "classes.recorded")

    @staticmethod
    def make(root: Path) -> None:
        _project(root)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        kind, new = (("rename", [f"feline {seed}"]), ("retire", []))[seed % 2]
        record_change(root, plan_change(root, kind, ["cat"], new, why="because", by="ann"))

    @staticmethod
    def state(root: Path) -> object:
        return git(root, "log", "--format=%s").splitlines()[0]

    @staticmethod
    def again(root: Path, seed: int) -> None:
        try:
            Classes.act(root, seed)
        except EvergreenError:  # it was recorded: the class is not there any more
            check(len(read_changes(root / "data")) == 1, "refused, and not recorded")

    @staticmethod
    def whole(root: Path) -> None:
        check(len(read_changes(root / "data")) == 1, "the change")
        check(git(root, "status", "--porcelain") == "", "something is not committed")
        check(bool(class_rows(root)), "the classes")
