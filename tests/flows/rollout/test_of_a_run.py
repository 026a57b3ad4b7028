"""A run that the gate promotes under a rollout strategy: it begins, the champion stays, a bad one is rolled back."""

import pytest

from flows.production.monitor import monitor_and_record
from flows.publishing import run_records
from flows.repo.git import git
from flows.repo.progress import Progress
from flows.rollout import act
from flows.runs.retrain import Run, _begin_rollout, not_published
from tasks.common.params import load_params
from tasks.gate.verdict import GateVerdict
from tasks.releases.rollout import active, newest
from tests.support import released_project
from tests.support.released_project import NAME, store
from tests.support.rolling_project import ALWAYS, RUN, copy, strategy, traffic

RULES = {"shadow": "strategy: shadow\n  min_requests: 20\n  min_hours: 0.0", "canary": ALWAYS}


def ended(main, run_id: str, quality: float) -> Run:
    """A run over HEAD that the gate promotes, as far as `retrain` brings it after the gate."""
    tree = released_project.run(main, run_id, quality)
    run = Run(
        tree, load_params(main / "params.yaml"), store(main), run_id, "new data", "ann", Progress(tree.parent, [])
    )
    about = {"outcome": "promote", "sentence": "promote: better.", "checks": [], "challenger": "c", "hard_set": None}
    ending = not_published(run, GateVerdict(**about, champion=store(main).live().version))
    assert (ending.outcome, ending.rollout) == ("held", True)
    rev = run_records.preserve_held(tree, run.releases, NAME, run_id, ending.sentence)
    run_records.record(run.releases, tree, run_id, ending, rev)
    _begin_rollout(run, ending)
    return run


@pytest.mark.parametrize("name", ["shadow", "canary"])
def test_a_promoted_run_answers_its_first_traffic_and_the_champion_stays(tmp_path, name):
    main = released_project.copy(tmp_path)
    strategy(main, RULES[name])
    git(main, "commit", "-qam", "first a part of the traffic")
    champion = store(main).live()
    ended(main, "run-7", 0.6)
    going = active(store(main))
    assert (going.run_id, going.strategy, going.champion, going.by) == ("run-7", name, champion.version, "the rollout")
    assert store(main).live() == champion
    ended(main, "run-8", 0.7)
    assert active(store(main)) == going, "the next run waits"
    assert act.stop(main, by="ann", why="the better one").startswith("v0.4.0 was stopped by ann")
    act.look(main)
    assert active(store(main)).run_id == "run-8"


def test_a_bad_canary_is_rolled_back_also_where_production_cannot_be_measured(tmp_path):
    main = copy(tmp_path)
    act.look(main)
    now = traffic(main, active(store(main)), 400, lost="coat", labels=False)
    said = []
    with pytest.raises(KeyError, match="task"):  # the bundle of this project is not a whole one
        monitor_and_record(main, said.append, now=now)
    assert newest(store(main)).ended.how == "rolled_back"
    assert store(main).run(RUN)["outcome"] == "rejected"
    assert any("v0.4.0 was rolled back by the rollout" in line for line in said)
