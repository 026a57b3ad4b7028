"""The release store: nothing half written, no promotion lost or duplicated, no damaged byte returned.

In a folder, on an S3 server with conditional writes, and on one without, for a single writer: the same tests.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import StoreParams
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.store import Pointer, PointerMoved, Releases, open_store, successor
from tasks.storage.blobs import Conflict, DiskFull, Store
from tasks.storage.local import LocalStore
from tasks.storage.places import open_blobs
from tests.support.checkout import ROOT
from tests.support.children import killed_at, start
from tests.support.s3_servers import credentials, moto, rclone  # noqa: F401  (fixtures)


def place(kind: str, tmp_path: Path, request) -> StoreParams:
    """An empty store of this kind as params.yaml would name it."""
    if kind == "local":
        return StoreParams(url=str(tmp_path / "store"))
    request.getfixturevalue("credentials")
    server = request.getfixturevalue(kind)
    url = f"s3://{server.bucket()}/some/team"
    return StoreParams(url=url, endpoint_url=server.endpoint, single_writer=not server.conditional)


def opened(params: StoreParams) -> Store:
    return open_blobs(params.url, Path("/"), store=params)


@pytest.fixture(params=["local", "moto", "rclone"])
def params(request, tmp_path: Path) -> StoreParams:
    return place(request.param, tmp_path, request)


@pytest.fixture(params=["local", "moto"])
def shared(request, tmp_path: Path) -> StoreParams:
    """A store for several writers at once."""
    return place(request.param, tmp_path, request)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def store(params: StoreParams) -> Store:
    return opened(params)


@pytest.fixture
def releases(store: Store) -> Releases:
    return Releases(store)


def overwrite(store: Store, key: str, data: bytes | None) -> None:
    """What no writer of ours would do: other bytes under `key`, or none."""
    if isinstance(store, LocalStore):
        (store.root / key).unlink()
        if data is not None:
            (store.root / key).write_bytes(data)
    elif data is None:
        store.bucket.s3.delete_object(Bucket=store.bucket.name, Key=store.bucket.prefix + key)
    else:
        store.bucket.s3.put_object(Bucket=store.bucket.name, Key=store.bucket.prefix + key, Body=data)


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


# primitives


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
    fill = f"exec {sys.executable} -c 'from tests.tasks.releases.test_store import fill; fill()'"
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


def promote_many(params: StoreParams, writer: int, count: int) -> None:
    releases = Releases(opened(params))
    for number in range(count):
        while True:
            try:
                releases.promote(after(releases.live(), f"v{writer}.{number}.0", f"run-{writer}"))
                break
            except PointerMoved:
                continue


def test_four_writers_lose_and_duplicate_nothing(shared: StoreParams):
    each = 25 if "://" not in shared.url else 8
    writers = [start(promote_many, shared, w, each) for w in range(4)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    releases = Releases(opened(shared))
    history = releases.history()
    assert [p.seq for p in history] == list(range(1, 4 * each + 1))
    assert sorted(p.version for p in history) == sorted(f"v{w}.{n}.0" for w in range(4) for n in range(each))
    assert [p.prev for p in history] == [None, *(p.version for p in history[:-1])]
    assert history[-1] == releases.live()


def promote_next(**params) -> None:
    releases = Releases(opened(StoreParams(**params)))
    releases.promote(after(releases.live(), "v0.2.0"))


def killed_promotions() -> list:
    points = {"local": ["store.temporary", "store.placed", "store.swapped"], "moto": ["store.swapped"]}
    return [pytest.param(kind, point, id=f"{kind}-{point}") for kind, found in points.items() for point in found]


@pytest.mark.parametrize(("kind", "failpoint"), killed_promotions())
def test_a_killed_promotion_happened_or_not_and_history_closes(kind: str, failpoint: str, tmp_path: Path, request):
    params = place(kind, tmp_path, request)
    releases = Releases(opened(params))
    first = releases.promote(after(None, "v0.1.0"))
    assert killed_at(failpoint, promote_next, **params.model_dump())
    live = releases.live()
    assert live.version == ("v0.1.0" if failpoint == "store.temporary" else "v0.2.0")
    assert [p.version for p in releases.history()] == ["v0.1.0", "v0.2.0"][: live.seq]  # before any repair
    third = releases.promote(after(live, "v0.3.0"))
    assert releases.promoted(1) == first
    assert releases.history()[-2:] == [live, third]
    assert [p.seq for p in releases.history()] == list(range(1, third.seq + 1))


def test_a_lost_or_unreadable_pointer_is_named_not_guessed(releases: Releases):
    first = releases.promote(after(None, "v0.1.0"))
    overwrite(releases.store, "champion.json", None)
    with pytest.raises(StoreDamaged, match=r"00000001\.json"):
        releases.promote(after(None, "v0.9.0"))
    recorded = releases.store.read("pointers/00000001.json")[0]
    releases.store.create("champion.json", b'{"seq": 1')
    with pytest.raises(StoreDamaged, match=r"champion\.json"):
        releases.live()
    overwrite(releases.store, "champion.json", recorded)  # what the message says
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
def test_damage_is_found_before_use_and_repaired_by_uploading_again(
    releases: Releases, tmp_path: Path, how: str, victim: str
):
    bundle = make_bundle(tmp_path / "bundle", model="weights")
    digest = releases.put_bundle(bundle)
    (key,) = releases.store.list(f"{victim}/")
    data = releases.store.read(key)[0]
    damaged = {"flip": bytes([data[0] ^ 1]) + data[1:], "truncate": data[:-1], "delete": None}
    overwrite(releases.store, key, damaged[how])
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
    with pytest.raises(StoreDamaged, match="not a file name inside"):
        releases.get_bundle(sha256_bytes(manifest), tmp_path / "deep" / "got")
    assert not any(p.name == "evil" for p in tmp_path.rglob("*"))


# runs and tombstones


def tombstone_many(params: StoreParams, writer: int) -> None:
    releases = Releases(opened(params))
    for number in range(10):
        releases.tombstone(f"b-{writer}-{number}", why="flipped labels", by=f"run-{writer}")
        releases.put_run(f"run-{writer}", {"outcome": "refused", "count": number})


def test_concurrent_tombstones_lose_nothing(shared: StoreParams):
    writers = [start(tombstone_many, shared, w) for w in range(4)]
    for writer in writers:
        writer.join()
    releases = Releases(opened(shared))
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


@pytest.mark.parametrize(
    "url", ["ftp://user:hidden@host/x", "s3://", "s3://Bucket/x", "s3://key:hidden@bucket/x", "s3://bucket/a/../b"]
)
def test_a_store_that_is_none_says_so_and_shows_no_secret(tmp_path: Path, url: str):
    with pytest.raises(EvergreenError, match=r"s3://bucket/prefix") as raised:
        open_store(StoreParams(url=url), tmp_path)
    assert "hidden" not in str(raised.value)
    endpoint = "https://user:hidden@s3.example.org"
    with pytest.raises(EvergreenError, match=r"store\.endpoint_url .*'https://s3\.example\.org'") as raised:
        open_store(StoreParams(url="s3://bucket/x", endpoint_url=endpoint), tmp_path)
    assert "hidden" not in str(raised.value)


def test_a_folder_that_cannot_be_opened_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvergreenError, match=r"cannot be opened.*store\.url"):
        open_store(StoreParams(url="file/store"), tmp_path)
