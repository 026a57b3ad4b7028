"""Which model answers: the live one, a pinned one, and both while the release store is away."""

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.predictor.known import read_known
from flows.predictor.pin import pin
from flows.predictor.router import ProjectRouter
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.releases.rollout import Rollout, RolloutEnd, begin, finish, new_id
from tasks.releases.store import open_store
from tasks.releases.switches import (
    SwitchesDamaged,
    end_pin,
    predictor_dir,
    read_switches,
    sentences,
    set_humans_only,
    set_pin,
)
from tests.support.live_project import VERSION, make
from tests.support.second_release import put_bundle, release
from tests.support.small_project import CLASSES
from tests.support.waiting import until


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project with v0.1.0, then v0.2.0 live."""
    root = make(tmp_path_factory.mktemp("router"))
    release(root, CLASSES[1], "v0.2.0")
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "main")


def router(root: Path) -> ProjectRouter:
    return ProjectRouter(root, lambda: open_store(load_params(root / "params.yaml").store, root), every=0.05)


def answering(found: ProjectRouter) -> str:
    return found.choose("a key", "").model.version


def break_store(root: Path) -> Path:
    """As when the store is away: reading it is an error."""
    away = root.parent / "away"
    store = root / ".evergreen/releases"
    store.rename(away)
    store.write_text("a file where the folder was")
    return away


def mend_store(root: Path, away: Path) -> None:
    (root / ".evergreen/releases").unlink()
    away.rename(root / ".evergreen/releases")


def test_the_router_follows_the_pointer_in_the_background(root):
    found = router(root)
    assert answering(found) == "v0.2.0"
    assert found.models()["live"].version == "v0.2.0"
    found.start()
    release(root, CLASSES[2], "v0.3.0")
    until(lambda: answering(found) == "v0.3.0", 60)
    assert read_known(root).live == "v0.3.0"
    found.close()


def test_a_pinned_version_answers_until_it_is_unpinned(root, capsys):
    found = router(root)
    pin(root, VERSION, "ann", "v0.2.0 sees bags everywhere")
    assert answering(found) == "v0.2.0", "until the next look"
    found.look_at_switches()
    assert answering(found) == VERSION
    release(root, CLASSES[2], "v0.3.0")
    found.look_at_store()
    assert (answering(found), found.state.live.version) == (VERSION, "v0.3.0")
    assert answering(router(root)) == VERSION, "a restarted worker, too"
    assert "v0.1.0 is pinned" in sentences(read_switches(root))[0]
    assert end_pin(root, "ann").version == VERSION
    assert end_pin(root, "ann") is None
    found.look_at_switches()
    assert answering(found) == "v0.3.0"
    assert [one.what for one in read_switches(root).history] == ["pin v0.1.0", "unpin v0.1.0"]


def test_with_switches_of_a_newer_version_what_held_goes_on(root):
    found = router(root)
    (predictor_dir(root) / "switches.json").write_text('{"schema": 99}')
    with pytest.raises(SwitchesDamaged, match="newer"):
        read_switches(root)
    found.look_at_switches()  # in a thread that has to go on
    assert not found.choose(None, "").humans_only
    assert router(root).choose(None, "").humans_only, "a restarted worker cannot know"


def test_an_unknown_version_is_refused_with_those_that_exist(root):
    with pytest.raises(EvergreenError, match=r"v9.9.9 was never live: .* v0.1.0, v0.2.0"):
        pin(root, "v9.9.9", "ann")


def test_people_look_at_every_answer_while_humans_only_is_on(root):
    found = router(root)
    assert not found.choose(None, "").humans_only
    assert set_humans_only(root, True, "ann", "a new camera") is None
    assert set_humans_only(root, True, "bob").by == "ann", "who switched it on first stays"
    found.look_at_switches()
    assert found.choose(None, "").humans_only
    assert "a new camera" in sentences(read_switches(root))[0]
    assert set_humans_only(root, False, "bob").by == "ann"
    found.look_at_switches()
    assert not found.choose(None, "").humans_only
    assert sentences(read_switches(root)) == []


def test_with_the_store_away_it_starts_pins_and_unpins_what_it_had_loaded(root, caplog):
    router(root)  # v0.2.0 was live here once
    pin(root, VERSION, "ann")
    end_pin(root, "ann")
    away = break_store(root)
    with caplog.at_level(logging.WARNING):
        found = router(root)
        found.look_at_store()
        found.look_at_store()
    assert answering(found) == "v0.2.0"
    assert len([one for one in caplog.messages if "v0.2.0 keeps answering" in one]) == 1, "said once"
    assert found.problems
    said = []
    pin(root, VERSION, "ann", say=said.append)
    assert "cannot be read" in said[0]
    found.look_at_switches()
    assert answering(found) == VERSION
    end_pin(root, "ann")
    with pytest.raises(EvergreenError, match=r"never loaded on this machine: versions that can be pinned now: v0\.\d"):
        pin(root, "v0.3.0", "ann")
    mend_store(root, away)
    release(root, CLASSES[2], "v0.3.0")
    found.look_at_switches()
    found.look_at_store()
    assert answering(found) == "v0.3.0"
    assert found.problems == []


def test_an_empty_folder_where_the_store_was_counts_as_away(root):
    """A mount that is gone leaves one: the store is readable, and holds nothing."""
    found = router(root)
    pin(root, VERSION, "ann")
    end_pin(root, "ann")
    store = root / ".evergreen/releases"
    store.rename(root.parent / "away")
    store.mkdir()
    found.look_at_store()
    assert "v0.2.0 keeps answering: the release store is empty" in found.problems[0]
    restarted = router(root)
    assert answering(restarted) == "v0.2.0"
    assert restarted.problems
    said = []
    pin(root, VERSION, "ann", say=said.append)
    assert "it is empty" in said[0]


def test_without_store_and_cache_the_start_fails_with_the_reason(root):
    shutil.rmtree(root / ".evergreen/cache", ignore_errors=True)
    break_store(root)
    with pytest.raises(Exception, match="releases"):
        router(root)


def test_a_pinned_bundle_that_is_missing_here_is_fetched(root):
    bundle = pin(root, VERSION, "ann").bundle
    shutil.rmtree(root / ".evergreen/cache/bundles" / bundle)
    found = router(root)  # looks at the switches, then at the store
    assert answering(found) == "v0.2.0"
    assert "cannot be loaded" in found.problems[0]
    found.look_at_switches()
    assert answering(found) == VERSION
    assert found.problems == []


def rollout_of(root: Path, strategy: str, version: str = "v0.3.0", **changes) -> Rollout:
    """Publish the bundle of `version` as a challenger of the live v0.2.0."""
    releases = open_store(load_params(root / "params.yaml").store, root)
    live, now = releases.live(), datetime.now(UTC)
    about = {"champion": live.version, "champion_bundle": live.bundle, "champion_seq": live.seq, "steps": (0.0,)}
    about |= {"run_id": "r-3", "version": version, "bundle": put_bundle(root, CLASSES[2], version)[0]}
    about |= {"since": now, "step_since": now, "by": "ann", "why": "the gate promotes it", "id": new_id(now)}
    return begin(releases, Rollout(**about | {"strategy": strategy} | changes))


def test_a_shadow_answers_unseen_and_a_canary_its_share_by_key(root):
    found = router(root)
    shadow = rollout_of(root, "shadow")
    found.look_at_store()
    choice = found.choose("a key", "")
    assert (choice.model.version, choice.role, choice.shadow.version) == ("v0.2.0", "live", "v0.3.0")
    assert set(found.models()) == {"live", "shadow"}
    releases = open_store(load_params(root / "params.yaml").store, root)
    finish(releases, shadow, RolloutEnd(how="stopped", at=shadow.since, by="ann", why="enough"))
    canary = rollout_of(root, "canary", steps=(0.25, 0.5))
    found.look_at_store()
    keys = [f"part {number}" for number in range(400)]
    chosen = [found.choose(key, "") for key in keys]
    assert [one.role for one in chosen] == [canary.arm(key) for key in keys], "sticky, and the same in every process"
    assert 60 < sum(one.model.version == "v0.3.0" for one in chosen) < 140
    assert all(one.shadow is None for one in chosen)
    assert found.choose(None, "digest").role == canary.arm("digest"), "without a key by content"
    pin(root, VERSION, "ann")
    found.look_at_switches()
    assert {answering(found)} == {found.choose(key, "").model.version for key in keys} == {VERSION}
    end_pin(root, "ann")
    release(root, CLASSES[0], "v0.4.0")  # somebody publishes another model: the rollout is about a champion of old
    found.look_at_switches()
    found.look_at_store()
    assert {found.choose(key, "").model.version for key in keys} == {"v0.4.0"}
    assert found.state.challenger is None, "its memory is free again"


def test_damaged_switches_never_switch_anything_off(root):
    found = router(root)
    set_pin(root, VERSION, pin(root, VERSION, "ann").bundle, "ann")
    found.look_at_switches()
    file = root / ".evergreen/predictor/switches.json"
    whole = file.read_bytes()
    for content in (b"", b"[]", b'{"schema": 1, "pin": 7}', whole[:40], b'{"schema": 1, "pim": null}'):
        file.write_bytes(content)
        with pytest.raises(SwitchesDamaged, match=r"Delete the file"):
            read_switches(root)
        found.look_at_switches()
        assert answering(found) == VERSION, "what was read last holds"
        assert "switches.json" in found.problems[0]
    fresh = router(root)
    assert fresh.choose(None, "").humans_only, "a worker that starts lets people look"
    file.unlink()
    fresh.look_at_switches()
    assert not fresh.choose(None, "").humans_only


def test_switches_of_a_newer_version_are_refused(root):
    file = root / ".evergreen/predictor/switches.json"
    set_humans_only(root, True, "ann")
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(EvergreenError, match="newer"):
        read_switches(root)


def test_a_damaged_list_of_versions_is_made_again(root):
    found = router(root)
    (root / ".evergreen/predictor/versions.json").write_text('{"schema": 1, "live": "v7", "versions": {}}')
    assert read_known(root).versions == {}
    found.look_at_store()
    assert read_known(root).live == "v0.2.0"
