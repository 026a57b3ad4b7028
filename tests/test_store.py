"""The release store: nothing half written, no promotion lost or doubled, no damaged byte handed out."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.blobs import Conflict, LocalStore
from tasks.bundle_store import StoreDamaged
from tasks.errors import EvergreenError
from tasks.files import sha256_bytes, write_json
from tasks.params import StoreParams
from tasks.store import Pointer, PointerMoved, Releases, open_store, successor

HERE = Path(__file__).parent
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def releases(store: LocalStore) -> Releases:
    return Releases(store)


def make_bundle(folder: Path, **content: str) -> Path:
    """A tiny bundle: its files and MANIFEST.json as the bundle stage writes it."""
    folder.mkdir(parents=True)
    files = {}
    for name, text in content.items():
        (folder / name).write_text(text)
        files[name] = {"sha256": sha256_bytes(text.encode()), "bytes": len(text)}
    write_json(folder / "MANIFEST.json", {"files": files})
    return folder


def after(current: Pointer | None, version: str, run_id: str = "r") -> Pointer:
    return successor(
        current, version=version, run_id=run_id, git_rev="0" * 40, bundle="0" * 64, by="test", why="because"
    )


def in_child(call: str, failpoint: str = "") -> int:
    """Run `test_store.<call>` in a process of its own that dies at `failpoint`; its exit status."""
    env = {**os.environ, "EVERGREEN_FAILPOINT": failpoint, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    return subprocess.run([sys.executable, "-c", f"import test_store; test_store.{call}"], env=env).returncode


# primitives


def test_create_is_once_and_for_all(store: LocalStore, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"one")
    store.create("a/b", b"one")
    store.create("a/b", tmp_path / "file")  # the same content again
    with pytest.raises(Conflict):
        store.create("a/b", b"two")
    assert store.read("a/b")[0] == b"one"


def test_swap_only_replaces_what_was_read(store: LocalStore):
    first = store.swap("p", b"1", None)
    second = store.swap("p", b"2", first)
    for stale in (None, first):
        with pytest.raises(Conflict):
            store.swap("p", b"3", stale)
    assert store.read("p") == (b"2", second)
    assert store.read("q") is None


def test_list_shows_keys_and_nothing_else(store: LocalStore):
    for key in ("b/2", "b/1", "a", "bb"):
        store.create(key, b"x")
    assert list(store.list("b/")) == ["b/1", "b/2"]
    assert list(store.list("")) == ["a", "b/1", "b/2", "bb"]
    assert list(store.list("none/")) == []


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../x", "", "a//b", ".lock", "a/.hidden", "a\\b", "a b", "a\n", "a" * 600]
)
def test_no_key_leaves_the_store(store: LocalStore, key: str):
    for attempt in (lambda: store.create(key, b"x"), lambda: store.read(key), lambda: store.swap(key, b"x", None)):
        with pytest.raises(EvergreenError, match="cannot name anything"):
            attempt()


def test_links_inside_the_store_are_refused(store: LocalStore, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("s")
    (store.root / "objects").symlink_to(tmp_path / "outside")
    with pytest.raises(EvergreenError, match="is a link"):
        store.read("objects/secret")
    with pytest.raises(EvergreenError, match="is a link"):
        store.create("objects/new", b"x")
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["secret"]


def write_until_killed(root: str) -> None:
    LocalStore(Path(root)).create("objects/x", b"new")


@pytest.mark.parametrize(("failpoint", "there"), [("store.temporary", False), ("store.placed", True)])
def test_a_killed_write_is_whole_or_absent(store: LocalStore, failpoint: str, there: bool):
    assert in_child(f"write_until_killed({str(store.root)!r})", failpoint) == -signal.SIGKILL
    assert (store.read("objects/x") is not None) == there
    assert store.sweep() == (0 if there else 1)
    assert list((store.root / ".tmp").iterdir()) == []
    store.create("objects/x", b"new")  # the dead writer's lock blocks nobody


def test_sweep_leaves_the_files_of_living_writers(store: LocalStore):
    with store._temporary(b"in flight") as path:
        assert store.sweep() == 0
        assert path.read_bytes() == b"in flight"


# the pointer


def test_promotions_are_a_gapless_history(releases: Releases):
    assert releases.live() is None
    first = releases.promote(after(None, "v0.1.0"))
    second = releases.promote(after(first, "v0.2.0"))
    back = releases.promote(after(second, "v0.1.0"))  # a rollback is a new pointer forward
    assert releases.live() == back
    assert releases.history() == [first, second, back]
    assert [(p.seq, p.prev) for p in releases.history()] == [(1, None), (2, "v0.1.0"), (3, "v0.2.0")]
    assert first.at < second.at < back.at


def test_the_loser_of_a_race_learns_who_won(releases: Releases):
    first = releases.promote(after(None, "v0.1.0"))
    winner, loser = after(first, "v0.2.0", "run-a"), after(first, "v0.3.0", "run-b")
    releases.promote(winner)
    with pytest.raises(PointerMoved, match=r"v0\.2\.0 \(promotion 2, run run-a\)") as moved:
        releases.promote(loser)
    assert moved.value.current == winner
    assert releases.live() == winner
    releases.promote(after(winner, "v0.3.0", "run-b"))
    assert [p.version for p in releases.history()] == ["v0.1.0", "v0.2.0", "v0.3.0"]


class LosesReplies(LocalStore):
    """Commits every swap, then loses the reply; `meanwhile` happens before the caller can look."""

    meanwhile = staticmethod(lambda: None)

    def swap(self, key, content, expected):
        super().swap(key, content, expected)
        self.meanwhile()
        raise TimeoutError("no reply")


def test_a_lost_reply_is_resolved_by_reading_back(tmp_path: Path):
    store = LosesReplies(tmp_path)
    pointer = after(None, "v0.1.0")
    assert Releases(store).promote(pointer) == pointer
    other = Releases(LocalStore(tmp_path))
    second = after(pointer, "v0.2.0")
    store.meanwhile = lambda: other.promote(after(second, "v0.3.0"))
    assert Releases(store).promote(second) == second  # it was live, and is superseded already
    assert [p.version for p in other.history()] == ["v0.1.0", "v0.2.0", "v0.3.0"]


class NeverWrites(LocalStore):
    def swap(self, key, content, expected):
        raise TimeoutError("no reply")


def test_an_error_that_wrote_nothing_stays_an_error(tmp_path: Path):
    with pytest.raises(TimeoutError):
        Releases(NeverWrites(tmp_path)).promote(after(None, "v0.1.0"))
    assert Releases(LocalStore(tmp_path)).history() == []


def promote_many(root: str, writer: int, count: int) -> None:
    releases = Releases(LocalStore(Path(root)))
    for number in range(count):
        while True:
            try:
                releases.promote(after(releases.live(), f"v{writer}.{number}.0", f"run-{writer}"))
                break
            except PointerMoved:
                continue


def test_four_writers_lose_and_double_nothing(releases: Releases):
    writers = [SPAWN.Process(target=promote_many, args=(str(releases.store.root), w, 25)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    history = releases.history()
    assert [p.seq for p in history] == list(range(1, 101))
    assert sorted(p.version for p in history) == sorted(f"v{w}.{n}.0" for w in range(4) for n in range(25))
    assert [p.prev for p in history] == [None, *(p.version for p in history[:-1])]
    assert history[-1] == releases.live()


def promote_next(root: str) -> None:
    releases = Releases(LocalStore(Path(root)))
    releases.promote(after(releases.live(), "v0.2.0"))


@pytest.mark.parametrize("failpoint", ["store.temporary", "store.placed", "store.swapped"])
def test_a_killed_promotion_happened_or_not_and_history_closes(releases: Releases, failpoint: str):
    first = releases.promote(after(None, "v0.1.0"))
    assert in_child(f"promote_next({str(releases.store.root)!r})", failpoint) == -signal.SIGKILL
    live = releases.live()
    assert live.version == ("v0.1.0" if failpoint == "store.temporary" else "v0.2.0")
    assert [p.version for p in releases.history()] == ["v0.1.0", "v0.2.0"][: live.seq]  # before any repair
    third = releases.promote(after(live, "v0.3.0"))
    assert releases.promoted(1) == first
    assert releases.history()[-2:] == [live, third]
    assert [p.seq for p in releases.history()] == list(range(1, third.seq + 1))


def test_a_lost_or_unreadable_pointer_is_named_not_guessed(releases: Releases):
    first = releases.promote(after(None, "v0.1.0"))
    champion = releases.store.root / "champion.json"
    champion.unlink()
    with pytest.raises(StoreDamaged, match=r"00000001\.json"):
        releases.promote(after(None, "v0.9.0"))
    champion.write_text('{"seq": 1')
    with pytest.raises(StoreDamaged, match=r"champion\.json"):
        releases.live()
    champion.write_bytes((releases.store.root / "pointers/00000001.json").read_bytes())  # what the message says
    assert releases.live() == first


# bundles


def test_a_bundle_comes_back_byte_for_byte(releases: Releases, tmp_path: Path):
    bundle = make_bundle(tmp_path / "bundle", **{"model.onnx": "weights", "bundle.json": "{}"})
    digest = releases.put_bundle(bundle)
    assert digest == sha256_bytes((bundle / "MANIFEST.json").read_bytes())
    assert releases.put_bundle(bundle) == digest
    releases.audit_bundle(digest)
    got = releases.get_bundle(digest, tmp_path / "got")
    assert {p.name: p.read_bytes() for p in got.iterdir()} == {p.name: p.read_bytes() for p in bundle.iterdir()}


def test_bundles_share_their_common_files(releases: Releases, tmp_path: Path):
    releases.put_bundle(make_bundle(tmp_path / "a", backbone="same", head="1"))
    releases.put_bundle(make_bundle(tmp_path / "b", backbone="same", head="2"))
    assert len(list(releases.store.list("objects/"))) == 3


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("victim", ["objects", "bundles"])
def test_damage_is_found_before_use_and_mended_by_uploading_again(
    releases: Releases, tmp_path: Path, how: str, victim: str
):
    bundle = make_bundle(tmp_path / "bundle", model="weights")
    digest = releases.put_bundle(bundle)
    (file,) = (releases.store.root / victim).iterdir()
    data = file.read_bytes()
    file.unlink()
    if how != "delete":
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:] if how == "flip" else data[:-1])
    key = f"{victim}/{file.name}"
    with pytest.raises(StoreDamaged, match=key):
        releases.audit_bundle(digest)
    with pytest.raises(StoreDamaged, match=key):
        releases.get_bundle(digest, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert releases.put_bundle(bundle) == digest
    releases.audit_bundle(digest)
    assert (releases.get_bundle(digest, tmp_path / "got") / "model").read_text() == "weights"


def test_a_damaged_restored_copy_is_replaced(releases: Releases, tmp_path: Path):
    digest = releases.put_bundle(make_bundle(tmp_path / "bundle", model="weights"))
    got = releases.get_bundle(digest, tmp_path / "got")
    (got / "model").write_text("Weights")
    assert (releases.get_bundle(digest, got) / "model").read_text() == "weights"


def test_a_bundle_that_is_not_its_manifest_is_not_uploaded(releases: Releases, tmp_path: Path):
    bundle = make_bundle(tmp_path / "bundle", model="weights")
    (bundle / "model").write_text("other")
    with pytest.raises(EvergreenError, match="is not what MANIFEST"):
        releases.put_bundle(bundle)
    assert list(releases.store.list("bundles/")) == []
    with pytest.raises(EvergreenError, match="holds no bundle"):
        releases.put_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "MANIFEST.json", "."])
def test_a_manifest_cannot_write_outside_its_folder(releases: Releases, tmp_path: Path, name: str):
    digest = sha256_bytes(b"evil")
    releases.store.create(f"objects/{digest}", b"evil")
    manifest = json.dumps({"files": {name: {"sha256": digest, "bytes": 4}}}).encode()
    releases.store.create(f"bundles/{sha256_bytes(manifest)}.json", manifest)
    with pytest.raises(StoreDamaged, match="no file name beneath"):
        releases.get_bundle(sha256_bytes(manifest), tmp_path / "deep" / "got")
    assert not any(p.name == "evil" for p in tmp_path.rglob("*"))


# runs and tombstones


def tombstone_many(root: str, writer: int) -> None:
    releases = Releases(LocalStore(Path(root)))
    for number in range(10):
        releases.tombstone(f"b-{writer}-{number}", why="flipped labels", by=f"run-{writer}")
        releases.put_run(f"run-{writer}", {"outcome": "refused", "count": number})


def test_concurrent_tombstones_lose_nothing(releases: Releases):
    writers = [SPAWN.Process(target=tombstone_many, args=(str(releases.store.root), w)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(releases.tombstones()) == {f"b-{w}-{n}" for w in range(4) for n in range(10)}
    assert releases.runs() == {f"run-{w}": {"outcome": "refused", "count": 9} for w in range(4)}


def test_a_tombstone_keeps_its_first_reason_and_can_be_lifted(releases: Releases):
    assert releases.tombstones() == {}
    releases.tombstone("b-1", why="flipped", by="ann")
    releases.tombstone("b-1", why="again", by="bob")
    releases.tombstone("b-2", why="blurred", by="ann")
    assert {batch: about["why"] for batch, about in releases.tombstones().items()} == {
        "b-1": "flipped",
        "b-2": "blurred",
    }
    releases.untombstone("b-1")
    releases.untombstone("b-9")
    assert list(releases.tombstones()) == ["b-2"]


def test_a_run_id_cannot_leave_the_store(releases: Releases):
    with pytest.raises(EvergreenError, match="cannot name anything"):
        releases.put_run("../../x", {})


# opening


def test_every_worktree_opens_the_same_store(tmp_path: Path):
    main, tree = tmp_path / "main", tmp_path / "tree"
    (main / ".git/worktrees/t").mkdir(parents=True)
    (main / ".git/worktrees/t/commondir").write_text("../..\n")
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {main}/.git/worktrees/t\n")
    open_store(StoreParams(), tree).tombstone("b-1", why="w", by="b")
    assert "b-1" in open_store(StoreParams(), main).tombstones()
    assert (main / ".evergreen/releases/tombstones.json").is_file()


def test_a_store_that_cannot_be_opened_says_so(tmp_path: Path):
    with pytest.raises(EvergreenError, match=r"store\.url"):
        open_store(StoreParams(url="s3://bucket/x"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvergreenError, match="cannot be opened"):
        open_store(StoreParams(url="file/store"), tmp_path)
