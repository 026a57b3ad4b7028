"""The queue of doubtful labels outlives the workspace of its run."""

import pytest

from flows.repo import label_issues


@pytest.fixture
def tree(tmp_path):
    """A folder with the queue of stage `clean`; not a git worktree, so its state lies in it."""
    file = tmp_path / "artifacts/clean/queue.csv"
    file.parent.mkdir(parents=True)
    file.write_text("id,given\nabc,Bag\n")
    return tmp_path


def test_the_queue_is_kept_under_the_runs_id(tree):
    kept = label_issues.keep_queue(tree, "run-1")
    assert kept == label_issues.queue_file(tree, "run-1") == tree / ".evergreen/label-issues/run-1.csv"
    assert kept.read_text() == "id,given\nabc,Bag\n"


def test_the_queue_of_a_divided_class_is_not_taken_for_that_of_a_run(tree):
    kept = label_issues.keep_queue(tree, "20261127T1-abc")
    (tree / label_issues.SPLIT_QUEUE).write_text("id,label,image\n")
    assert label_issues.newest_issues(tree).table == kept
    for number in range(label_issues.KEEP):
        label_issues.keep_queue(tree, f"20261128T{number:02}-abc")
    assert (tree / label_issues.SPLIT_QUEUE).is_file()


def test_only_the_newest_queues_stay(tree):
    for number in range(label_issues.KEEP + 2):
        label_issues.keep_queue(tree, f"run-{number:03}")
    names = sorted(file.name for file in (tree / ".evergreen/label-issues").iterdir())
    assert len(names) == 2 * label_issues.KEEP
    assert names[:2] == ["run-002.csv", "run-002.json"]
