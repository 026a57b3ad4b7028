"""Rolling back: real git, DVC and GTO, real damage, real kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gto
import pytest

from flows.publishing.publish import reconcile
from flows.publishing.rollback import _swap, rollback
from flows.repo.git import git
from flows.repo.objects import outs_at
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_file, write_json
from tasks.releases.pointer import successor
from tasks.releases.store import StoreDamaged
from tests.support.released_project import NAME, evergreen, store

BIN = Path(sys.executable).parent


def tool(folder: Path, name: str, *arguments: str) -> str:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([BIN / name, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree_of(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def cpu_seconds() -> float:
    """Of this process and its children: not wall time, for other tests run at the same time."""
    return sum(os.times()[:4])


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
        start = cpu_seconds()
        rollback(main, pointer.version, by="bob", why="look", restore_to=tmp_path / pointer.version)
        assert cpu_seconds() - start < 20
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
    assert len(now) == 9


def test_the_pointer_step_takes_less_than_two_seconds(main):
    live, target = store(main).live(), store(main).history()[0]
    start = cpu_seconds()
    _swap(main, store(main), NAME, live, target, "bob", "fast")
    assert cpu_seconds() - start < 2
    assert store(main).live().version == "v0.1.0"


def test_damage_of_the_live_version_does_not_stop_a_rollback(main, tmp_path):
    releases = store(main)
    live = releases.live()
    manifest = json.loads(releases.store.read(f"bundles/{live.bundle}.json")[0])
    (releases.store.root / "objects" / manifest["files"]["model.onnx"]["sha256"]).unlink()
    newest = outs_at(main, live.git_rev)["data"]
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
    oid = outs_at(main, store(main).history()[0].git_rev)["data"]
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


def test_the_live_version_is_refused_but_can_be_restored(main, tmp_path):
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
