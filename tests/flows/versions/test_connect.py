"""`evergreen connect` in a fresh clone: what is found, fetched and restored, and what it says is missing."""

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.repo.git import git
from flows.repo.pipeline import open_repo
from flows.versions.connect import connect
from flows.versions.gc import gc
from tasks.common.errors import EvergreenError
from tests.support import versions_project
from tests.support.s3_servers import Server, credentials, moto  # noqa: F401 (fixtures)
from tests.support.versions_project import store, tree


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return versions_project.copy(tmp_path / "first")


def clone(first: Path) -> Path:
    git(first.parent, "clone", "--quiet", str(first), str(first.parent / "clone"))
    return first.parent / "clone"


def missing(found) -> dict[str, str]:
    return {line.part: line.text for line in found if not line.ok}


def test_a_clone_finds_what_the_folder_has_that_it_was_cloned_from(first: Path, monkeypatch: pytest.MonkeyPatch):
    from flows.cli.main import app

    other = clone(first)
    monkeypatch.chdir(other)
    assert "a fresh clone: `evergreen connect`" in CliRunner().invoke(app, ["status"]).output
    done = CliRunner().invoke(app, ["connect"])
    assert done.exit_code == 0, done.output
    assert "ready:" in done.output
    assert store(other).live() == store(first).live()
    assert git(other, "rev-parse", "releases") == git(first, "rev-parse", "releases")
    assert tree(other / "data") == tree(first / "data")
    before = tree(other)
    assert missing(connect(other)) == {}  # a second time
    assert {name for name in tree(other) if name not in before and ".git/" not in name} == set()
    shutil.rmtree(other / "data")
    dvc = Path(sys.executable).with_name("dvc")
    pulled = subprocess.run([dvc, "pull", "--quiet"], cwd=other, capture_output=True, text=True)
    assert pulled.returncode == 0, pulled.stderr
    assert tree(other / "data") == tree(first / "data")
    assert (other / "artifacts/bundle/MANIFEST.json").is_file()

    for root in (first, other):  # the clone's ledger keeps what it needs in the first's remote
        git(root, "reset", "--quiet", "--hard", "HEAD~")
    places = {place.name: place for place in gc(first, grace_hours=0).places}
    assert any(str(other) in user for user in places["DVC remote"].users)


def test_a_shared_folder_serves_both_and_nothing_is_replaced(first: Path, tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    with pytest.raises(EvergreenError, match="holds neither releases/ nor remote/"):
        connect(first, shared)
    other = clone(first)
    git(other, "remote", "set-url", "origin", "ssh://nowhere.invalid/project")
    found = missing(connect(other))
    assert "evergreen connect FOLDER" in found["place"]
    assert "cannot be reached" in found["live"]
    assert "origin cannot be fetched" in found["git"]
    assert "dvc push data.dvc" in found["data"]
    (shared / "releases").mkdir()
    with pytest.raises(EvergreenError, match="releases or data of its own"):
        connect(first, shared)
    assert not (first / ".evergreen/releases").is_symlink()
    (shared / "releases").rmdir()
    live = store(first).live()
    for name in ("releases", "remote"):
        (first / ".evergreen" / name).rename(shared / name)
    git(other, "remote", "set-url", "origin", str(first))
    for root in (first, other):
        assert missing(connect(root, shared)) == {}
        assert store(root).live() == live
    versions_project.add_batch(first, 4, 4)
    versions_project.release(first, 4)
    assert store(other).live().version == "v0.4.0"
    git(other, "pull", "--quiet", "--ff-only")
    shutil.rmtree(other / "data")
    assert missing(connect(other)) == {}
    assert tree(other / "data") == tree(first / "data")


def test_what_was_not_pushed_is_named(first: Path, tmp_path: Path):
    versions_project.add_batch(first, 4, 4)  # ingested, not released
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "hub")
    git(first, "push", "--quiet", str(tmp_path / "hub"), "main")
    other = clone(tmp_path / "hub")
    found = missing(connect(other, first))
    assert found.keys() == {"data", "live"}
    assert "dvc push data.dvc" in found["data"]
    held = "refs/evergreen/held/*:refs/evergreen/held/*"
    assert f"git push origin releases --tags '{held}'" in found["live"]
    git(first, "push", "--quiet", str(tmp_path / "hub"), "releases", "--tags", held)
    with closing(open_repo(first)) as repo:
        assert repo.push(targets=[str(first / "data.dvc")]) > 0
    assert missing(connect(other)) == {}


def test_with_releases_in_s3_a_clone_needs_no_place(tmp_path: Path, moto: Server, credentials: None):  # noqa: F811
    bucket = moto.bucket()
    root = versions_project.start(tmp_path / "first", url=f"s3://{bucket}/team", endpoint_url=moto.endpoint)
    versions_project.add_batch(root, 1, 4)
    other = clone(root)
    with pytest.raises(EvergreenError, match=f"store.url in params.yaml is s3://{bucket}/team"):
        connect(other, tmp_path)
    found = connect(other)
    assert missing(found).keys() == {"data"}
    assert yaml.safe_load((other / "params.yaml").read_text())["store"]["url"] in found[0].text
