"""Every reader finds an altered pointer: every flipped bit, and edits that are valid JSON."""

import json
from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.releases.pointer import Pointer, broken_link, decode, encode, successor
from tasks.releases.store import Releases, StoreDamaged
from tasks.storage.local import LocalStore

LIVE = "champion.json"


def promote(releases: Releases, version: str) -> Pointer:
    about = {"run_id": f"run-{version}", "git_rev": "a" * 40, "bundle": "b" * 64, "by": "ann", "why": "it is better"}
    return releases.promote(successor(releases.live(), version=version, **about))


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    found = Releases(LocalStore(tmp_path))
    for number in (1, 2, 3):
        promote(found, f"v0.{number}.0")
    return found


def file(releases: Releases, key: str) -> Path:
    return Path(releases.store.root) / key


def put(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def edited(content: bytes, **changes) -> bytes:
    return (json.dumps(json.loads(content) | changes, indent=2, sort_keys=True) + "\n").encode()


def test_every_flipped_bit_of_the_live_pointer_is_found(releases):
    path, missed = file(releases, LIVE), []
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        try:
            decode(bytes(content), LIVE)  # alone, without its record
            missed.append(place)
        except EvergreenError:
            pass
    assert missed == []


@pytest.mark.parametrize("change", [{"version": "v0.1.0"}, {"bundle": "c" * 64}, {"git_rev": "d" * 40}, {"seq": 4}])
def test_an_edited_pointer_with_a_digest_of_its_own_is_not_believed(releases, change):
    """A person who edits it can also write its digest: the record of the same promotion says otherwise."""
    path = file(releases, LIVE)
    forged = decode(path.read_bytes(), LIVE).model_copy(update=change | {"digest": None})
    content = encode(forged)
    forged = forged.model_copy(update={"digest": sha256_bytes(content)})
    put(path, encode(forged))
    assert decode(path.read_bytes(), LIVE) == forged
    with pytest.raises(StoreDamaged, match=r"differ in|does not continue pointers/"):
        releases.live()
    with pytest.raises(StoreDamaged):
        promote(releases, "v0.4.0")


def test_pointers_of_the_first_schema_are_compared_with_their_record(tmp_path):
    releases = Releases(LocalStore(tmp_path))
    old = Pointer(
        **{"schema": 1, "seq": 1, "uid": "0" * 32, "version": "v0.1.0", "run_id": "r", "prev": None},
        **{"git_rev": "a" * 40, "bundle": "b" * 64, "at": "2026-11-21T12:00:00Z", "by": "ann", "why": "first"},
    )
    assert "digest" not in json.loads(encode(old))
    releases.store.create("pointers/00000001.json", encode(old))
    releases.store.create(LIVE, encode(old))
    assert releases.live() == old
    put(tmp_path / LIVE, edited(encode(old), bundle="c" * 64))
    with pytest.raises(StoreDamaged, match="differ in bundle"):
        releases.live()
    put(tmp_path / LIVE, encode(old))
    second = promote(releases, "v0.2.0")
    put(tmp_path / "pointers/00000001.json", edited(encode(old), why="another reason"))
    with pytest.raises(StoreDamaged, match=r"promotion 1 is not the one that promotion 2 replaced"):
        releases.history()
    assert releases.live() == second


def test_a_removed_pointer_is_not_taken_for_an_empty_store(releases):
    file(releases, LIVE).unlink()
    with pytest.raises(StoreDamaged, match=r"champion\.json is missing .* pointers/00000003\.json is there"):
        releases.live()


def test_a_pointer_without_record_must_continue_the_recorded_ones(releases):
    file(releases, "pointers/00000003.json").unlink()  # as a kill right after the swap leaves it
    assert releases.live().seq == 3
    assert [pointer.seq for pointer in releases.history()] == [1, 2, 3]
    file(releases, "pointers/00000002.json").unlink()
    with pytest.raises(StoreDamaged, match=r"pointers/00000002\.json is missing"):
        releases.live()


def test_links_of_the_chain(releases):
    first, second, third = releases.history()
    assert broken_link(first, second) is None
    assert broken_link(first, third) == "promotion 3 follows promotion 1"
    assert "digest differs" in broken_link(first.model_copy(update={"why": "edited"}), second)
    assert "replaced v0.1.0" in broken_link(first.model_copy(update={"version": "v0.9.0"}), second)
