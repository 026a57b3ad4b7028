"""A rollout from a held run to its end, in real stores: steps, promotion, rollback, pause, and what people order."""

import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.publishing import held
from flows.publishing.decisions import refuse
from flows.publishing.rollback import rollback
from flows.rollout import act
from flows.rollout.begin import POLICY, begin_rollout, begin_waiting
from tasks.common.errors import EvergreenError
from tasks.releases.arm_failures import Failures, count_failures
from tasks.releases.pause import pause
from tasks.releases.rollout import active, newest, rollouts
from tests.support.released_project import store
from tests.support.rolling_project import RUN, copy, strategy, traffic


def test_a_good_canary_goes_up_in_steps_and_becomes_live(main):
    assert act.look(main).startswith("v0.4.0 answers 20 % of the traffic (canary, step 1 of 2)")
    first = active(store(main))
    assert (first.run_id, first.champion, first.by) == (RUN, "v0.3.0", POLICY)
    now = traffic(main, first, 30)
    assert "of 20 requests" in act.look(main, now=now)
    now = traffic(main, first, 170, 30)
    said = act.look(main, now=now)
    assert said.startswith("v0.4.0 answers 50 % of the traffic (canary, step 2 of 2)")
    assert "v0.4.0 is not worse than v0.3.0 on" in said
    assert store(main).live().version == "v0.3.0"

    now = traffic(main, active(store(main)), 200, 200)
    said = act.look(main, now=now)
    assert said.startswith("v0.4.0 was promoted by the rollout")
    live = store(main).live()
    assert (live.version, live.run_id, live.by) == ("v0.4.0", RUN, POLICY)
    assert "not worse than v0.3.0" in live.why
    run = store(main).run(RUN)
    assert (run["outcome"], run["version"], run["decisions"][-1]["how"]) == ("promoted", "v0.4.0", "rollout")
    ended = newest(store(main))
    assert ended.ended.how == "promoted"
    assert {check.status for check in ended.ended.checks} == {"pass"}
    assert {check.name for check in ended.ended.checks} >= {"accuracy", "class.bag.share", "class.bag.accuracy"}
    assert act.look(main, now=now) is None


def test_a_canary_without_a_class_is_rolled_back_before_any_label(main):
    act.look(main)
    now = traffic(main, active(store(main)), 400, lost="coat", labels=False)
    said = act.look(main, now=now)
    assert "v0.4.0 was rolled back by the rollout" in said
    assert "v0.4.0 is worse in production: v0.4.0 answers coat in 0.0% of" in said
    assert store(main).live().version == "v0.3.0"
    run = store(main).run(RUN)
    assert (run["outcome"], run["rollout"], run["decisions"][-1]["how"]) == ("rejected", False, "rolled_back")
    assert "answers coat" in run["sentence"]
    assert act.look(main, now=now) is None, "it does not begin again"
    with pytest.raises(EvergreenError, match="run-4 was rejected"):
        begin_rollout(main, RUN, by="ann")


def test_a_shadow_answers_unseen_and_labels_decide(tmp_path):
    shadow = "strategy: shadow\n  min_requests: 20\n  min_hours: 0.0"
    good, bad = (strategy(copy(tmp_path / name), shadow) for name in ("good", "bad"))
    assert "v0.4.0 answers the traffic of v0.3.0 unseen (shadow)" in act.look(good)
    assert "was promoted" in act.look(good, now=traffic(good, active(store(good)), 60))
    assert store(good).live().version == "v0.4.0"
    act.look(bad)
    said = act.look(bad, now=traffic(bad, active(store(bad)), 60, right=0.5))
    assert "was rolled back" in said
    assert "of labelled images, v0.4.0 has" in said


def test_failures_that_the_service_counted_roll_it_back(main):
    act.look(main)
    rollout = active(store(main))
    counts = {"canary": Failures(asked=100, failed=12), "live": Failures(asked=900, failed=1)}
    count_failures(store(main), rollout.id, "worker-1", counts)
    assert "v0.4.0 failed on 12.0% of 100, v0.3.0 on 0.1% of 900" in act.look(main, now=traffic(main, rollout, 5))


def test_during_a_pause_nothing_happens_by_itself(main):
    releases = store(main)
    pause(releases, by="Ann", why="the line is rebuilt", until=None)
    assert begin_waiting(main, releases, by=POLICY) is None
    rollout = begin_rollout(main, RUN, by="ann", why="a person may")
    said = act.look(main, now=traffic(main, rollout, 400, lost="coat", labels=False))
    assert "Nothing was done, because Evergreen is paused" in said
    assert active(releases) == rollout


def test_without_traffic_a_person_decides(main):
    act.look(main)
    rollout = active(store(main))
    said = act.look(main, now=rollout.since + timedelta(hours=169))
    assert "v0.4.0 got 0 of 20 requests in 169 hours: too few to decide" in said
    run = store(main).run(RUN)
    assert (run["outcome"], run["rollout"]) == ("held", False)
    assert newest(store(main)).ended.how == "stopped"
    assert begin_rollout(main, RUN, by="ann").version == "v0.5.0", "the version of another rollout is not used again"


def test_people_order_steps_stops_and_promotions(main):
    with pytest.raises(EvergreenError, match="no rollout goes on"):
        act.stop(main, by="ann", why="x")
    act.look(main)
    with pytest.raises(EvergreenError, match="say why with --why"):
        act.stop(main, by="ann", why=" ")
    assert "answers 50 %" in act.next_step(main, by="ann", why="quiet night")
    with pytest.raises(EvergreenError, match="is its last: promote"):
        act.next_step(main, by="ann", why="more")
    assert "v0.4.0 was stopped by bob" in act.stop(main, by="bob", why="the camera is new")
    assert store(main).run(RUN)["outcome"] == "held"
    begin_rollout(main, RUN, by="ann")
    assert "v0.5.0 was promoted by ann" in act.promote(main, by="ann", why="good enough")
    assert (store(main).live().version, store(main).live().by) == ("v0.5.0", "ann")
    assert [one.ended.how for one in rollouts(store(main))] == ["stopped", "promoted"]


def test_a_rollout_ends_when_its_run_is_decided_or_another_model_goes_live(main, tmp_path):
    act.look(main)
    with pytest.raises(EvergreenError, match="goes on already: v0\\.4\\.0 answers 20 %"):
        begin_rollout(main, RUN, by="ann")
    rollback(main, "v0.1.0", by="ann", why="worse", model_only=True)
    with pytest.raises(EvergreenError, match="no rollout goes on; the rollout has ended: v0\\.4\\.0 was superseded"):
        act.stop(main, by="ann", why="x")
    assert store(main).run(RUN)["rollout"], "it waits for its next rollout, against the model that is live now"

    other = copy(tmp_path / "other")
    act.look(other)
    assert held.override(other, RUN, by="bob", why="now").version == "v0.4.0", "under the version that it answered with"
    assert act.look(other) is None
    assert newest(store(other)).ended.how == "promoted"

    third = copy(tmp_path / "third")
    act.look(third)
    refuse(third, RUN, by="bob", why="the customer said no")
    assert act.look(third) is None
    assert newest(store(third)).ended.how == "stopped"


def test_the_command(main, monkeypatch):
    monkeypatch.chdir(main)

    def evergreen(*words: str) -> str:
        done = CliRunner().invoke(app, ["rollout", *words])
        if done.exception is not None:
            raise done.exception
        return done.output

    assert "run-4 waits for its rollout" in evergreen()
    assert "no rollout has begun yet" in evergreen()
    assert "v0.4.0 answers 20 %" in evergreen("begin", RUN)
    traffic(main, active(store(main)), 100)
    assert "answers 50 %" in evergreen("next", "--why", "quiet night")
    said = evergreen()
    assert "20% since" in said
    assert "pass  v0.4.0 failed on 0.0% of 0" in said
    assert "the monitor would wait: " in said
    about = json.loads(evergreen("--json"))
    assert (about["rollout"]["step"], about["waiting"], about["decision"]["outcome"]) == (1, [], "wait")
    assert "was stopped by" in evergreen("stop", "--why", "enough")
    with pytest.raises(EvergreenError, match="no rollout goes on"):
        evergreen("promote", "--why", "x")
