"""S3 in practice: lost replies, faster writers, broken connections, missing rights, on two real servers."""

import os
import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.releases.pointer import Pointer, successor
from tasks.releases.store import PointerMoved, Releases
from tasks.storage import s3_store
from tasks.storage.blobs import Conflict
from tasks.storage.s3_errors import S3Error
from tasks.storage.s3_store import S3Store
from tests.support.children import killed_at
from tests.support.s3_proxy import BUSY, CUT, FAIL, LOSE, PASS, Proxy, proxied
from tests.support.s3_servers import KEY, SECRET, Server, credentials, moto, rclone  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("credentials")
MB = 1 << 20


@pytest.fixture
def proxy(moto: Server) -> Proxy:  # noqa: F811
    with proxied(moto.endpoint) as proxy:
        yield proxy


@pytest.fixture
def pair(moto: Server, proxy: Proxy) -> tuple[S3Store, S3Store]:  # noqa: F811
    """The same store, through the proxy and directly; both have been probed."""
    url = f"s3://{moto.bucket()}/team"
    far, near = S3Store(url, endpoint_url=proxy.endpoint), S3Store(url, endpoint_url=moto.endpoint)
    far.sweep()
    near.sweep()
    proxy.seen.clear()
    return far, near


@pytest.fixture(params=["moto", "rclone"])
def server(request) -> Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(server: Server) -> S3Store:
    return S3Store(f"s3://{server.bucket()}/team", endpoint_url=server.endpoint, single_writer=not server.conditional)


def first_write(key: str, action: str, meanwhile=lambda: None):
    """A rule: the first write of `key` meets `action`, and `meanwhile` happens just before."""
    left = [action]

    def rule(request) -> str:
        if not request.writes(key) or not left:
            return PASS
        meanwhile()
        return left.pop()

    return rule


def writes(proxy: Proxy, key: str) -> int:
    return sum(request.writes(key) for request in proxy.seen)


def after(current: Pointer | None, version: str, run_id: str = "r") -> Pointer:
    return successor(
        current, version=version, run_id=run_id, git_rev="0" * 40, bundle="0" * 64, by="test", why="because"
    )


# conditional writes and lost replies


@pytest.mark.parametrize("key", ["created", "swapped"])
def test_a_write_whose_reply_is_lost_stands(pair, proxy: Proxy, key: str):
    far, near = pair
    proxy.rule = first_write(key, LOSE)
    if key == "created":
        far.create(key, b"mine")
    else:
        assert far.swap(key, b"mine", None) == near.read(key)[1]
    assert near.read(key)[0] == b"mine"
    assert writes(proxy, key) == 2  # boto3 asked again, was told 412, and the object said whose it is


def test_a_write_overtaken_on_its_way_is_refused(pair, proxy: Proxy):
    far, near = pair
    token = near.swap("p", b"1", None)
    proxy.rule = first_write("p", PASS, lambda: near.swap("p", b"theirs", token))
    with pytest.raises(Conflict):
        far.swap("p", b"mine", token)
    proxy.rule = first_write("q", PASS, lambda: near.create("q", b"theirs"))
    with pytest.raises(Conflict):
        far.create("q", b"mine")
    proxy.rule = first_write("r", PASS, lambda: near.create("r", b"same"))
    far.create("r", b"same")
    proxy.rule = first_write("p", PASS, lambda: near.remove("p"))
    with pytest.raises(Conflict):
        far.swap("p", b"mine", near.read("p")[1])
    assert [near.read(key) and near.read(key)[0] for key in "pqr"] == [None, b"theirs", b"same"]


def test_a_promotion_lost_on_its_way_back_and_superseded_is_still_known(pair, proxy: Proxy):
    far, near = pair
    first = Releases(near).promote(after(None, "v0.1.0"))
    second = after(first, "v0.2.0")
    sent = []

    def rule(request) -> str:
        if not request.writes("champion.json"):
            return PASS
        if sent:  # the request boto3 repeats: by now another run has read our pointer and replaced it
            Releases(near).promote(after(Releases(near).live(), "v0.3.0"))
        sent.append(request)
        return LOSE if len(sent) == 1 else PASS

    proxy.rule = rule
    assert Releases(far).promote(second) == second
    assert len(sent) == 2
    assert [p.version for p in Releases(near).history()] == ["v0.1.0", "v0.2.0", "v0.3.0"]


def test_busy_is_asked_again_and_trouble_is_an_error_that_wrote_nothing(pair, proxy: Proxy):
    far, near = pair
    proxy.rule = first_write("p", BUSY)
    far.swap("p", b"1", None)
    assert near.read("p")[0] == b"1"
    proxy.rule = lambda request: FAIL if request.writes("q") else PASS
    with pytest.raises(S3Error, match=r"writing s3://.*/team/q failed: .* fails or is overloaded \(SlowDown\)"):
        far.create("q", b"1")
    assert near.read("q") is None


@pytest.mark.parametrize("seed", [1, 2])
def test_two_writers_over_a_bad_network_promote_each_version_once(pair, proxy: Proxy, seed: int):
    """A failure can be replayed from its seed, apart from the order of threads."""
    far, near = pair
    draw, lock = random.Random(seed), threading.Lock()

    def rule(request) -> str:
        with lock:
            luck = draw.random()
        faults = ((0.03, FAIL), (0.06, LOSE), (0.09, CUT if request.method == "GET" else LOSE))
        return next((action for bound, action in faults if luck < bound), PASS)

    def promote(writer: int) -> None:
        releases = Releases(S3Store(f"s3://{far.bucket.name}/team", endpoint_url=proxy.endpoint))
        for number in range(5):
            while True:
                try:
                    releases.promote(after(releases.live(), f"v{writer}.{number}.0"))
                    break
                except PointerMoved:
                    continue

    proxy.rule = rule
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(promote, range(2)))
    history = Releases(near).history()
    assert [p.seq for p in history] == list(range(1, 11))
    assert sorted(p.version for p in history) == sorted(f"v{w}.{n}.0" for w in range(2) for n in range(5))


# the probe


def test_a_server_without_conditional_writes_is_refused_before_anything_is_written(rclone: Server):  # noqa: F811
    bucket = rclone.bucket()
    store = S3Store(f"s3://{bucket}/team", endpoint_url=rclone.endpoint)
    for write in (store.sweep, lambda: store.create("a", b"1"), lambda: store.swap("a", b"1", None)):
        with pytest.raises(S3Error, match=r"ignores conditional writes .*store\.single_writer: true"):
            write()
    assert store.read("a") is None
    assert [path for path in (rclone.folder / bucket).rglob("*") if path.is_file()] == []


def test_the_probe_is_made_once_for_a_bucket_and_leaves_nothing(moto: Server, proxy: Proxy):  # noqa: F811
    bucket = moto.bucket()
    for name in ("one", "two"):
        S3Store(f"s3://{bucket}/{name}", endpoint_url=proxy.endpoint).create("key", b"1")
    assert len({request.path for request in proxy.seen if ".probe/" in request.path}) == 1
    assert [e["Key"] for e in moto.client().list_objects_v2(Bucket=bucket)["Contents"]] == ["one/key", "two/key"]


def test_reading_needs_no_right_to_write(moto: Server, proxy: Proxy):  # noqa: F811
    store = S3Store(f"s3://{moto.bucket()}", endpoint_url=proxy.endpoint)
    assert store.read("a") is None
    assert list(store.list("")) == []
    assert {request.method for request in proxy.seen} == {"GET"}


# large files, broken readings, many keys


def test_a_large_file_goes_in_parts_and_comes_back_with_bounded_memory(store: S3Store, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(s3_store, "PART", 5 * MB)
    (tmp_path / "large").write_bytes(data := os.urandom(31 * MB))
    store.sweep()
    tracemalloc.start()
    store.create("objects/large", tmp_path / "large")
    store.create("objects/large", tmp_path / "large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * s3_store.PART
    assert store.read("objects/large")[0] == data
    assert store.about("objects/large")[0] == len(data)
    (tmp_path / "large").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Conflict):
        store.create("objects/large", tmp_path / "large")


def test_a_large_file_whose_last_reply_is_lost_stands(pair, proxy: Proxy, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(s3_store, "PART", 5 * MB)
    far, near = pair
    (tmp_path / "large").write_bytes(data := os.urandom(6 * MB))
    lost = []

    def rule(request) -> str:
        if request.method == "POST" and "uploadId=" in request.path and not lost:
            lost.append(request)
            return LOSE
        return PASS

    proxy.rule = rule
    far.create("large", tmp_path / "large")
    assert lost
    assert near.read("large")[0] == data


def upload_until_killed(url: str, endpoint: str, file: str) -> None:
    s3_store.PART = 5 * MB
    S3Store(url, endpoint_url=endpoint).create("objects/large", Path(file))


def test_what_a_killed_upload_leaves_is_invisible_and_swept(moto: Server, tmp_path: Path):  # noqa: F811
    (tmp_path / "large").write_bytes(os.urandom(6 * MB))
    store = S3Store(f"s3://{moto.bucket()}/team", endpoint_url=moto.endpoint)
    url = f"s3://{store.bucket.name}/team"
    assert killed_at("store.part", upload_until_killed, url, moto.endpoint, str(tmp_path / "large"))
    others = store.bucket.s3.create_multipart_upload(Bucket=store.bucket.name, Key="another-team/x")["UploadId"]
    assert list(store.list("")) == []
    assert store.sweep() == 1  # moto says of every upload that it began in 2010
    left = store.bucket.s3.list_multipart_uploads(Bucket=store.bucket.name)["Uploads"]
    assert [upload["UploadId"] for upload in left] == [others]


def test_an_upload_whose_writer_may_live_is_not_swept(rclone: Server, monkeypatch):  # noqa: F811
    store = S3Store(f"s3://{rclone.bucket()}/team", endpoint_url=rclone.endpoint, single_writer=True)
    store.bucket.s3.create_multipart_upload(Bucket=store.bucket.name, Key="team/x")
    assert store.sweep() == 0
    monkeypatch.setattr(s3_store, "STALE", timedelta(seconds=-60))
    assert store.sweep() == 1
    assert store.sweep() == 0


def test_a_reading_that_breaks_off_goes_on_where_it_was(pair, proxy: Proxy):
    far, near = pair
    near.create("objects/x", data := os.urandom(3 * MB))
    cuts = [CUT, CUT, CUT]
    proxy.rule = lambda request: cuts.pop() if cuts and request.method == "GET" else PASS
    with far.open("objects/x") as stream:
        assert b"".join(iter(lambda: stream.read(100_000), b"")) == data
    assert cuts == []
    assert [request.headers["Range"].partition("-")[0] for request in proxy.seen[1:]] == [
        f"bytes={len(data) * done // 8}" for done in (4, 6, 7)
    ]
    proxy.rule = lambda request: CUT
    with pytest.raises(S3Error, match=r"reading s3://.*/objects/x failed"):
        far.read("objects/x")


def test_what_is_replaced_while_its_reading_breaks_off_is_read_anew(pair, proxy: Proxy):
    """This can happen to the pointer when another run publishes."""
    far, near = pair
    old, new = os.urandom(3 * MB), os.urandom(2 * MB)
    near.create("p", old)

    def rule(request) -> str:
        if request.method == "GET" and "Range" in request.headers:
            if near.read("p")[0] == old:
                near.swap("p", new, sha256_bytes(old))
            return PASS
        return CUT if request.method == "GET" and near.read("p")[0] == old else PASS

    proxy.rule = rule
    assert far.read("p") == (new, sha256_bytes(new))
    near.swap("p", old, sha256_bytes(new))
    with pytest.raises(Conflict):
        far.swap("p", b"mine", sha256_bytes(old))
    near.swap("p", old, sha256_bytes(new))
    with pytest.raises(Conflict):
        far.create("p", old)
    near.swap("p", old, sha256_bytes(new))
    with far.open("p") as stream, pytest.raises(S3Error, match="was replaced or removed while it was being read"):
        stream.read()


@pytest.mark.long
def test_all_keys_are_listed_and_nothing_else(moto: Server):  # noqa: F811
    store = S3Store(f"s3://{moto.bucket()}/team", endpoint_url=moto.endpoint)
    names = [f"k/{number:04d}" for number in range(1005)]  # S3 gives 1,000 at once
    foreign = ["k/", "k/a b", "k/.hidden", "k//x", ".probe/x"]
    for name in names + foreign:
        store.bucket.s3.put_object(Bucket=store.bucket.name, Key=f"team/{name}", Body=b"")
    store.bucket.s3.put_object(Bucket=store.bucket.name, Key="team-b/k/1", Body=b"")
    assert list(store.list("k/")) == names
    assert list(store.list("")) == names


# errors


def attempts(store: S3Store) -> list:
    return [
        lambda: store.read("a"),
        lambda: list(store.list("")),
        lambda: store.create("a", b"1"),
        lambda: store.swap("a", b"1", None),
        lambda: store.remove("a"),
        store.sweep,
    ]


def expect(store: S3Store, message: str) -> None:
    for attempt in attempts(store):
        with pytest.raises(EvergreenError, match=message) as raised:
            attempt()
        assert SECRET not in str(raised.value)
        assert KEY not in str(raised.value)
        assert raised.value.__suppress_context__  # no traceback of boto3's, with its headers, is shown


def test_no_credentials(server: Server, monkeypatch):
    bucket = server.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    expect(S3Store(f"s3://{bucket}", endpoint_url=server.endpoint), "no usable credentials .*AWS_ACCESS_KEY_ID")


def test_wrong_credentials(rclone: Server, monkeypatch):  # noqa: F811
    bucket = rclone.bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    store = S3Store(f"s3://{bucket}", endpoint_url=rclone.endpoint, single_writer=True)
    expect(store, r"does not accept the credentials \(SignatureDoesNotMatch\)|forbids it")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    store = S3Store(f"s3://{bucket}", endpoint_url=rclone.endpoint, single_writer=True)
    expect(store, r"does not accept the credentials \(InvalidAccessKeyId\)|forbids it")


def test_no_such_profile(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(EvergreenError, match=r"no usable credentials .*ProfileNotFound"):
        S3Store("s3://bucket")


def test_no_such_bucket(server: Server):
    store = S3Store("s3://no-such-bucket/x", endpoint_url=server.endpoint, single_writer=not server.conditional)
    for attempt in attempts(store)[:4]:
        with pytest.raises(EvergreenError, match=r"there is no bucket 'no-such-bucket' at http://127.*create it"):
            attempt()


def test_a_server_that_is_not_there():
    store = S3Store("s3://bucket/x", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(EvergreenError, match=r"http://127\.0\.0\.1:9 does not answer .*store\.endpoint_url"):
        store.read("a")
