"""What changed between two versions: read from git and DVC alone, whatever the checkout looks like."""

import json
import shutil

import pytest

from flows.publishing.history import open_project
from flows.repo.git import git
from flows.versions.diff import code_between, diff, direction, likely_why
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.labels.owner_names import owner_names
from tests.support import released_project
from tests.support.children import command


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    return released_project.copy(tmp_path_factory.mktemp("released"))


def test_data_labels_params_and_metrics_of_two_versions(main):
    found = diff(main, "v0.1.0", "v0.2.0")
    first, second = found.batches["added"]
    assert first == {"batch": "b-2", "kind": "import", "rows": 18}
    assert (second["kind"], second["rows"], second["batch"][:2]) == ("labels", 1, "l-")
    assert second["batch"] not in found.why
    assert found.images["train"] == {"bag": (2, 3), "boot": (2, 5), "coat": (2, 4)}  # a bag of b-1 is a boot now
    assert found.images["test"] == {name: (2, 4) for name in ("bag", "boot", "coat")}
    assert found.actions == {"relabel": {"coat": (0, 2)}}
    assert found.relabelled == [{"id": sha256_bytes(b"image bag 1 0"), "a": "bag", "b": "boot"}]
    assert owner_names(main, [sha256_bytes(b"image bag 1 0"), "f" * 64]) == {
        sha256_bytes(b"image bag 1 0"): "part bag 0, bag/0.png"
    }
    assert found.params == {"train_backbone.learning_rate": (0.005, 0.002)}
    assert found.metrics["test.balanced_accuracy"] == (0.75, 0.875, "better")
    assert found.metrics["test.debiased_ece"] == (0.25, 0.125, "better")
    assert found.metrics["test.n"] == (18, 36, "")
    assert found.metrics["recall of coat"] == (0.65, 0.775, "better")
    assert "latency_ms.p50" not in found.metrics  # the same in both
    assert found.code == found.unreadable == []
    for part in (
        "0.750 to 0.875, on other test images (18, then 36)",
        "b-2",
        "boot +3",
        "1 label corrected by people",
        "relabel +2",
        "0.005 -> 0.002",
    ):
        assert part in found.why


def test_code_is_named_where_a_stage_of_either_version_needs_it_and_nowhere_else(toy):
    pipeline, revs = (toy / "dvc.yaml").read_text(), []
    for used in ("old", "new"):
        (toy / "dvc.yaml").write_text(pipeline.replace("[data]", f"[data, tasks/{used}.py]"))
        for name in ("old", "new", "beside"):
            (toy / f"tasks/{name}.py").write_text(f"while_used = {used!r}\n")
        git(toy, "add", "--all")
        git(toy, "commit", "-qm", used)
        revs.append(git(toy, "rev-parse", "HEAD"))
    assert code_between(toy, tuple(revs)) == ["dvc.yaml", "tasks/new.py", "tasks/old.py"]


def test_by_default_the_live_version_against_the_one_before(main):
    found = diff(main)
    assert (found.a, found.b) == ("v0.2.0", "v0.3.0")
    assert found.metrics["test.balanced_accuracy"] == (0.875, 0.5, "worse")
    assert found.params == {}
    assert diff(main, "v0.3.0", "v0.2.0").batches == {"removed": [{"batch": "b-3", "kind": "import", "rows": 18}]}
    assert not diff(main, "v0.2.0", "v0.2.0").metrics


def test_diff_does_not_read_the_users_checkout(main, tmp_path):
    """An edited, half-deleted checkout without a cache gives the same answer, from the remote."""
    expected = diff(main, "v0.1.0", "v0.3.0")
    copy = released_project.copy(tmp_path)
    (copy / "params.yaml").write_text((copy / "params.yaml").read_text() + "# mine\n")
    (copy / "dvc.yaml").unlink()
    shutil.rmtree(copy / "data")
    shutil.rmtree(copy / ".dvc/cache")
    before = git(copy, "status", "--porcelain")
    assert diff(copy, "v0.1.0", "v0.3.0") == expected
    assert git(copy, "status", "--porcelain") == before
    assert not (copy / "data").exists()


def test_a_lost_object_is_reported_and_the_rest_is_compared(main, tmp_path):
    copy = released_project.copy(tmp_path)
    for place in (copy / ".dvc/cache", copy / ".evergreen/remote"):
        shutil.rmtree(place)
    found = diff(copy, "v0.1.0", "v0.2.0")
    assert found.metrics["test.balanced_accuracy"] == (0.75, 0.875, "better")
    assert found.images == {}
    assert any("artifacts/clean/labels.parquet" in line and "is missing" in line for line in found.unreadable)
    assert any(line.startswith("the batches:") for line in found.unreadable)


def test_a_held_run_is_compared_with_the_live_version(main):
    releases = open_project(main)[1]
    old = releases.history()[0]
    releases.put_run("run-held", {"outcome": "held", "sentence": "hold: equal", "rev": old.git_rev, "by": "ann"})
    found = diff(main, None, "run-held")
    assert (found.a, found.b) == (releases.live().version, "run-held")
    assert found.params == diff(main, releases.live().version, old.version).params
    assert found.metrics == diff(main, releases.live().version, old.version).metrics
    assert diff(main, "run-held", old.version).metrics == {}


def test_unknown_versions_and_no_version_before_are_errors(main):
    with pytest.raises(EvergreenError, match=r"no version 'v9'.*v0\.1\.0, v0\.2\.0, v0\.3\.0"):
        diff(main, "v9", "v0.2.0")
    with pytest.raises(EvergreenError, match=r"nothing was live before v0\.1\.0"):
        diff(main, None, "v0.1.0")
    with pytest.raises(EvergreenError, match=r"v0\.3\.0 is the live version itself"):
        diff(main, "v0.3.0")


def test_the_command_prints_tables_and_json(main):
    def evergreen(*arguments: str) -> str:
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(released_project.ROOT), "COLUMNS": "150"}
        done = command(arguments, main, env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "held:        run-held waits for a person: `evergreen diff v0.3.0 run-held`" in evergreen("status")
    text = evergreen("diff", "v0.1.0", "v0.2.0")
    assert "v0.1.0 -> v0.2.0" in text
    assert all(part in text for part in ("learning_rate", "labels to relabel", "batch added: b-2", "+3", "better"))
    assert json.loads(evergreen("diff", "--json"))["batches"]["added"][0]["batch"] == "b-3"


def test_better_depends_on_the_figure():
    assert direction("test.accuracy", 0.8, 0.9) == "better"
    assert direction("test.log_loss", 0.8, 0.9) == "worse"
    assert direction("latency_ms.p50", 3.0, 2.0) == "better"
    assert direction("siblings.found_by_features", 12, 13) == direction("test.interval.low", 0.1, 0.2) == ""
    assert direction("skill.groups", 63, 66) == "", "a count"
    assert direction("corruptions.blur.n", 3, 2) == direction("x", None, 0.5) == direction("thresholds.bag", 1, 2) == ""


def test_equal_versions_are_reported_as_equal():
    nothing = dict(batches={}, images={}, actions={}, relabelled=[], params={}, code=[], metrics={})
    assert "are the same" in likely_why(**nothing)
    alone = likely_why(**nothing | {"params": {"clean.folds": (5, 4)}})
    assert "params: clean.folds 5 -> 4. Nothing else changed." in alone


def test_a_class_that_got_worse_is_not_called_better():
    nothing = dict(batches={}, images={}, actions={}, relabelled=[], params={}, code=[])
    metrics = {
        "test.balanced_accuracy": (0.8, 0.85, "better"),
        "recall of Ankle boot": (0.967, 0.922, "worse"),
        "recall of Bag": (0.7, 0.72, "better"),
        "recall of Coat": (0.9, 0.89, "worse"),
    }
    said = likely_why(**nothing, metrics=metrics)
    assert "(better), most for Bag (recall 0.700 -> 0.720), worse for Ankle boot (recall 0.967 -> 0.922)." in said
    del metrics["recall of Bag"]
    assert "(better), worse for Ankle boot (recall 0.967 -> 0.922)." in likely_why(**nothing, metrics=metrics)
    other = {"test.balanced_accuracy": (1.0, 0.951128, "worse"), "test.n": (37, 39, "")}
    assert "went from 1.000 to 0.951, on other test images (37, then 39)." in likely_why(**nothing, metrics=other)
    alone = likely_why(**nothing, metrics={"recall of Bag": (0.7, 0.72, "better")})
    assert "The figures of the test set are the same, better for Bag" in alone


def test_a_batch_that_was_tombstoned_before_it_was_used_is_not_added(main, tmp_path):
    copy = released_project.copy(tmp_path)
    released_project.store(copy).tombstone("b-4", why="blurred", by="ann")
    released_project.store(copy).tombstone("b-1", why="old camera", by="ann")
    released_project.add_batch(copy, 4)
    released_project.publish_run(copy, released_project.run(copy, "run-4", 0.9), "without b-4")
    released_project.store(copy).untombstone("b-4", why="it was right", by="ann")
    released_project.publish_run(copy, released_project.run(copy, "run-5", 0.95), "with b-4")
    found = diff(copy, "v0.3.0", "v0.4.0")
    assert found.batches == {
        "tombstoned": [{"batch": "b-1", "why": "old camera"}],
        "set aside": [{"batch": "b-4", "why": "blurred"}],
    }
    assert "batches tombstoned: b-1" in found.why
    assert "b-4" not in found.why
    again = diff(copy, "v0.4.0", "v0.5.0")
    assert again.batches == {"allowed again": [{"batch": "b-4", "why": "blurred"}]}
    assert "batches allowed again: b-4" in again.why
    assert diff(copy, "v0.4.0", "v0.3.0").batches == {"allowed again": [{"batch": "b-1", "why": "old camera"}]}
