"""What was live when, and the way back: real git, DVC and GTO, real damage, real kills."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gto
import pytest

from flows.publishing import held as held_runs
from flows.publishing import rollback as publishing_rollback
from flows.publishing.outcomes import Ending
from flows.publishing.publish import reconcile
from flows.publishing.rollback import periods, rollback, withdrawal_of, withdrawn
from flows.repo import run_inputs
from flows.repo.git import git
from flows.runs import launch
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, sha256_file, write_json
from tasks.common.params import load_params
from tasks.releases.store import Pointer, StoreDamaged, successor
from tests.support import released_project
from tests.support.released_project import NAME, store

BIN = Path(sys.executable).parent


@pytest.fixture
def main(tmp_path):
    return released_project.copy(tmp_path)


def evergreen(main: Path, *arguments: str, code: int = 0, failpoint: str = "") -> str:
    env = {**os.environ, "PYTHONPATH": str(released_project.ROOT), "COLUMNS": "200", "EVERGREEN_FAILPOINT": failpoint}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, cwd=main, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def tool(folder: Path, name: str, *arguments: str) -> str:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([BIN / name, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree_of(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def history_of(*versions: str) -> list[Pointer]:
    """Pointers to `versions` in this order; a version's bundle is made of its name."""
    found: list[Pointer] = []
    for version in versions:
        bundle = hashlib.sha256(version.encode()).hexdigest()
        about = {"version": version, "run_id": f"run-{version}", "git_rev": "0" * 40, "by": "ann", "why": "-"}
        found.append(successor(found[-1] if found else None, bundle=bundle, **about))
    return found


# --- what was live when ----------------------------------------------------------------------------------------


def test_releases_tell_what_was_live_when_by_whom_and_why(main):
    rollback(main, "v0.1.0", by="bob", why="worse on night shifts")
    found = json.loads(evergreen(main, "releases", "--json"))["releases"]
    assert [row["version"] for row in found] == ["v0.1.0", "v0.2.0", "v0.3.0", "v0.1.0"]
    assert [row["until"] for row in found] == [row["since"] for row in found[1:]] + [None]
    assert [row["again"] for row in found] == [False, False, False, True]
    assert (found[-1]["by"], found[-1]["why"]) == ("bob", "rollback: worse on night shifts")
    text = evergreen(main, "releases")
    lines = text.splitlines()
    (live,) = [n for n, line in enumerate(lines) if ", live, by " in line]
    assert live == 0
    assert lines[0].startswith("v0.1.0  from ")
    assert lines[1].strip() == "rollback: worse on night shifts"


def test_runs_and_hostile_words_are_shown_as_they_are(main):
    store(main).put_run("run-9", {"outcome": "rejected", "sentence": "[red]reject[/]: worse [link=x]", "by": "ann"})
    assert "[red]reject[/]: worse [link=x]" in evergreen(main, "releases", "--runs")
    assert json.loads(evergreen(main, "releases", "--runs", "--json"))["runs"]["run-2"]["outcome"] == "promoted"


def test_periods_follow_each_other():
    history = history_of("v1", "v2", "v1")
    assert [(p.version, p.since, p.until) for p in periods(history)] == [
        ("v1", history[0].at, history[1].at),
        ("v2", history[1].at, history[2].at),
        ("v1", history[2].at, None),
    ]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["v1", "v2", "v3"], []),
        (["v1", "v2", "v1"], ["v2"]),
        (["v1", "v2", "v3", "v1"], ["v2", "v3"]),
        (["v1", "v2", "v3", "v1", "v2"], ["v3"]),  # v2 was put back by a person, v3 was not
        (["v1", "v2", "v1", "v3"], ["v2"]),  # a new version does not make the old one good
        (["v1", "v2", "v1", "v2"], []),
        (["v1", "v2", "v1", "v3", "v1", "v3"], ["v2"]),
    ],
)
def test_withdrawn_is_what_was_rolled_back_and_not_put_back(versions, expected):
    found = withdrawn(history_of(*versions))
    assert sorted(entry.release.version for entry in found.values()) == expected


@pytest.mark.parametrize(
    ("versions", "before"),
    [(["v1", "v2", "v3"], "v2"), (["v1", "v2", "v3", "v2"], "v1"), (["v1", "v2", "v1", "v3"], "v1")],
)
def test_rollback_after_rollback_goes_further_back_never_forth(versions, before):
    assert publishing_rollback.find(history_of(*versions), None).version == before


def test_nothing_before_the_first_and_unknown_versions_are_said():
    with pytest.raises(EvergreenError, match="is the first version"):
        publishing_rollback.find(history_of("v1", "v2", "v1"), None)
    with pytest.raises(EvergreenError, match="no version 'v7' was ever live; there are: v1, v2"):
        publishing_rollback.find(history_of("v1", "v2"), "v7")
    with pytest.raises(EvergreenError, match="nothing has been released"):
        publishing_rollback.find([], None)


# --- rollback --------------------------------------------------------------------------------------------------


def test_rollback_is_a_pointer_forward_seen_by_git_gto_and_dvc(main, tmp_path):
    before = git(main, "rev-parse", "HEAD"), git(main, "status", "--porcelain"), tree_of(main / "data")
    was = store(main).history()
    live = rollback(main, by="bob", why="worse on\nnight shifts")
    assert (live.seq, live.version, live.prev, live.bundle) == (4, "v0.2.0", "v0.3.0", was[1].bundle)
    assert store(main).live() == live
    assert (git(main, "rev-parse", "HEAD"), git(main, "status", "--porcelain"), tree_of(main / "data")) == before

    shown = json.loads(tool(main, "gto", "show", "--json"))[NAME]
    assert shown["stage"]["prod"] == "v0.2.0"
    events = [row["event"] for row in json.loads(tool(main, "gto", "history", "--json"))]
    assert len(events) == 7  # 3 versions, 4 assignments
    assert "night shifts" in git(main, "for-each-ref", "--format=%(contents)", f"refs/tags/{NAME}#prod#4")
    assert len(git(main, "log", "--first-parent", "--format=%s", "releases").splitlines()) >= 3
    assert git(main, "log", "releases", "--format=%s", "--grep=Release classifier of run run-3")

    # a colleague's clone, with the remote: the data and models of any version
    git(tmp_path, "clone", "--quiet", "--no-local", str(main), "clone")
    clone = tmp_path / "clone"
    git(clone, "checkout", "--quiet", f"{NAME}@v0.1.0")
    git(clone, "config", "user.name", "a colleague")
    remote = tmp_path / "clone/.dvc/config.local"
    remote.write_text(f"['remote \"store\"']\n    url = {main / '.evergreen/remote'}\n")
    tool(clone, "dvc", "pull")
    assert sha256_file(clone / "artifacts/bundle/MANIFEST.json") == was[0].bundle
    assert len(list((clone / "data/batches").iterdir())) == 1
    assert "up to date" in tool(clone, "dvc", "status", "data.dvc")


def test_every_version_is_restored_byte_for_byte_and_fast(main, tmp_path):
    releases = store(main)
    for number in range(4, 21):  # 20 versions in the store: old commits, new bundles
        live = releases.live()
        folder = tmp_path / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "model.onnx").write_bytes(os.urandom(100))
        entry = {"sha256": sha256_file(folder / "model.onnx"), "bytes": 100}
        write_json(folder / "MANIFEST.json", {"files": {"model.onnx": entry}})
        about = {"run_id": f"run-{number}", "git_rev": live.git_rev, "by": "ann", "why": "more"}
        releases.promote(successor(live, version=f"v0.{number}.0", bundle=releases.put_bundle(folder), **about))
    reconcile(main, releases, NAME)
    history = releases.history()
    assert len(history) == 20
    for pointer in (history[0], history[9], history[2]):
        start = time.monotonic()
        rollback(main, pointer.version, by="bob", why="look", restore_to=tmp_path / pointer.version)
        assert time.monotonic() - start < 20
        assert sha256_file(tmp_path / pointer.version / "bundle/MANIFEST.json") == pointer.bundle
        folder = tmp_path / pointer.version
        expected = {name: git(main, "rev-parse", f"{pointer.git_rev}:{name}") for name in ("params.yaml", "dvc.lock")}
        assert {name: git(main, "hash-object", str(folder / name)) for name in expected} == expected
        for name in ("params.yaml", "metrics/evaluate.json", "data.dvc"):
            blob = subprocess.run(
                ["git", "cat-file", "blob", f"{pointer.git_rev}:{name}"], cwd=main, capture_output=True, check=True
            )
            assert (folder / name).read_bytes() == blob.stdout
    # and the data of v0.1.0 is the data ingested first: b-1 alone, every byte of it that of the checkout's
    first = tree_of(tmp_path / "v0.1.0/data")
    now = tree_of(main / "data")
    assert len(first) == 3  # dataset.json, one shard, one batch
    assert first.items() <= now.items()
    assert len(now) == 8


def test_the_pointer_step_takes_less_than_two_seconds(main):
    live, target = store(main).live(), store(main).history()[0]
    start = time.monotonic()
    publishing_rollback._swap(main, store(main), NAME, live, target, "bob", "fast")
    assert time.monotonic() - start < 2
    assert store(main).live().version == "v0.1.0"


def test_damage_of_the_live_version_does_not_stop_the_way_back(main, tmp_path):
    releases = store(main)
    live = releases.live()
    manifest = json.loads(releases.store.read(f"bundles/{live.bundle}.json")[0])
    (releases.store.root / "objects" / manifest["files"]["model.onnx"]["sha256"]).unlink()
    newest = publishing_rollback.outs_at(main, live.git_rev)["data"]
    gone = [path for place in (main / ".dvc/cache", main / ".evergreen/remote") for path in place.rglob(newest[2:])]
    assert len(gone) == 2
    for path in gone:
        path.unlink()
    assert rollback(main, by="bob", why="corrupt", restore_to=tmp_path / "back").version == "v0.2.0"
    assert (tmp_path / "back/data/dataset.json").is_file()


@pytest.mark.parametrize("where", ["cache", "remote"])
def test_a_copy_damaged_in_one_place_is_taken_from_the_other(main, tmp_path, where):
    folder = main / ".dvc/cache/files/md5" if where == "cache" else main / ".evergreen/remote/files/md5"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
        path.write_bytes(b"damaged")
    rollback(main, "v0.1.0", by="bob", why="-", restore_to=tmp_path / "back")
    assert tree_of(tmp_path / "back/data").items() <= tree_of(main / "data").items()


def test_a_target_whose_data_is_lost_is_refused_before_anything_moves(main):
    oid = publishing_rollback.outs_at(main, store(main).history()[0].git_rev)["data"]
    for place in (main / ".dvc/cache", main / ".evergreen/remote"):
        for path in place.rglob(oid[2:]):
            path.unlink()
    before = store(main).live()
    with pytest.raises(EvergreenError, match=r"of the data of v0\.1\.0 are lost:\n .* is missing and .* is missing"):
        rollback(main, "v0.1.0", by="bob", why="-", tombstone=True)
    assert store(main).live() == before
    assert store(main).tombstones() == {}
    assert rollback(main, "v0.1.0", by="bob", why="-", model_only=True).version == "v0.1.0"


def test_a_target_whose_bundle_is_damaged_is_refused(main):
    releases = store(main)
    before = releases.live()
    manifest = json.loads(releases.store.read(f"bundles/{releases.history()[0].bundle}.json")[0])
    (releases.store.root / "objects" / manifest["files"]["model.onnx"]["sha256"]).write_bytes(b"damaged")
    for only in (False, True):
        with pytest.raises(StoreDamaged, match=r"\(model.onnx\) is damaged"):
            rollback(main, "v0.1.0", by="bob", why="-", model_only=only)
    assert releases.live() == before


def test_a_folder_that_is_not_empty_is_never_restored_into(main, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    before = store(main).live()
    with pytest.raises(EvergreenError, match="not empty"):
        rollback(main, by="bob", why="-", restore_to=tmp_path / "mine")
    assert store(main).live() == before
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_what_is_live_already_is_said_but_can_be_restored(main, tmp_path):
    with pytest.raises(EvergreenError, match=r"v0\.3\.0 is live already"):
        rollback(main, "v0.3.0", by="bob", why="-")
    before = store(main).live()
    assert rollback(main, "v0.3.0", by="bob", why="-", restore_to=tmp_path / "back") == before
    assert tree_of(tmp_path / "back/data") == tree_of(main / "data")


def test_a_retired_version_is_refused_with_its_reason(main):
    store(main).retire("v0.1.0", why="a person asked to be forgotten", by="eve")
    with pytest.raises(EvergreenError, match=r"v0\.1\.0 was retired by eve .* asked to be forgotten"):
        rollback(main, "v0.1.0", by="bob", why="-")


@pytest.mark.parametrize("point", ["rollback.verified", "store.swapped", "rollback.promoted", "rollback.restored"])
def test_killed_anywhere_it_is_before_or_after(main, tmp_path, point):
    evergreen(main, "rollback", "--restore", str(tmp_path / "back"), failpoint=point, code=-signal.SIGKILL)
    live = store(main).live()
    assert live.version == ("v0.3.0" if point == "rollback.verified" else "v0.2.0")
    assert not (tmp_path / "back").exists()
    reconcile(main, store(main), NAME)
    assert gto.api.show(main)[NAME]["stage"]["prod"] == live.version
    evergreen(main, "rollback", "v0.2.0", "--restore", str(tmp_path / "back"))
    assert store(main).live().version == "v0.2.0"
    assert sha256_file(tmp_path / "back/bundle/MANIFEST.json") == store(main).live().bundle


# --- after a rollback ------------------------------------------------------------------------------------------


def test_batches_that_came_between_are_named_or_tombstoned(main):
    said = evergreen(main, "rollback", "v0.1.0", "--why", "worse")
    assert [line.split()[0] for line in said.splitlines() if "trains on it again" in line] == ["b-2", "b-3"]
    assert store(main).tombstones() == {}

    rollback(main, "v0.3.0", by="bob", why="forth")
    said = evergreen(main, "rollback", "v0.2.0", "--why", "worse", "--tombstone-new")
    assert "trains on it again" not in said
    assert list(store(main).tombstones()) == ["b-3"]
    assert store(main).tombstones()["b-3"]["why"] == "rolled back to v0.2.0: worse"


def test_named_batches_are_tombstoned_unknown_ones_refused(main):
    before = store(main).live()
    assert "no batch b-7; there are: b-1, b-2, b-3" in evergreen(main, "rollback", "--tombstone", "b-7", code=1)
    assert (store(main).live(), store(main).tombstones()) == (before, {})
    said = evergreen(main, "rollback", "v0.1.0", "--tombstone", "b-2")
    assert list(store(main).tombstones()) == ["b-2"]
    assert "b-3 (import, 18 images) came after it" in said


def test_the_next_schedule_does_not_promote_what_was_rolled_back(main, capsys):
    rollback(main, by="bob", why="worse on night shifts")
    assert launch.retrain(main, "schedule", say=print) == 0  # the same inputs: nothing starts
    said = capsys.readouterr().out
    assert "nothing new since run run-3" in said
    assert "v0.3.0 was rolled back to v0.2.0 since, by bob (rollback: worse on night shifts)" in said
    assert store(main).live().version == "v0.2.0"


def test_the_same_model_or_the_same_inputs_are_held_after_a_rollback(main):
    third = store(main).live()
    rollback(main, by="bob", why="worse")
    key = store(main).run("run-3")["key"]
    by_bundle = withdrawal_of(store(main), third.bundle)
    by_inputs = withdrawal_of(store(main), "f" * 64, key)
    assert by_bundle.release == by_inputs.release == third
    assert withdrawal_of(store(main), "f" * 64, "another") is None
    assert withdrawal_of(store(main), store(main).history()[0].bundle) is None
    assert "this is v0.3.0 again, which bob rolled back to v0.2.0" in publishing_rollback.withdrawn_sentence(by_bundle)
    rollback(main, "v0.3.0", by="bob", why="it was not the model")
    assert withdrawal_of(store(main), third.bundle, key) is None


def test_the_flow_holds_the_model_that_was_rolled_back(main):
    from flows.runs.retrain import _gate_and_publish

    third = store(main).live()
    rollback(main, by="bob", why="worse")
    tree = released_project.run(main, "run-4", 0.5)  # a forced run: the same model once more
    assert sha256_file(tree / held_runs.MANIFEST) == third.bundle
    params = load_params(tree / "params.yaml")
    ending = _gate_and_publish(tree, params, store(main), "run-4", "forced", "ann")
    assert ending.outcome == "held"
    assert "this is v0.3.0 again, which bob rolled back to v0.2.0" in ending.sentence
    assert store(main).live().version == "v0.2.0"
    rev = held_runs.keep(tree, store(main), NAME, "run-4", ending.sentence)
    held_runs.record(store(main), tree, "run-4", ending, rev)
    live = held_runs.override(main, "run-4", by="bob", why="it was not the model")
    assert (live.version, live.git_rev) == ("v0.3.0", third.git_rev)
    assert store(main).history()[-1] == live
    assert gto.api.show(main)[NAME]["stage"]["prod"] == "v0.3.0"


def test_a_tombstone_makes_the_next_run_a_new_one_without_the_batch(main):
    rollback(main, by="bob", why="worse", tombstone=True)
    key, _, ended = run_inputs.current_inputs(main)
    assert ended is None
    tree = released_project.run(main, "run-4")
    figures = read_json(tree / "metrics/evaluate.json")
    assert figures["test"]["n"] == 36  # b-1 and b-2
    assert withdrawal_of(store(main), sha256_file(tree / held_runs.MANIFEST), key) is None


# --- held and rejected runs ------------------------------------------------------------------------------------


def end(main: Path, run_id: str, outcome: str, keep: bool) -> Path:
    """A run whose model nobody published, as the flow leaves it."""
    tree = released_project.run(main, run_id, 0.6)
    sentence = f"{outcome}: not shown to be better"
    ending = Ending(outcome=outcome, sentence=sentence)
    rev = held_runs.keep(tree, store(main), NAME, run_id, sentence) if keep else None
    held_runs.record(store(main), tree, run_id, ending, rev)
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
    assert "needs its reason" in evergreen(main, "promote", "run-4", "--override", code=1)
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
    held = git(main, "for-each-ref", "--format=%(refname)", "refs/evergreen/held")
    assert held == "refs/evergreen/held/run-4"
    remove_workspace(main, "run-4")
    shutil.rmtree(main / ".dvc/cache")  # as on another machine
    live = held_runs.override(main, "run-4", by="bob", why="good enough")
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
        held_runs.override(clone, "run-4", by="bob", why="fine")
    git(clone, "fetch", "--quiet", "origin", "refs/evergreen/held/*:refs/evergreen/held/*", "releases:releases")
    assert held_runs.override(clone, "run-4", by="bob", why="fine").version == "v0.4.0"
    assert store(main).live().by == "bob"


def test_a_rejected_run_without_its_workspace_is_gone(main):
    end(main, "run-4", "rejected", keep=False)
    remove_workspace(main, "run-4")
    with pytest.raises(EvergreenError, match=r"the workspace of run run-4 is gone.*retrain --force"):
        held_runs.override(main, "run-4", by="bob", why="x")


def test_approval_is_for_held_runs(main):
    end(main, "run-4", "rejected", keep=False)
    with pytest.raises(EvergreenError, match=r"run-4 was rejected.*promote run-4 --override"):
        held_runs.approve(main, "run-4", by="bob")
    with pytest.raises(EvergreenError, match=r"no run '\.\./champion'.*run-4 \(rejected\)"):
        held_runs.approve(main, "../champion", by="bob")
    with pytest.raises(EvergreenError, match=r"published already, as v0\.2\.0"):
        held_runs.approve(main, "run-2", by="bob")


def test_an_altered_bundle_of_a_rejected_run_is_not_published(main):
    tree = end(main, "run-4", "rejected", keep=False)
    manifest = tree / held_runs.MANIFEST
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text + " ")
    with pytest.raises(EvergreenError, match=r"is bundle .*, run run-4 made"):
        held_runs.override(main, "run-4", by="bob", why="x")
    assert store(main).live().version == "v0.3.0"


def test_times_are_utc_and_recorded():
    record = {"at": held_runs._now()}
    assert abs(datetime.fromisoformat(record["at"]) - datetime.now(UTC)) < timedelta(minutes=1)
