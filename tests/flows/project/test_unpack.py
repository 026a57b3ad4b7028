"""A ZIP from a stranger: bounded, and nothing is written outside its folder."""

import stat
import zipfile
from pathlib import Path

import pytest

from flows.project.unpack import ArchiveRefused, Limits, unpack


def packed(file: Path, content: dict[str, bytes], compress: bool = False, **about) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = archive.compression
            for key, value in about.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return file


def everything(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_class_folders_come_out_as_they_were_packed(tmp_path: Path):
    names = {"cat/1.png": b"1", "dog/2.png": b"2", "__MACOSX/cat/._1.png": b"x", "cat/.DS_Store": b"x"}
    found = unpack(packed(tmp_path / "a.zip", names), tmp_path / "to")
    assert found == tmp_path / "to"
    assert everything(found) == {"cat/1.png", "dog/2.png"}
    assert (found / "dog/2.png").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("names", "inside"),
    [
        (["photos/cat/1.png", "photos/dog/2.png"], "photos"),  # the parent folder was packed
        (["photos/labels.csv", "photos/images/1.png"], "photos"),
        (["cat/1.png", "cat/2.png"], ""),  # one class
        (["a/b/cat/1.png", "a/b/dog/1.png"], "a/b"),
    ],
)
def test_the_folder_around_everything_is_not_taken_for_a_class(tmp_path: Path, names, inside):
    assert unpack(packed(tmp_path / "a.zip", dict.fromkeys(names, b"1")), tmp_path / "to") == tmp_path / "to" / inside


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/x.png", "cat/../../x.png", "..\\x.png", "C:/x.png", "a" * 300 + ".png"]
)
def test_a_path_that_leaves_the_folder_is_refused_and_nothing_is_written(tmp_path: Path, name: str):
    with pytest.raises(ArchiveRefused, match=r"leaves its folder|too long"):
        unpack(packed(tmp_path / "a.zip", {"cat/1.png": b"1", name: b"x"}), tmp_path / "in/to")
    assert everything(tmp_path) == {"a.zip"}


def test_links_are_refused(tmp_path: Path):
    file = packed(
        tmp_path / "a.zip", {"cat/1.png": b"/etc/passwd"}, create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16
    )
    with pytest.raises(ArchiveRefused, match="is a link"):
        unpack(file, tmp_path / "to")


@pytest.mark.parametrize("names", [("cat", "cat/1.png"), ("cat/1.png", "Cat")])
def test_a_file_where_a_folder_must_be_is_refused(tmp_path: Path, names):
    with pytest.raises(ArchiveRefused, match="as a file and as a folder"):
        unpack(packed(tmp_path / "a.zip", dict.fromkeys(names, b"1")), tmp_path / "to")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_was_damaged_on_its_way_is_named(tmp_path: Path, method):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("cat/1.png", bytes(range(256)) * 30)
    content = bytearray(file.read_bytes())
    content[50:70] = bytes(255 - byte for byte in content[50:70])
    file.write_bytes(content)
    with pytest.raises(ArchiveRefused, match="not a ZIP that can be read"):
        unpack(file, tmp_path / "to")


def test_a_bomb_stops_while_it_is_written(tmp_path: Path):
    bomb = packed(tmp_path / "a.zip", {f"cat/{n}.png": bytes(3_000_000) for n in range(4)}, compress=True)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ArchiveRefused, match="images do not shrink so much"):
        unpack(bomb, tmp_path / "to")
    assert sum(file.stat().st_size for file in (tmp_path / "to").rglob("*") if file.is_file()) < 12_000_000


def test_files_and_bytes_are_bounded(tmp_path: Path):
    file = packed(tmp_path / "a.zip", {f"cat/{n}.png": b"12345" for n in range(5)})
    with pytest.raises(ArchiveRefused, match="at most 4 are taken"):
        unpack(file, tmp_path / "to", Limits(files=4))
    with pytest.raises(ArchiveRefused, match=r"at most 0\.0 GB are taken"):
        unpack(file, tmp_path / "to", Limits(bytes=10))
    unpack(file, tmp_path / "to", Limits(files=5, bytes=25))


def test_what_is_no_zip_two_files_of_one_name_and_a_password_are_named(tmp_path: Path):
    (tmp_path / "b.zip").write_bytes(b"not a zip")
    with pytest.raises(ArchiveRefused, match="not a ZIP that can be read"):
        unpack(tmp_path / "b.zip", tmp_path / "to")
    with pytest.raises(ArchiveRefused, match="twice"):
        unpack(packed(tmp_path / "c.zip", {"cat/1.png": b"1", "cat/1.PNG": b"2"}), tmp_path / "to")
    locked = bytearray(packed(tmp_path / "d.zip", {"cat/1.png": b"1"}).read_bytes())
    locked[6] |= 1  # the flag of encryption, in both headers
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "d.zip").write_bytes(locked)
    with pytest.raises(ArchiveRefused, match="encrypted"):
        unpack(tmp_path / "d.zip", tmp_path / "to")
    with pytest.raises(ArchiveRefused, match="no files"):
        unpack(packed(tmp_path / "e.zip", {"__MACOSX/x": b""}), tmp_path / "to")
