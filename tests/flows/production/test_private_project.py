"""Another user of the machine reads no image, label or log of a project."""

import os

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.production.monitor import monitor
from flows.production.score import score
from flows.repo.git import git
from tests.support import other_user
from tests.support.live_project import make, traffic


@pytest.fixture
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_another_user_reads_what_git_tracks_and_nothing_else(tmp_path, monkeypatch, open_umask):
    root = make(tmp_path)
    for name in ("data", "artifacts", ".evergreen", ".dvc/cache"):
        (root / name).chmod(0o755)  # as an earlier version left them
    monkeypatch.chdir(root)
    assert any(name.startswith(".dvc/cache/files/md5/") for name in other_user.readable(root))
    (tmp_path / "new").mkdir(mode=0o755)
    score(root, str(traffic(tmp_path / "t.parquet", 1, 60)))
    monitor(root)
    out = tmp_path / "new/queue.csv"
    for command in (["status"], ["queue", "--csv", str(out)]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    written = [path for path in (root / ".evergreen").rglob("*.parquet")]
    assert written
    tracked = set(git(root, "ls-files").splitlines())
    folders = {parent for name in tracked for parent in _above(name)}
    left = {name for name in other_user.readable(root) if not name.startswith((".git/", "metrics"))}
    assert left - tracked - folders <= {".git"}
    assert other_user.readable(tmp_path / "new") == set()


def _above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
