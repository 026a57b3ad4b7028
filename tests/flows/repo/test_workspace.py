"""A run's workspace: from HEAD alone, sharing the cache, never touching the user's checkout."""

import fcntl
import os

import pytest

from flows.repo import run_inputs, workspace
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.paths import main_checkout, state_dir
from tests.flows.repo.test_pipeline import Stage
from tests.support.checkout import git


def test_a_workspace_is_heads_tree_with_absolute_cache_and_remote(toy):
    (toy / "notes.txt").write_text("mine")
    tree, lock = workspace.create(toy, "run-1", {})
    assert git(tree, "rev-parse", "HEAD") == git(toy, "rev-parse", "HEAD")
    assert main_checkout(tree) == toy
    assert state_dir(tree) == toy / ".evergreen"
    config = open_repo(tree).config
    assert config["cache"]["dir"] == str(toy / ".dvc" / "cache")
    assert config["remote"]["store"]["url"] == str(toy / ".evergreen" / "remote")
    assert git(toy, "status", "--porcelain") == "?? notes.txt"
    os.close(lock)


@pytest.mark.parametrize("name", ["C#", "50% a?b", "é,='q\"", "$HOME;x #y"])
def test_a_workspace_in_a_folder_of_any_name_has_the_same_cache(toy, tmp_path, name):
    moved = toy.rename(tmp_path / name)
    tree, lock = workspace.create(moved, "run-1", {})
    config = open_repo(tree).config
    assert config["cache"]["dir"] == str(moved / ".dvc" / "cache")
    assert config["remote"]["store"]["url"] == str(moved / ".evergreen" / "remote")
    os.close(lock)


def test_a_second_workspace_takes_finished_stages_from_the_first(toy):
    """How a killed run resumes: the new workspace restores what was finished from DVC's run cache."""
    stage = Stage()
    for number, expected in ((1, "ran"), (2, "restored")):
        tree, lock = workspace.create(toy, f"run-{number}", {})
        repo = open_repo(tree)
        restore_data(repo)
        assert bring_up_to_date(repo, "inspect", stage) == expected
        os.close(lock)
    assert stage.runs == 1


def test_tombstones_of_the_store_reach_the_workspace_not_the_checkout(toy):
    tree, lock = workspace.create(toy, "run-1", {"b-0": {"why": "bad", "at": "2026-01-01", "by": "me"}})
    assert list(read_json(tree / "tombstones.json")) == ["b-0"]
    assert read_json(toy / "tombstones.json") == {}
    os.close(lock)


def test_the_input_key_follows_what_decides_the_result_and_nothing_else(toy):
    key = run_inputs.input_key(toy, {})
    (toy / "README.md").write_text("words")
    git(toy, "add", "README.md")
    git(toy, "commit", "-qm", "words")
    assert run_inputs.input_key(toy, {}) == key
    assert run_inputs.input_key(toy, {"b-0": {}}) != key
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text() + "# changed\n")
    git(toy, "commit", "-qam", "params")
    assert run_inputs.input_key(toy, {}) != key


def test_of_the_code_only_what_stages_or_the_gate_use_is_in_the_input_key(toy):
    """What a stage depends on changes the key; what only carries bytes, or what a stage writes itself, does not."""
    for name in (
        "tasks/used.py",
        "tasks/room/inside.py",
        "tasks/storage/s3_store.py",
        "metrics/inspect.json",
        run_inputs.JUDGING[0],
    ):
        (toy / name).parent.mkdir(parents=True, exist_ok=True)
        (toy / name).write_text("1\n")
    pipeline = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(
        pipeline.replace("[data]", "[data, tasks/used.py, tasks/room/, metrics/inspect.json]")
    )
    git(toy, "add", "-A")
    git(toy, "commit", "-qm", "code")
    for name, counts in {
        "tasks/used.py": True,
        "tasks/room/inside.py": True,
        run_inputs.JUDGING[0]: True,
        "tasks/storage/s3_store.py": False,
        "metrics/inspect.json": False,
    }.items():
        before = run_inputs.input_key(toy, {})
        (toy / name).write_text("2\n")
        git(toy, "commit", "-qam", name)
        assert (run_inputs.input_key(toy, {}) != before) == counts, name


def test_a_missing_pipeline_is_named(toy):
    git(toy, "rm", "-q", "dvc.yaml")
    git(toy, "commit", "-qm", "no pipeline")
    with pytest.raises(EvergreenError, match=r"HEAD lacks dvc\.yaml: commit"):
        run_inputs.input_key(toy, {})


def test_a_pipeline_that_cannot_be_read_is_an_error(toy):
    (toy / "dvc.yaml").write_text("stages: [\n")
    git(toy, "commit", "-qam", "half a line")
    with pytest.raises(EvergreenError, match="at HEAD is not a pipeline"):
        run_inputs.input_key(toy, {})


def test_without_a_commit_or_a_repository_the_remedy_is_named(tmp_path):
    with pytest.raises(EvergreenError, match="git init"):
        run_inputs.input_key(tmp_path, {})
    git(tmp_path, "init", "-q")
    with pytest.raises(EvergreenError, match="no commit yet"):
        run_inputs.input_key(tmp_path, {})


@pytest.mark.parametrize("name", ["tasks/code.py", "tasks/new.py", "flows/new.py"])
def test_code_that_a_run_would_not_see_is_refused_by_name(toy, name):
    """Also where no stage uses it: the run imports HEAD's code, not this file."""
    (toy / name).parent.mkdir(exist_ok=True)
    (toy / name).write_text("code = 2\n")
    with pytest.raises(EvergreenError, match=name.split("/")[0]):
        run_inputs.refuse_dirty(toy)


def test_missing_data_is_named_with_what_to_do(toy):
    git(toy, "rm", "-q", "data.dvc")
    git(toy, "commit", "-qm", "no data")
    with pytest.raises(EvergreenError, match="evergreen ingest"):
        run_inputs.input_key(toy, {})


def test_a_dirty_input_is_refused_by_name_and_other_dirt_is_not(toy):
    (toy / "notes.txt").write_text("mine")
    run_inputs.refuse_dirty(toy)
    (toy / "params.yaml").write_text("data: {}\n")
    with pytest.raises(EvergreenError, match=r"params\.yaml"):
        run_inputs.refuse_dirty(toy)


def test_reconcile_removes_dead_workspaces_and_keeps_living_and_newest_finished(toy):
    held = []
    for number in range(workspace.KEEP_FINISHED + 2):
        tree, lock = workspace.create(toy, f"run-{number}", {})
        write_json(tree.parent / "ended.json", {"outcome": "rejected", "version": None, "sentence": "worse"})
        os.close(lock)
    dead, lock = workspace.create(toy, "run-dead", {})
    os.close(lock)
    living, lock = workspace.create(toy, "run-living", {})
    held.append(lock)
    assert workspace.reconcile(toy) == ["run-dead"]
    left = sorted(folder.name for folder in (toy / ".evergreen" / "runs").iterdir())
    assert left == ["run-2", "run-3", "run-4", "run-living"]
    assert list(workspace.alive_runs(toy)) == ["run-living"]
    assert not dead.exists()
    assert living.exists()
    assert git(toy, "worktree", "list").count("\n") == 4, "git has forgotten the removed worktrees"
    for lock in held:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
