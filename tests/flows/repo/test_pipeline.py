"""DVC stages run in this process leave what `dvc repro` leaves, and take what it left."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from tasks.common.errors import EvergreenError


def dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Stage:
    """The stage's function; counts how often it really ran."""

    def __init__(self):
        self.runs = 0

    def __call__(self, name: str, root: Path) -> None:
        self.runs += 1
        (root / "artifacts").mkdir(exist_ok=True)
        (root / "metrics").mkdir(exist_ok=True)
        assert not (root / "artifacts" / "out").exists(), "old outputs are hardlinks into the cache: removed first"
        (root / "artifacts" / "out").write_text((root / "data" / "a").read_text())
        (root / "metrics" / f"{name}.json").write_text('{"rows": 1}\n')


def test_after_a_run_dvc_status_is_clean_and_repro_runs_nothing(toy):
    stage = Stage()
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "ran"
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "unchanged"
    assert "up to date" in dvc(toy, "status")
    dvc(toy, "repro")
    assert stage.runs == 1
    assert not (toy / "runs.txt").exists(), "dvc repro ran the command again"


def test_what_dvc_repro_finished_is_found_unchanged(toy):
    dvc(toy, "repro")
    stage = Stage()
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "unchanged"
    assert stage.runs == 0


def test_a_lost_output_is_restored_and_not_computed_again(toy):
    stage = Stage()
    bring_up_to_date(open_repo(toy), "inspect", stage)
    (toy / "artifacts" / "out").unlink()
    (toy / "dvc.lock").unlink()
    (toy / "metrics" / "inspect.json").unlink()
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "restored"
    assert stage.runs == 1
    assert (toy / "artifacts" / "out").read_text() == "1\n"
    assert (toy / "metrics" / "inspect.json").read_text() == '{"rows": 1}\n'


def test_a_failing_stage_leaves_no_lock_entry_and_runs_again(toy):
    def broken(name, root):
        raise EvergreenError("no luck")

    with pytest.raises(EvergreenError, match="no luck"):
        bring_up_to_date(open_repo(toy), "inspect", broken)
    stage = Stage()
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "ran"


def test_rerunning_with_new_data_leaves_the_older_version_intact_in_the_cache(toy):
    """Outputs are hardlinks into the cache: the old object must keep the old bytes."""
    stage = Stage()
    bring_up_to_date(open_repo(toy), "inspect", stage)
    lock = (toy / "dvc.lock").read_bytes()
    (toy / "data" / "a").unlink()
    (toy / "data" / "a").write_text("2\n")
    assert bring_up_to_date(open_repo(toy), "inspect", stage) == "ran"
    (toy / "dvc.lock").write_bytes(lock)
    shutil.rmtree(toy / "artifacts")
    dvc(toy, "checkout", "artifacts/out")
    assert (toy / "artifacts" / "out").read_text() == "1\n"


def test_data_is_restored_from_the_cache_then_the_remote_else_it_is_an_error(toy):
    repo = open_repo(toy)
    repo.push()
    shutil.rmtree(toy / "data")
    restore_data(open_repo(toy))
    assert (toy / "data" / "a").read_text() == "1\n"
    shutil.rmtree(toy / "data")
    shutil.rmtree(toy / ".dvc" / "cache")
    restore_data(open_repo(toy))
    assert (toy / "data" / "a").read_text() == "1\n"
    shutil.rmtree(toy / "data")
    shutil.rmtree(toy / ".dvc" / "cache")
    shutil.rmtree(toy / ".evergreen" / "remote")
    with pytest.raises(EvergreenError, match=r"data\.dvc"):
        restore_data(open_repo(toy))


def test_what_comes_before_a_stage_comes_only_before_one_that_runs(toy):
    called, stage = [], Stage()

    def before(name, root):
        called.append((name, root.name, (root / "artifacts/out").exists()))

    assert bring_up_to_date(open_repo(toy), "inspect", stage, before) == "ran"
    assert bring_up_to_date(open_repo(toy), "inspect", stage, before) == "unchanged"
    shutil.rmtree(toy / "artifacts")
    (toy / "dvc.lock").unlink()
    assert bring_up_to_date(open_repo(toy), "inspect", stage, before) == "restored"
    assert called == [("inspect", "toy", False)]
