"""Who may read what a project writes: the owner, and the group of a folder that was shared on purpose."""

import os
import stat
from pathlib import Path

import pytest

from tasks.common.files import atomic_dir, locked, write_json
from tasks.common.private import close_to_others, make_folder
from tasks.storage.local import LocalStore
from tests.support import other_user


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o002, 0o077], ids="umask {:03o}".format)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def write_all(folder: Path) -> None:
    """A file of each kind that we write, in new folders under `folder`."""
    write_json(folder / "state/a.json", 1)
    with atomic_dir(folder / "state/whole") as made:
        (made / "file").write_text("1")
    with locked(folder / "state/lock", 1, "a test"):
        pass
    LocalStore(folder / "store").swap("pointers/1", b"1", None)
    make_folder(folder / "logs/today")


def test_what_we_write_is_for_its_owner_alone_whatever_the_umask(tmp_path, umask):
    write_all(tmp_path)
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"} == {0o600}
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    assert {name for name in other_user.readable(tmp_path) if "/" in name} == set()


def test_a_file_that_git_tracks_has_the_mode_that_git_gives(tmp_path, umask):
    write_json(tmp_path / "tombstones.json", {}, tracked=True)
    assert mode(tmp_path / "tombstones.json") == 0o666 & ~umask


def test_a_folder_with_the_setgid_bit_is_shared_with_its_group_and_nobody_else(tmp_path, umask):
    team, readers = tmp_path / "team", tmp_path / "readers"
    for folder, rights in ((team, 0o2770), (readers, 0o2750)):
        folder.mkdir()
        folder.chmod(rights)
        write_all(folder)
    for folder, file, inner in ((team, 0o660, 0o2770), (readers, 0o640, 0o2750)):
        assert {mode(path) for path in folder.rglob("*") if path.is_file() and path.name != "file"} == {file}
        assert {mode(path) for path in folder.rglob("*") if path.is_dir()} == {inner}


def test_an_older_checkout_is_closed_and_a_shared_one_stays_shared(tmp_path):
    names = ("data", "artifacts", ".dvc/cache", ".dvc/tmp", ".evergreen", "src")
    for name in names:
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_text("an image")
    (tmp_path / "data").chmod(0o2777)
    (tmp_path / "artifacts").chmod(0o755)
    assert "data/deep/file" in other_user.readable(tmp_path)
    close_to_others(tmp_path, tmp_path / ".evergreen")
    assert mode(tmp_path / "data") == 0o2770
    assert {mode(tmp_path / name) for name in names[1:-1]} == {0o700}
    assert {name for name in other_user.readable(tmp_path) if name.endswith("file")} == {"src/deep/file"}
