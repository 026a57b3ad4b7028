"""A command that changes data/ is whole or has not been: hooks, locks and kills leave no half of it."""

import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from flows.project.data_commit import CommitRefused
from flows.project.ingest import ingest_command
from flows.repo.pipeline import open_repo, record_data
from tasks.common.errors import EvergreenError
from tests.support.checkout import git
from tests.support.ingesting import folder, samples, take

OPTIONS = {"kind": "import", "commit": True, "new": False}


@pytest.fixture
def started(toy, tmp_path) -> Path:
    """A project with one committed batch of four images."""
    for file in (toy / "data").iterdir():
        file.unlink()
    (toy / "data").rmdir()
    git(toy, "rm", "-q", "data.dvc")
    git(toy, "commit", "-qm", "no data yet")
    ingest_command(toy, folder(tmp_path / "first", 4), **OPTIONS)
    return toy


def tree(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in (root / "data").rglob("*") if file.is_file()}


def refuse(root: Path, how: str) -> None:
    if how == "hook":
        hook = root / ".git" / "hooks" / "pre-commit"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho the hook says no >&2\nexit 1\n")
        hook.chmod(0o755)
    elif how == "signing":
        git(root, "config", "commit.gpgsign", "true")
        git(root, "config", "gpg.program", "false")
    else:
        (root / ".git" / "index.lock").write_text("")


def allow(root: Path) -> None:
    (root / ".git" / "hooks" / "pre-commit").unlink(missing_ok=True)
    (root / ".git" / "index.lock").unlink(missing_ok=True)
    git(root, "config", "commit.gpgsign", "false")


@pytest.mark.parametrize("how", ["hook", "signing", "lock"])
def test_a_refused_commit_leaves_nothing_behind(started, tmp_path, how):
    before, record, more = tree(started), (started / "data.dvc").read_bytes(), folder(tmp_path / "more", 3, start=4)
    (started / "notes.txt").write_text("of the user\n")
    git(started, "add", "notes.txt")
    refuse(started, how)
    with pytest.raises(CommitRefused, match="Nothing was taken"):
        ingest_command(started, more, **OPTIONS)
    assert tree(started) == before
    assert (started / "data.dvc").read_bytes() == record
    allow(started)
    assert git(started, "status", "--porcelain") == "A  notes.txt"  # what the user had staged stays staged
    ingest_command(started, more, **OPTIONS)
    assert len(samples(started)) == 7
    assert git(started, "log", "-1", "--format=%s").startswith("took 3 new images of 2 classes")


def test_a_refused_first_commit_leaves_no_record(started, tmp_path):
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", started, root], check=True)
    git(root, "rm", "-q", "data.dvc")
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "no data")
    refuse(root, "hook")
    with pytest.raises(CommitRefused, match="the hook says no"):
        ingest_command(root, folder(tmp_path / "s", 3), **OPTIONS)
    assert not (root / "data.dvc").exists()
    assert git(root, "status", "--porcelain") == ""
    assert tree(root) == {}


def test_a_batch_that_a_killed_command_left_is_named_by_the_next_commit(started, tmp_path):
    killed = take(started, folder(tmp_path / "killed", 5, start=10))
    record_data(started)  # a kill comes before the commit
    ingest_command(started, folder(tmp_path / "next", 2, start=20), **OPTIONS)
    subject = git(started, "log", "-1", "--format=%s")
    assert subject.startswith("took 2 new images")
    assert f"batch {killed.batch} of 5 images, taken before" in subject


def test_data_of_another_branch_are_not_committed_to_this_one(started, tmp_path):
    here = git(started, "branch", "--show-current")
    git(started, "switch", "-qc", "other")
    ingest_command(started, folder(tmp_path / "others", 3, start=30), **OPTIONS)
    git(started, "switch", "-q", here)
    before, more = tree(started), folder(tmp_path / "more", 2, start=40)
    with pytest.raises(EvergreenError, match=r"of the branch other .* `dvc checkout data\.dvc`"):
        ingest_command(started, more, **OPTIONS)
    assert (tree(started), git(started, "status", "--porcelain")) == (before, "")
    checkout(started)
    ingest_command(started, more, **OPTIONS)
    assert len(samples(started)) == 4 + 2


def test_what_a_pull_brought_is_not_left_out_of_the_next_commit(started, tmp_path):
    here = git(started, "branch", "--show-current")
    git(started, "switch", "-qc", "colleague")
    ingest_command(started, folder(tmp_path / "others", 3, start=30), **OPTIONS)
    git(started, "switch", "-q", here)
    checkout(started)
    git(started, "merge", "-q", "--ff-only", "colleague")  # as `git pull` does: data/ stays as it was
    more = folder(tmp_path / "more", 2, start=40)
    with pytest.raises(EvergreenError, match=r"lacks \d+ files that data\.dvc names"):
        ingest_command(started, more, **OPTIONS)
    assert git(started, "status", "--porcelain") == ""
    checkout(started)
    ingest_command(started, more, **OPTIONS)
    assert len(samples(started)) == 4 + 3 + 2


def checkout(root: Path) -> None:
    """As `dvc checkout data.dvc`."""
    with closing(open_repo(root)) as repo:
        repo.checkout([str(root / "data.dvc")])
