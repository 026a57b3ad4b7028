"""`evergreen gc` on real releases: every retained version is restored byte for byte, and the garbage is gone."""

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.repo import workspace
from flows.repo.git import git
from flows.versions.gc import gc
from flows.versions.verify import verify
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_file
from tasks.releases import rollout
from tasks.releases.switches import SwitchesDamaged, set_pin
from tests.support import versions_project
from tests.support.children import killed_at
from tests.support.versions_project import restored, store, tree


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three versions, one that was never published, and what killed or superseded work leaves."""
    root = versions_project.copy(tmp_path / "project")
    versions_project.add_batch(root, 9)
    versions_project.make_bundle(root, 9)
    bundle = store(root).put_bundle(root / "artifacts/bundle")  # as a run does that dies right after it
    (root / ".evergreen/unpublished").write_text(bundle)
    git(root, "reset", "--quiet", "--hard", "HEAD~")  # and its data was never wanted
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "artifacts")
    for kind in ("columns", "inspect", "pixels", "features"):
        for name in ("gone-shard", Path(next(root.glob(".dvc/cache/files/md5/*/*"))).name):
            file = root / ".evergreen/cache" / kind / "somekey" / f"{name}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * 100)
    return root


def everything(root: Path) -> dict[str, str]:
    """What a dry run must leave alone."""
    kept = ("releases", "remote", "cache")
    found = {name: sha for folder in kept for name, sha in tree(root / ".evergreen" / folder).items()}
    found = found | tree(root / ".dvc/cache") | {"refs": git(root, "for-each-ref")}
    return {name: sha for name, sha in found.items() if not name.startswith(("evergreen/", "ledgers/"))}


def names(root: Path) -> set[str]:
    """Objects of the release store, DVC's cache and remote."""
    folders = (root / ".evergreen/releases/objects", root / ".dvc/cache/files", root / ".evergreen/remote/files")
    return {str(path.relative_to(root)) for folder in folders for path in folder.rglob("*") if path.is_file()}


def counts(found) -> dict[str, tuple[int, int]]:
    return {place.name: (place.garbage, place.young) for place in found.places}


def test_every_kept_version_is_restored_byte_for_byte_afterwards(project: Path, tmp_path: Path):
    history = store(project).history()
    before = [restored(project, pointer, tmp_path / "look") for pointer in history]
    assert len({tuple(sorted(found.items())) for found in before}) == 3
    sound, found = names(versions_project.template()), gc(project, yes=True, grace_hours=0)
    assert found.removed
    assert counts(found)["release store"] == (4, 0)  # a manifest, a model, a description, a reference; one is shared
    assert counts(found)["DVC cache"][0] > 0
    assert counts(found)["DVC remote"][0] == 0
    assert [counts(found)[f"{kind} cache"][0] for kind in ("columns", "inspect", "pixels", "features")] == [2] * 4
    assert names(project) == sound
    assert [restored(project, pointer, tmp_path / "look") for pointer in history] == before
    assert all(line.ok for line in verify(project, deep=True))
    assert not any(garbage for garbage, _ in counts(gc(project, grace_hours=0)).values())


def test_without_yes_nothing_changes_and_what_is_young_stays(project: Path):
    before = everything(project)
    dry = gc(project, grace_hours=0)
    assert not dry.removed
    assert sum(place.garbage_bytes for place in dry.places) > 1000
    assert everything(project) == before
    young = gc(project, yes=True)
    assert {name: young for name, (garbage, young) in counts(young).items() if garbage} == {}
    assert sum(young for _, young in counts(young).values()) == sum(garbage for garbage, _ in counts(dry).values())
    assert everything(project) == before


def test_a_run_that_is_alive_keeps_its_bundle_and_its_data(project: Path):
    tree_, lock = workspace.create(project, "20260101T000000000000-abcdef-1", {})
    try:
        (tree_ / "data.dvc").write_text(git(project, "show", "HEAD@{1}:data.dvc"))  # batch 9, named by this run only
        versions_project.make_bundle(tree_, 9)
        sound = names(project)
        found = counts(gc(project, yes=True, grace_hours=0))
        assert found["release store"] == (0, 0)
        assert names(project) == sound
    finally:
        os.close(lock)
    shutil.rmtree(tree_.parent)
    assert counts(gc(project, yes=True, grace_hours=0))["release store"] == (4, 0)


def test_answers_for_corrupted_images_of_the_newest_models_stay(project: Path):
    kept = project / ".evergreen/cache/corrupted"
    for number in range(5):
        (kept / f"model-{number}").mkdir(parents=True)
        (kept / f"model-{number}/answers.npy").write_bytes(b"answers")
        time.sleep(0.02)  # the clock of a file system is coarse
    gc(project, yes=True, grace_hours=0)
    assert sorted(path.name for path in kept.iterdir()) == ["model-2", "model-3", "model-4"]


def test_branches_and_the_users_own_tags_are_roots(project: Path):
    git(project, "branch", "idea", "HEAD@{1}")
    assert counts(gc(project, grace_hours=0))["DVC cache"] == (0, 0)
    git(project, "tag", "mine", "idea")
    git(project, "branch", "--quiet", "-D", "idea")
    assert counts(gc(project, grace_hours=0))["DVC cache"] == (0, 0)
    git(project, "tag", "--delete", "mine")
    assert counts(gc(project, grace_hours=0))["DVC cache"][0] > 0


def test_a_held_run_is_a_root(project: Path):
    digest = (project / ".evergreen/unpublished").read_text()
    message = f"Held\n\nEvergreen-Bundle: {digest}\n"
    commit = git(project, "commit-tree", "HEAD@{1}^{tree}", "-p", "HEAD", "-m", message)
    git(project, "update-ref", "refs/evergreen/held/run-9", commit)
    found = counts(gc(project, yes=True, grace_hours=0))
    assert (found["release store"], found["DVC cache"]) == ((0, 0), (0, 0))
    store(project).audit_bundle(digest)


def test_versions_are_retired_on_request_only_and_never_the_last_two(project: Path, tmp_path: Path):
    releases = store(project)
    history = releases.history()
    kept = [restored(project, pointer, tmp_path / "look") for pointer in history[1:]]
    assert gc(project, keep=1).retired == ["v0.1.0"]
    assert releases.retired() == {}
    assert gc(project, yes=True, keep=1, grace_hours=0).retired == ["v0.1.0"]
    assert releases.retired()["v0.1.0"]["why"] == "older than the newest 1"
    assert "classifier@v0.1.0" in git(project, "tag").split()
    assert releases.history() == history
    assert [restored(project, pointer, tmp_path / "look") for pointer in history[1:]] == kept
    assert not (project / f".evergreen/releases/bundles/{history[0].bundle}.json").exists()
    assert all(line.ok for line in verify(project, deep=True))
    assert gc(project, keep_days=1).retired == []  # none is that old
    with pytest.raises(EvergreenError, match="either --keep or --keep-days"):
        gc(project, keep=1, keep_days=1)
    with pytest.raises(EvergreenError, match="start at 1"):
        gc(project, keep=0)


def test_nothing_is_removed_when_a_root_cannot_be_read(project: Path):
    pointer = store(project).history()[0]
    manifest = project / f".evergreen/releases/bundles/{pointer.bundle}.json"
    content = manifest.read_bytes()
    manifest.unlink()
    before = everything(project)
    with pytest.raises(EvergreenError, match=r"v0\.1\.0 needs bundles/"):
        gc(project, yes=True, grace_hours=0)
    assert everything(project) == before
    manifest.write_bytes(content)

    listing = git(project, "show", f"{pointer.git_rev}:data.dvc").partition("md5: ")[2].split()[0]
    for folder in (".dvc/cache", ".evergreen/remote"):
        (project / folder / "files/md5" / listing[:2] / listing[2:]).unlink()
    before = everything(project)
    with pytest.raises(EvergreenError, match=r"v0\.1\.0 needs the files of data, and their listing .* is lost"):
        gc(project, yes=True, grace_hours=0)
    assert everything(project) == before


@pytest.mark.parametrize("point", ["gc.retired", "gc.removed"])
def test_a_killed_gc_is_completed_by_the_next(project: Path, tmp_path: Path, point: str):
    pointer = store(project).history()[2]
    before = restored(project, pointer, tmp_path / "look")
    assert killed_at(point, gc, project, yes=True, keep=2, grace_hours=0)
    assert all(line.ok for line in verify(project))
    gc(project, yes=True, keep=2, grace_hours=0)
    assert restored(project, pointer, tmp_path / "look") == before
    assert not any(garbage for garbage, _ in counts(gc(project, grace_hours=0)).values())


def test_the_command_says_what_it_would_do(project: Path, monkeypatch: pytest.MonkeyPatch):
    from flows.cli.main import app

    monkeypatch.chdir(project)
    before = sha256_file(project / ".evergreen/releases/champion.json")
    done = CliRunner().invoke(app, ["gc", "--grace-hours", "0", "--keep", "2"])
    assert "nothing was removed; `--yes` removes" in done.output
    assert "v0.1.0 would be retired" in done.output
    done = CliRunner().invoke(app, ["gc", "--grace-hours", "0", "--yes"])
    assert "removed" in done.output
    assert sha256_file(project / ".evergreen/releases/champion.json") == before


def test_a_rollout_keeps_its_challenger(project: Path):
    releases = store(project)
    oldest, live = releases.history()[0], releases.history()[-1]
    now = datetime.now(UTC)
    about = {"version": oldest.version, "bundle": oldest.bundle, "champion": live.version, "run_id": "run-2"}
    about |= {"champion_bundle": live.bundle, "champion_seq": live.seq, "strategy": "shadow", "steps": (0.0,)}
    one = rollout.Rollout(**about, id=rollout.new_id(now), since=now, step_since=now, by="ann", why="better")
    rollout.begin(releases, one)
    assert gc(project, keep=1).retired == []
    releases.retire(oldest.version, "on another machine, before the rollout began", "bea")
    gc(project, yes=True, grace_hours=0)
    releases.audit_bundle(oldest.bundle)
    rollout.finish(releases, one, rollout.RolloutEnd(how="rolled_back", at=now, by="ann", why="worse"))
    gc(project, yes=True, grace_hours=0)
    assert not (project / f".evergreen/releases/bundles/{oldest.bundle}.json").exists()


def test_a_version_that_is_pinned_on_this_machine_stays(project: Path):
    releases = store(project)
    first = releases.history()[0]
    set_pin(project, first.version, first.bundle, "ann", "the newest sees bags everywhere")
    assert gc(project, keep=1).retired == []
    releases.retire(first.version, "on another machine", "bob")
    gc(project, yes=True, grace_hours=0)
    releases.audit_bundle(first.bundle)
    (project / ".evergreen/predictor/switches.json").write_text("{")
    with pytest.raises(SwitchesDamaged):
        gc(project, yes=True, grace_hours=0)
    (project / ".evergreen/predictor/switches.json").unlink()
    gc(project, yes=True, grace_hours=0)
    assert not (project / f".evergreen/releases/bundles/{first.bundle}.json").exists()
