"""The id and the secret of a checkout: its own, kept, and not those of a copy."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from tasks.common.checkout import checkout, known_checkout, renew_secret
from tests.support.checkout import git


@pytest.fixture
def root(tmp_path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "file").write_text("1")
    (made / ".gitignore").write_text("/.evergreen\n")
    git(made, "init", "-q", "-b", "main")
    git(made, "-c", "user.name=a", "-c", "user.email=a@b", "add", "-A")
    git(made, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a project")
    return made


def test_a_checkout_has_an_id_and_a_secret_that_only_its_owner_can_read(root):
    assert known_checkout(root) is None
    own = checkout(root)
    assert checkout(root) == known_checkout(root) == own
    assert len(own.secret) >= 32
    assert stat.S_IMODE((root / ".evergreen/checkout.json").stat().st_mode) == 0o600
    assert git(root, "status", "--porcelain") == ""
    assert own.secret not in repr(own)


def test_a_copied_and_a_cloned_folder_get_an_id_of_their_own(root):
    own = checkout(root)
    copy, clone = root.with_name("copy"), root.with_name("clone")
    shutil.copytree(root, copy)
    git(root, "clone", "-q", str(root), str(clone))
    assert known_checkout(copy) is None
    others = [checkout(copy), checkout(clone)]
    assert len({own.id, *(other.id for other in others)}) == 3
    assert len({own.secret, *(other.secret for other in others)}) == 3
    assert checkout(root) == own


def test_a_moved_folder_and_a_renumbered_disk_keep_theirs(root):
    own = checkout(root)
    moved = root.rename(root.with_name("moved"))
    assert checkout(moved) == own
    file = moved / ".evergreen/checkout.json"
    about = json.loads(file.read_text()) | {"path": str(moved), "device": 1 << 40}
    file.write_text(json.dumps(about))
    assert checkout(moved) == own
    file.write_text(json.dumps(about | {"path": "/elsewhere"}))
    assert checkout(moved).id != own.id


def test_a_worktree_of_a_run_shares_those_of_the_main_checkout(root):
    own = checkout(root)
    git(root, "worktree", "add", "-q", "--detach", str(root.with_name("tree")))
    assert checkout(root.with_name("tree")) == own


def test_a_secret_that_others_could_read_is_replaced_and_the_id_stays(root):
    own = checkout(root)
    (root / ".evergreen/checkout.json").chmod(0o644)
    new = checkout(root)
    assert (new.id, stat.S_IMODE((root / ".evergreen/checkout.json").stat().st_mode)) == (own.id, 0o600)
    assert new.secret != own.secret
    renewed = renew_secret(root)
    assert (renewed.id, checkout(root)) == (own.id, renewed)
    assert renewed.secret != new.secret


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"schema": 1, "id": "", "secret": "", "path": ""}'])
def test_a_damaged_file_is_replaced(root, content):
    checkout(root)
    (root / ".evergreen/checkout.json").write_text(content)
    assert known_checkout(root) is None
    assert checkout(root) == known_checkout(root)
