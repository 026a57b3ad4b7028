"""kill -9 between any two steps of a rollout: the next look completes it."""

import os
import signal
import traceback
from datetime import datetime
from pathlib import Path

import pytest

from flows.publishing import run_records
from flows.repo import run_inputs
from flows.repo.git import git
from flows.rollout import act
from tasks.common.files import read_json
from tasks.releases.rollout import active, newest
from tests.support.released_project import store
from tests.support.rolling_project import RUN, copy, strategy, traffic


def killed_look(main: Path, point: str, now: datetime | None = None) -> None:
    """A look in a process of its own that is killed at `point`."""
    child = os.fork()
    if child == 0:
        try:
            os.environ["EVERGREEN_FAILPOINT"] = point
            act.look(main, now=now)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("point", ["rollout.begun", "store.placed"])
def test_killed_when_it_begins(main, point):
    killed_look(main, point)
    assert act.look(main).startswith("v0.4.0 answers 20 %")
    assert active(store(main)).step == 0


def test_killed_after_a_step(main):
    act.look(main)
    now = traffic(main, active(store(main)), 200)
    killed_look(main, "rollout.advanced", now)
    assert active(store(main)).step == 1
    assert "v0.4.0 answers 50 %" in act.look(main, now=now)


@pytest.mark.parametrize("point", ["rollout.ended", "rollout.recorded"])
def test_killed_when_it_is_rolled_back(main, point):
    act.look(main)
    now = traffic(main, active(store(main)), 400, lost="coat", labels=False)
    killed_look(main, point, now)
    assert newest(store(main)).ended.how == "rolled_back", "the service uses it no more"
    assert store(main).run(RUN)["outcome"] == "held"
    assert act.look(main, now=now) is None
    run = store(main).run(RUN)
    assert (run["outcome"], len(run["decisions"])) == ("rejected", 1)
    assert git(main, "for-each-ref", "refs/evergreen/held") == ""
    assert run_inputs.recorded_ending(main, run["key"])["outcome"] == "rejected"
    assert act.reconcile_rollout(main, store(main)) == []


@pytest.mark.parametrize("point", ["publish.promoted", "rollout.promoted", "rollout.ended"])
def test_killed_when_it_is_promoted(tmp_path, point):
    main = strategy(copy(tmp_path), "strategy: shadow\n  min_requests: 20\n  min_hours: 0.0")
    act.look(main)
    now = traffic(main, active(store(main)), 30)
    killed_look(main, point, now)
    assert store(main).live().version == "v0.4.0"
    assert act.look(main, now=now) is None
    assert newest(store(main)).ended.how == "promoted"
    run_records.reconcile(main, store(main))
    run = store(main).run(RUN)
    assert (run["outcome"], run["version"]) == ("promoted", "v0.4.0")
    assert len(store(main).history()) == 4
    assert "schema" in read_json(main / ".evergreen/releases/rollout.json")
