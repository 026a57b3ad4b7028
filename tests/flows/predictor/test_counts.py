"""What the service counts of a rollout: failures reach the monitor, which rolls the challenger back."""

import secrets
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from flows.predictor.counts import ArmCounts
from flows.predictor.serve import compose
from flows.predictor.tokens import create
from flows.rollout import act
from tasks.common.params import load_params
from tasks.releases.arm_failures import Failures, failures
from tasks.releases.rollout import Rollout, active, begin, new_id, newest
from tasks.releases.store import open_store
from tests.support.checkout import ROOT
from tests.support.live_project import VERSION, make
from tests.support.second_release import put_bundle
from tests.support.service import served
from tests.support.small_project import CLASSES, image_bytes


def begin_canary(root, **changes) -> Rollout:
    releases = open_store(load_params(root / "params.yaml").store, root)
    live, now = releases.live(), datetime.now(UTC)
    about = {"champion": live.version, "champion_bundle": live.bundle, "champion_seq": live.seq, "steps": (0.5,)}
    about |= {"run_id": "r-2", "version": "v0.2.0", "bundle": put_bundle(root, CLASSES[1], "v0.2.0")[0]}
    about |= {"since": now, "step_since": now, "by": "ann", "why": "the gate promotes it", "id": new_id(now)}
    return begin(releases, Rollout(**about | {"strategy": "canary"} | changes))


def test_a_canary_that_fails_on_images_is_rolled_back_and_every_request_is_answered(tmp_path):
    root = make(tmp_path)
    rollout = begin_canary(root)
    header = {"Authorization": f"Bearer {create(root, 'line', ['predict'], 'ann')}"}
    composed = compose(root, load_params(root / "params.yaml"))
    challenger = composed.router.models()["canary"]

    def fail(pixels):
        raise RuntimeError("the graph cannot compute this")

    keys = [f"part {number}" for number in range(60)]
    (image,) = image_bytes("Bag")
    store = root / ".evergreen/releases"
    with served(composed.app) as client:
        challenger.predictor.predict_pixels = fail  # not earlier: the start computes with every model
        for key in keys:
            # bytes after the end of a JPEG change its digest only: the cache knows no answer to them
            got = client.post("/predict", params={"key": key}, content=image + secrets.token_bytes(8), headers=header)
            assert (got.status_code, got.json()["version"]) == (200, VERSION)
    store.rename(tmp_path / "away")
    store.write_text("a file where the folder was")
    composed.router.look_at_store()
    assert any("cannot store how often" in problem for problem in composed.router.problems)
    store.unlink()
    (tmp_path / "away").rename(store)
    composed.router.look_at_store()
    assert composed.router.problems == []

    releases = open_store(load_params(root / "params.yaml").store, root)
    canary = sum(rollout.arm(key) == "canary" for key in keys)
    found = failures(releases, rollout.id)
    assert found["canary"] == Failures(asked=canary, failed=canary)
    assert found["live"] == Failures(asked=len(keys)), "it answered for the canary, too"
    said = act.look(root, say=lambda _: None, now=datetime.now(UTC) + timedelta(minutes=1))
    assert f"v0.2.0 failed on 100.0% of {canary}" in said
    assert newest(releases).ended.how == "rolled_back"
    composed.router.look_at_store()
    assert active(releases) is None
    assert set(composed.router.models()) == {"live"}
    composed.recorder.close()
    composed.router.close()


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    root = tmp_path_factory.mktemp("counts")
    return open_store(load_params(ROOT / "params.yaml").store, root)


def rollout(version: str) -> Rollout:
    now = datetime.now(UTC)
    about = {"strategy": "canary", "run_id": "r", "bundle": "a" * 64, "champion": "v1", "champion_bundle": "b" * 64}
    about |= {"champion_seq": 1, "steps": (0.5,), "since": now, "step_since": now, "by": "ann", "why": "w"}
    return Rollout(id=new_id(now), version=version, **about)


def test_only_another_rollout_starts_the_totals_again(releases):
    counts, first, second = ArmCounts(), rollout("v2"), rollout("v3")
    live, pinned, new = (SimpleNamespace(version=version) for version in ("v1", "v0", "v2"))
    counts.count(new, "canary", failed=True)  # nothing goes on
    counts.follow(first)
    counts.count(new, "canary", failed=True)
    counts.count(live, "live", failed=False)
    counts.count(pinned, "live", failed=True)
    counts.follow(None)
    counts.count(new, "canary", failed=True)
    counts.follow(first)
    counts.count(new, "canary", failed=False)
    counts.hand_over(releases)
    expected = {"canary": Failures(asked=2, failed=1), "live": Failures(asked=1)}
    assert failures(releases, first.id) == expected
    counts.follow(second)
    counts.count(new, "canary", failed=True)  # an answer of the rollout before
    counts.hand_over(releases)
    assert failures(releases, second.id) == {}
    counts.count(live, "live", failed=False)
    counts.hand_over(releases)
    assert failures(releases, second.id) == {"live": Failures(asked=1)}
    assert failures(releases, first.id) == expected
