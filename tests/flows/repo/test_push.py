"""Pushing to the DVC remote: what arrives is audited by hash, and damage is repaired or stops the publication."""

import json
import os
import shutil
from pathlib import Path

import pytest

from flows.repo.git import git
from flows.repo.push import dvc_push
from tasks.common.errors import EvergreenError

NAME = "classifier"


@pytest.fixture(scope="module")
def dvc_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with data.dvc (a folder), a stage with a file, a folder and an unpushed output, a remote."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("dvc") / "main"
    (root / "data").mkdir(parents=True)
    for n in range(3):
        (root / "data" / f"shard-{n}.parquet").write_bytes(b"rows" * 100 + bytes([n]))
    git(root, "init", "--quiet")
    Repo.init(str(root)).close()
    (root / ".dvc/config").write_text(
        "[core]\n analytics = false\n check_update = false\n remote = store\n"
        "['remote \"store\"']\n url = ../../remote\n verify = true\n"
    )
    command = "mkdir out && echo model > out/model && echo head > out/head && echo one > one && echo cache > local"
    stage = {"cmd": command, "outs": ["out", "one", {"local": {"push": False}}]}
    (root / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
    with pytest.MonkeyPatch.context() as patch, Repo(str(root)) as repo:
        patch.chdir(root)
        repo.add("data")
        repo.reproduce("train")
    git(root, "add", ".")
    git(root, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "run")
    return root


@pytest.fixture
def tree(dvc_template: Path, tmp_path: Path) -> Path:
    shutil.copytree(dvc_template, tmp_path / "main")
    return tmp_path / "main"


def objects(folder: Path) -> dict[str, Path]:
    """md5 (or md5.dir) -> file of a DVC cache or remote."""
    return {p.parent.name + p.name: p for p in (folder / "files/md5").rglob("*") if p.is_file()}


def test_every_object_of_a_version_reaches_the_remote(tree: Path):
    dvc_push(tree)
    pushed = objects(tree.parent / "remote")
    cached = objects(tree / ".dvc/cache")
    assert len(pushed) == 8  # 3 shards, 2 files of out, one, two listings; not `local`
    assert set(pushed) == set(cached) - {_md5(tree / "local")}
    assert all(pushed[oid].read_bytes() == cached[oid].read_bytes() for oid in pushed)
    assert not any(os.path.samefile(pushed[oid], cached[oid]) for oid in pushed)  # a copy, not the same bytes twice


def _md5(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_what_was_damaged_in_the_remote_is_pushed_again(tree: Path, how: str):
    dvc_push(tree)
    remote, cached = objects(tree.parent / "remote"), objects(tree / ".dvc/cache")
    assert len(remote) == 8
    for path in remote.values():
        data = path.read_bytes()
        path.unlink()
        if how != "delete":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if how == "flip" else data[:-1])
    dvc_push(tree)
    assert {oid: path.read_bytes() for oid, path in objects(tree.parent / "remote").items()} == {
        oid: cached[oid].read_bytes() for oid in remote
    }


def test_an_object_without_an_undamaged_copy_stops_publication(tree: Path):
    dvc_push(tree)
    shard = _md5(tree / "data/shard-1.parquet")
    objects(tree.parent / "remote")[shard].unlink()
    objects(tree / ".dvc/cache")[shard].unlink()
    with pytest.raises(EvergreenError, match=r"data/shard-1\.parquet: .* is missing"):
        dvc_push(tree)


def test_a_damaged_cache_object_is_not_published(tree: Path):
    shard = objects(tree / ".dvc/cache")[_md5(tree / "data/shard-1.parquet")]
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(b"R" + data[1:])
    with pytest.raises(EvergreenError, match=r"data/shard-1\.parquet"):
        dvc_push(tree)


def test_a_stage_that_has_not_run_stops_publication(tree: Path):
    (tree / "dvc.lock").unlink()
    with pytest.raises(EvergreenError, match="its stage has not run"):
        dvc_push(tree)


def test_no_remote_is_an_error_not_a_success(tree: Path):
    config = tree / ".dvc/config"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "remote = store" not in line))
    with pytest.raises(EvergreenError, match="no remote"):
        dvc_push(tree)
