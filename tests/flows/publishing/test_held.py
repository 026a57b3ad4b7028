"""Approving and overriding held and rejected runs."""

import shutil
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gto
import pytest

from flows.publishing import held, run_records
from flows.publishing.outcomes import Ending
from flows.publishing.publish import reconcile
from flows.repo import run_inputs
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tests.support import released_project
from tests.support.released_project import NAME, evergreen, store

BIN = Path(sys.executable).parent


def end(main: Path, run_id: str, outcome: str, keep: bool) -> Path:
    """A run that ended without a publication, as the flow leaves it."""
    tree = released_project.run(main, run_id, 0.6)
    sentence = f"{outcome}: not shown to be better"
    ending = Ending(outcome=outcome, sentence=sentence)
    rev = run_records.preserve_held(tree, store(main), NAME, run_id, sentence) if keep else None
    run_records.record(store(main), tree, run_id, ending, rev)
    write_json(tree.parent / "ended.json", ending.model_dump())
    run_inputs.record_ending(
        main, read_json(tree.parent / "started.json")["key"], {"run_id": run_id} | ending.model_dump()
    )
    return tree


def remove_workspace(main: Path, run_id: str) -> None:
    shutil.rmtree(main / ".evergreen/runs" / run_id)
    git(main, "worktree", "prune")


def test_an_override_is_audited(main):
    end(main, "run-4", "rejected", keep=False)
    said = evergreen(main, "promote", "run-4", code=1)
    assert "evergreen approve run-4" in said
    assert "needs a reason" in evergreen(main, "promote", "run-4", "--override", code=1)
    assert store(main).live().version == "v0.3.0"

    evergreen(main, "promote", "run-4", "--override", "--why", "the customer signed it off")
    live = store(main).live()
    assert (live.version, live.run_id) == ("v0.4.0", "run-4")
    assert "the customer signed it off; the gate had said: rejected: not shown" in live.why
    assert live.by == store(main).run("run-4")["decisions"][0]["by"]
    assert "signed it off" in git(main, "tag", "--list", "--format=%(contents)", f"{NAME}@v0.4.0")
    assert gto.api.show(main)[NAME]["stage"]["prod"] == "v0.4.0"
    run = store(main).run("run-4")
    assert (run["outcome"], run["version"], run["decisions"][0]["how"]) == ("promoted", "v0.4.0", "override")
    assert "published already, as v0.4.0" in evergreen(main, "promote", "run-4", "--override", "--why", "x", code=1)
    assert run_inputs.current_inputs(main)[2]["version"] == "v0.4.0"


def test_a_held_run_outlives_its_workspace(main):
    end(main, "run-4", "held", keep=True)
    ref = git(main, "for-each-ref", "--format=%(refname)", "refs/evergreen/held")
    assert ref == "refs/evergreen/held/run-4"
    remove_workspace(main, "run-4")
    shutil.rmtree(main / ".dvc/cache")  # as on another machine
    live = held.override(main, "run-4", by="bob", why="good enough")
    assert live.version == "v0.4.0"
    store(main).audit_bundle(live.bundle)
    assert git(main, "for-each-ref", "refs/evergreen/held") == ""
    assert not list((main / ".evergreen/runs").iterdir())
    assert git(main, "worktree", "list").count("\n") == 0
    assert git(main, "show", f"{live.git_rev}:metrics/evaluate.json").count("0.6") == 1


def test_an_override_killed_after_the_pointer_is_completed_by_doing_it_again(main):
    end(main, "run-4", "held", keep=True)
    command = ["promote", "run-4", "--override", "--why", "signed off"]
    evergreen(main, *command, failpoint="publish.promoted", code=-signal.SIGKILL)
    assert store(main).live().run_id == "run-4"
    assert store(main).run("run-4")["outcome"] == "held"
    evergreen(main, *command)
    assert store(main).run("run-4")["version"] == store(main).live().version == "v0.4.0"
    assert len(store(main).history()) == 4
    assert git(main, "for-each-ref", "refs/evergreen/held") == ""
    reconcile(main, store(main), NAME)
    assert gto.api.show(main)[NAME]["stage"]["prod"] == "v0.4.0"


def test_a_held_run_is_published_from_another_clone(main, tmp_path):
    end(main, "run-4", "held", keep=True)
    git(tmp_path, "clone", "--quiet", "--no-local", str(main), "clone")
    clone = tmp_path / "clone"
    (clone / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {main / '.evergreen/remote'}\n")
    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace(".evergreen/releases", str(main / ".evergreen/releases")))
    git(clone, "config", "user.name", "a colleague")
    with pytest.raises(EvergreenError, match=r"lacks commit .* of run run-4: fetch it"):
        held.override(clone, "run-4", by="bob", why="fine")
    git(clone, "fetch", "--quiet", "origin", "refs/evergreen/held/*:refs/evergreen/held/*", "releases:releases")
    assert held.override(clone, "run-4", by="bob", why="fine").version == "v0.4.0"
    assert store(main).live().by == "bob"


def test_a_rejected_run_without_its_workspace_is_gone(main):
    end(main, "run-4", "rejected", keep=False)
    remove_workspace(main, "run-4")
    with pytest.raises(EvergreenError, match=r"the workspace of run run-4 is gone.*retrain --force"):
        held.override(main, "run-4", by="bob", why="x")


def test_approval_is_for_held_runs(main):
    end(main, "run-4", "rejected", keep=False)
    with pytest.raises(EvergreenError, match=r"run-4 was rejected.*promote run-4 --override"):
        held.approve(main, "run-4", by="bob")
    with pytest.raises(EvergreenError, match=r"no run '\.\./champion'.*run-4 \(rejected\)"):
        held.approve(main, "../champion", by="bob")
    with pytest.raises(EvergreenError, match=r"published already, as v0\.2\.0"):
        held.approve(main, "run-2", by="bob")


def test_an_altered_bundle_of_a_rejected_run_is_not_published(main):
    tree = end(main, "run-4", "rejected", keep=False)
    manifest = tree / run_records.MANIFEST
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text + " ")
    cache = main / ".dvc/cache/files"
    cache.rename(main / "cache")
    with pytest.raises(EvergreenError, match=r"is damaged: expected the digest"):
        held.override(main, "run-4", by="bob", why="x")
    assert store(main).live().version == "v0.3.0"
    shutil.rmtree(cache, ignore_errors=True)
    (main / "cache").rename(cache)
    held.override(main, "run-4", by="bob", why="the copy in the cache is whole")
    assert manifest.read_text() == text


def test_times_are_utc_and_recorded():
    record = {"at": run_records.now()}
    assert abs(datetime.fromisoformat(record["at"]) - datetime.now(UTC)) < timedelta(minutes=1)
