"""What the service counts of a rollout: failures reach the monitor, which rolls the challenger back."""

import base64
import secrets
import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from flows.predictor.counts import ArmCounts
from flows.predictor.router import ProjectRouter
from flows.predictor.serve import compose
from flows.predictor.tokens import create
from flows.production.monitor import monitor_and_record
from flows.rollout import act
from flows.rollout.decide import decide
from flows.rollout.evidence import Evidence, Failed
from tasks.common.params import ReleaseParams, load_params
from tasks.releases import bundle
from tasks.releases.arm_failures import Failures, failures, reports
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


def router_of(root) -> ProjectRouter:
    return ProjectRouter(root, lambda: open_store(load_params(root / "params.yaml").store, root))


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


def test_the_monitor_rolls_back_a_canary_that_answers_one_class(tmp_path):
    root = make(tmp_path, replace={"flush_seconds: 10": "flush_seconds: 0.5"})
    rollout = begin_canary(root)  # answers CLASSES[1] to every image
    header = {"Authorization": f"Bearer {create(root, 'line', ['predict'], 'ann')}"}
    composed = compose(root, load_params(root / "params.yaml"))
    photos = [base64.b64encode(image_bytes(name)[0]).decode() for name in CLASSES]
    with served(composed.app) as client:
        for start in range(0, 300, 60):
            asked = [{"image": photos[n % len(photos)], "key": f"part {n}"} for n in range(start, start + 60)]
            got = client.post("/predict", json=asked, headers=header).json()["answers"]
            roles = [rollout.arm(one["key"]) for one in asked]
            assert [one["role"] for one in got] == roles, "sticky, by key"
    composed.recorder.close()
    composed.router.close()
    said = []
    monitor_and_record(root, said.append, now=datetime.now(UTC) + timedelta(minutes=1))
    ended = newest(open_store(load_params(root / "params.yaml").store, root)).ended
    assert (ended.how, ended.by) == ("rolled_back", "the rollout"), said
    assert f"v0.2.0 answers {CLASSES[0]} in 0.0% of" in ended.why
    assert router_of(root).models().keys() == {"live"}


def test_a_canary_that_fails_before_any_image_is_rolled_back_with_the_reason(tmp_path):
    root = make(tmp_path)
    broken = shutil.copytree(root / "artifacts/bundle", tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"not a network")
    (broken / "MANIFEST.json").unlink()
    bundle.write_manifest(broken)
    store = open_store(load_params(root / "params.yaml").store, root)
    begin_canary(root, bundle=store.put_bundle(broken))
    router = router_of(root)
    for _ in range(2):
        assert "v0.2.0 of the rollout does not compute here" in router.problems[0]
        assert router.models().keys() == {"live"}
        assert "of 500 requests" in act.look(root, say=lambda _: None), "it may have been this machine's memory"
        router.look_at_store()
    router.look_at_store()
    said = act.look(root, say=lambda _: None)
    assert ": v0.2.0 fails in 1 process(es) of the service before any image, and works in none: " in said
    assert newest(store).ended.how == "rolled_back"
    router.look_at_store()
    assert router.problems == []


def test_a_canary_that_fails_on_one_machine_only_goes_on(releases):
    one, other, going = ArmCounts(), ArmCounts(), rollout("v2")
    one.follow(going, False, "RuntimeError: no memory")
    other.follow(going, True)
    for counts in (one, other):
        counts.hand_over(releases)
    found = reports(releases, going.id)
    assert sorted((report.loaded, report.why) for report in found) == [(False, "RuntimeError: no memory"), (True, "")]
    failed = Failed(loaded=1, not_loaded=1, why="no memory")
    decision = decide(going, Evidence(classes=(), steps=(), failed=failed), ReleaseParams(strategy="canary"))
    assert (decision.outcome, decision.checks[0].detail) == (
        "wait",
        "v2 fails in 1 process(es) of the service before any image, and works in 1 others: no memory",
    )


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
