"""The release store: no promotion or tombstone lost or duplicated, in every kind of store."""

from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.params import StoreParams
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.pointer import Pointer, successor
from tasks.releases.store import PointerMoved, Releases, open_store
from tasks.storage.local import LocalStore
from tests.support.children import killed_at, start
from tests.support.stores import opened, overwrite, place


def after(current: Pointer | None, version: str, run_id: str = "r") -> Pointer:
    return successor(
        current, version=version, run_id=run_id, git_rev="0" * 40, bundle="0" * 64, by="test", why="because"
    )


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
    releases.untombstone("b-1", why="the labels are right", by="cid")
    releases.untombstone("b-9", why="never was", by="cid")
    assert list(releases.tombstones()) == ["b-2"]
    ((batch, (lifted,)),) = releases.lifted().items()
    assert (batch, lifted["why"], lifted["by"]) == ("b-1", "flipped", "ann")
    assert (lifted["lifted"]["why"], lifted["lifted"]["by"]) == ("the labels are right", "cid")
    releases.tombstone("b-1", why="blurred after all", by="ann")
    releases.untombstone("b-1", why="no", by="bob")
    assert [one["lifted"]["by"] for one in releases.lifted()["b-1"]] == ["cid", "bob"]


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
