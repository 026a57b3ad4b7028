"""Ledgers on every kind of store: who needs what, and that no writer relies on what a gc is about to delete."""

import json
from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.owner import Owner, owner_of
from tasks.storage.blobs import Store
from tasks.storage.ledgers import (
    MERGE_FILES,
    STALE,
    StoreFiles,
    claim,
    collecting,
    is_stale,
    read_ledgers,
)
from tests.support.stores import credentials, local, moto, params, rclone, store  # noqa: F401 (fixtures)

ANN = Owner(id="a" * 16, path="/home/ann/project", host="one", user="ann")
BOB = Owner(id="b" * 16, path="/home/bob/project", host="two", user="bob")


def named(files: StoreFiles) -> dict[str, set[str]]:
    return {checkout: ledger.names for checkout, ledger in read_ledgers(files).items()}


def test_each_checkout_has_a_ledger_that_grows_and_is_merged(store: Store):  # noqa: F811
    files = StoreFiles(store, "the store")
    for number in range(MERGE_FILES + 2):
        claim(files, ANN, [f"{number:02d}", "00"])
    claim(files, BOB, ["00"])
    claim(files, BOB, [])
    count = len(files.list())
    claim(files, BOB, ["00"])
    assert len(files.list()) == count <= MERGE_FILES
    assert named(files) == {ANN.id: {f"{number:02d}" for number in range(MERGE_FILES + 2)}, BOB.id: {"00"}}
    assert {ledger.owner for ledger in read_ledgers(files).values()} == {ANN, BOB}


def test_a_writer_waits_for_gc_and_then_writes_again_what_that_dropped(store: Store):  # noqa: F811
    files, waited = StoreFiles(store, "the store"), []
    claim(files, ANN, ["kept", "old"])
    with collecting(files, ANN) as found:
        with pytest.raises(EvergreenError, match="at this moment"), collecting(files, BOB):
            pass

        def end_gc(seconds: float) -> None:
            waited.append(seconds)
            found.keep_alive()
            found.replace({"kept"})
            found.end()

        claim(files, ANN, ["old"], pause=end_gc)
    assert len(waited) == 1
    assert named(files) == {ANN.id: {"kept", "old"}}
    with collecting(files, ANN), pytest.raises(EvergreenError, match=r"/home/ann/project on one .* has been deleting"):
        claim(files, BOB, ["new"], wait=-1)
    assert named(files)[BOB.id] == {"new"}  # named before it waits, so the gc that comes second sees it


def test_gc_that_was_taken_for_dead_deletes_nothing_more(local, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    files = StoreFiles(local, "the store")
    with collecting(files, ANN) as found:
        found.keep_alive()
        monkeypatch.setattr("tasks.storage.ledgers.RENEW", -1.0)
        found.keep_alive()
        files.remove(f"{ANN.id}/gc.json")
        with pytest.raises(EvergreenError, match="stood still"):
            found.keep_alive()


def test_only_silence_tells_that_a_gc_elsewhere_is_dead(local):  # noqa: F811
    files = StoreFiles(local, "the store")
    with collecting(files, ANN):
        here = files.read(f"{ANN.id}/gc.json")
    assert not is_stale(here, STALE - 1)
    about = json.loads(here)
    dead = json.dumps(about | {"process": about["process"] | {"pid": 2**22 + 1}}).encode()  # above Linux's largest
    assert is_stale(dead, 0)
    away = json.dumps(about | {"process": about["process"] | {"boot": "another machine", "pid": 2**22 + 1}}).encode()
    assert not is_stale(away, STALE - 1)
    assert is_stale(away, STALE + 1)
    assert not is_stale(b"half", STALE - 1)
    assert is_stale(b"half", STALE + 1)


@pytest.mark.parametrize("harm", [b"", b"{}", b'{"schema": 2, "names": []}'])
def test_a_damaged_ledger_is_an_error_that_names_it(local, harm: bytes):  # noqa: F811
    files = StoreFiles(local, "the store")
    claim(files, ANN, ["x"])
    (name,) = files.list()
    files.write(name, harm)
    with pytest.raises(EvergreenError, match=f"{name} in the store cannot be read .* nothing was removed"):
        read_ledgers(files)


def test_a_copy_of_a_project_is_another_checkout_and_a_moved_one_is_not(tmp_path: Path):
    import shutil

    first = tmp_path / "first"
    first.mkdir()
    owner = owner_of(first)
    assert owner_of(first) == owner
    copy = shutil.copytree(first, tmp_path / "copy")
    assert owner_of(copy).id != owner.id
    moved = first.rename(tmp_path / "moved")
    assert owner_of(moved).id == owner.id
