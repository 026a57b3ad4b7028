"""Every store keeps the contract of tasks.storage.blobs: nothing half written, no key outside of the store.

In a folder, on an S3 server with conditional writes, and on one without, for a single writer: the same tests.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.params import StoreParams
from tasks.storage.blobs import Conflict, DiskFull, Store
from tasks.storage.local import LocalStore
from tests.support.checkout import ROOT
from tests.support.children import killed_at
from tests.support.stores import opened


def test_create_is_once_and_for_all(store: Store, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"one")
    store.create("a/b", b"one")
    store.create("a/b", tmp_path / "file")  # the same content again
    with pytest.raises(Conflict):
        store.create("a/b", b"two")
    assert store.read("a/b")[0] == b"one"


def test_swap_only_replaces_what_was_read(store: Store):
    first = store.swap("p", b"1", None)
    second = store.swap("p", b"2", first)
    for stale in (None, first):
        with pytest.raises(Conflict):
            store.swap("p", b"3", stale)
    assert store.read("p") == (b"2", second)
    assert store.read("q") is None


def test_list_shows_keys_and_nothing_else(store: Store):
    for key in ("b/2", "b/1", "a", "bb"):
        store.create(key, b"x")
    assert list(store.list("b/")) == ["b/1", "b/2"]
    assert list(store.list("")) == ["a", "b/1", "b/2", "bb"]
    assert list(store.list("none/")) == []


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../x", "", "a//b", ".lock", "a/.hidden", "a\\b", "a b", "a\n", "a" * 600]
)
def test_no_key_leaves_the_store(local: LocalStore, key: str):
    # names are checked before a server is asked: a store at which none listens will do
    away = opened(StoreParams(url="s3://bucket/x", endpoint_url="http://127.0.0.1:9"))
    for attempt in (
        method
        for store in (local, away)
        for method in (
            lambda store=store: store.create(key, b"x"),
            lambda store=store: store.read(key),
            lambda store=store: store.swap(key, b"x", None),
            lambda store=store: store.remove(key),
        )
    ):
        with pytest.raises(EvergreenError, match="cannot name anything"):
            attempt()


def test_links_inside_the_store_are_refused(local: LocalStore, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("s")
    (local.root / "objects").symlink_to(tmp_path / "outside")
    with pytest.raises(EvergreenError, match="is a link"):
        local.read("objects/secret")
    with pytest.raises(EvergreenError, match="is a link"):
        local.create("objects/new", b"x")
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["secret"]


def write_until_killed(root: str) -> None:
    LocalStore(Path(root)).create("objects/x", b"new")


@pytest.mark.parametrize(("failpoint", "there"), [("store.temporary", False), ("store.placed", True)])
def test_a_killed_write_is_whole_or_absent(local: LocalStore, failpoint: str, there: bool):
    assert killed_at(failpoint, write_until_killed, str(local.root))
    assert (local.read("objects/x") is not None) == there
    assert local.sweep() == (0 if there else 1)
    assert list((local.root / ".tmp").iterdir()) == []
    local.create("objects/x", b"new")  # the dead writer's lock blocks no one


def test_sweep_leaves_the_files_of_living_writers(local: LocalStore):
    with local._temporary(b"in flight") as path:
        assert local.sweep() == 0
        assert path.read_bytes() == b"in flight"


def test_about_tells_size_and_time_and_remove_makes_absent(store: Store):
    store.create("a/b", b"four")
    size, at = store.about("a/b")
    assert size == 4
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    for _ in range(2):
        store.remove("a/b")
        assert store.read("a/b") is None
        assert store.open("a/b") is None
    store.create("a/b", b"another")
    assert store.read("a/b")[0] == b"another"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path):
    """In a namespace of its own the test mounts a real disk of 256 KB."""
    (tmp_path / "disk").mkdir()
    fill = f"exec {sys.executable} -c 'from tests.tasks.storage.test_store_contract import fill; fill()'"
    script = f"mount -t tmpfs -o size=256k none {tmp_path}/disk && {fill}"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "DISK": str(tmp_path / "disk")}
    command = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def fill() -> None:
    store = LocalStore(Path(os.environ["DISK"]) / "store")
    token = store.swap("champion.json", b"old", None)
    for write in (
        lambda: store.create("objects/x", b"x" * 300_000),
        lambda: store.swap("champion.json", b"x" * 300_000, token),
    ):
        with pytest.raises(
            DiskFull, match=r"disk full \(disk_full\): writing 0\.3 MB under .*store failed, where 0\.\d MB"
        ):
            write()
    assert store.read("champion.json") == (b"old", token)
    assert list(store.list("")) == ["champion.json"]
    assert list((store.root / ".tmp").iterdir()) == []
    store.create("objects/x", b"x" * 30_000)
