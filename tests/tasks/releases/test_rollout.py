"""A rollout in the release store: who answers what, steps in order, one at a time, an end that stays."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.common.errors import EvergreenError
from tasks.releases.arm_failures import Failures, count_failures, failures
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.rollout import (
    ROLLOUT,
    Rollout,
    RolloutEnd,
    RolloutMoved,
    active,
    advance,
    assigned,
    begin,
    finish,
    new_id,
    newest,
    rollouts,
)
from tasks.releases.store import Releases
from tasks.storage.local import LocalStore

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
END = RolloutEnd(how="rolled_back", at=NOW + HOUR, by="the monitor", why="it finds no bags")


def releases(folder) -> Releases:
    return Releases(LocalStore(folder))


def rollout(**changes) -> Rollout:
    about = {"version": "v0.2.0", "bundle": "b" * 64, "champion": "v0.1.0", "champion_bundle": "a" * 64}
    about |= {"id": new_id(NOW), "strategy": "canary", "run_id": "run-2", "champion_seq": 1, "steps": (0.05, 0.5)}
    return Rollout(**about | {"since": NOW, "step_since": NOW, "by": "ann", "why": "better on bags"} | changes)


def test_a_share_is_uniform_sticky_and_nested_and_differs_between_rollouts():
    keys = [f"order-{n}" for n in range(20_000)]
    few, many = ({key for key in keys if assigned(key, share, "one")} for share in (0.05, 0.25))
    assert abs(len(few) - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5
    assert few < many
    other = {key for key in keys if assigned(key, 0.05, "two")}
    assert len(few & other) < 100, "each rollout picks keys of its own"
    assert not any(assigned(key, 0.0, "one") for key in keys)
    assert all(assigned(key, 1.0, "one") for key in keys)
    assert assigned("a broken \ud800 name", 1.0, "one")


def test_the_arm_of_an_image(tmp_path):
    canary, shadow = rollout(), rollout(strategy="shadow", steps=(0.0,))
    arms = [canary.arm(f"key {n}") for n in range(1000)]
    assert 20 < arms.count("canary") < 90
    assert set(arms) == {"canary", "live"}
    assert shadow.arm("key") == "shadow"
    assert shadow.share == 0
    assert canary.model_copy(update={"ended": END}).arm("key 1") == "live"
    assert canary.fits("v0.1.0")
    assert not canary.fits("v0.2.0"), "it was compared with another champion"


def test_steps_follow_one_another_and_a_repeated_call_changes_nothing(tmp_path):
    store = releases(tmp_path)
    assert active(store) is None
    first = begin(store, rollout())
    assert begin(store, first) == active(store) == first
    assert first.sentence() == "v0.2.0 answers 5 % of the traffic (canary, step 1 of 2) since 2026-11-28 12:00 UTC"
    second = advance(store, first, by="the monitor", why="as good", now=NOW + HOUR)
    assert (second.step, second.share, second.step_since) == (1, 0.5, NOW + HOUR)
    assert [(end.share, end.why) for end in second.done] == [(0.05, "as good")]
    assert advance(store, first, by="another monitor", why="as good", now=NOW + 2 * HOUR) == second
    with pytest.raises(EvergreenError, match=r"step 2 of rollout .* is its last: promote v0\.2\.0"):
        advance(store, second, by="ann", why="go on")


def test_only_one_goes_on_and_the_first_end_stays(tmp_path):
    store = releases(tmp_path)
    first = begin(store, rollout())
    with pytest.raises(EvergreenError, match=r"a rollout goes on already: v0\.2\.0 answers 5 %"):
        begin(store, rollout(version="v0.3.0"))
    ended = finish(store, first, END)
    assert finish(store, first, END.model_copy(update={"how": "stopped"})) == ended
    assert active(store) is None
    assert newest(store) == ended
    assert ended.sentence() == "v0.2.0 was rolled back by the monitor, 2026-11-28 13:00 UTC: it finds no bags"
    with pytest.raises(RolloutMoved, match=r"meanwhile: v0\.2\.0 was rolled back"):
        advance(store, first, by="ann", why="too late")
    second = begin(store, rollout(version="v0.3.0", since=NOW + HOUR))
    assert rollouts(store) == [ended, second]
    with pytest.raises(RolloutMoved, match=r"has ended: v0\.3\.0 answers"):
        finish(store, first, END)


@pytest.mark.parametrize("content", [b"not JSON", b'{"schema": 9}', b'{"schema": 1}', b"[]"])
def test_a_state_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / ROLLOUT).write_bytes(content)
    with pytest.raises((StoreDamaged, EvergreenError), match=r"rollout\.json in the release store"):
        active(releases(tmp_path))


def test_failures_of_all_processes_add_up(tmp_path):
    store, one = releases(tmp_path), rollout()
    count_failures(store, one.id, "worker-1", {"canary": Failures(asked=5, failed=1)})
    count_failures(store, one.id, "worker-1", {"canary": Failures(asked=10, failed=2), "live": Failures(asked=90)})
    count_failures(store, one.id, "worker-2", {"canary": Failures(asked=10)})
    assert failures(store, one.id) == {"canary": Failures(asked=20, failed=2), "live": Failures(asked=90)}
    begin(store, one)
    assert rollouts(store) == [one], "the counts are not a rollout"
    (tmp_path / f"rollouts/{one.id}/failed/worker-2.json").write_bytes(b"{}")
    with pytest.raises(StoreDamaged, match=r"worker-2\.json in the release store cannot be read"):
        failures(store, one.id)
