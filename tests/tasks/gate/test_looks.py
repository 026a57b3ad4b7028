"""How often a set may be asked: against simulated models, in the verdict, and in the ledger."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tasks.common.errors import NewerFormat
from tasks.common.params import GateParams
from tasks.gate.evidence import Contender, Trial, differing
from tasks.gate.looks import Asked, images_for, looks_allowed, measure_looks
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.looks import Look, SetLook, looks_at, read_looks, record_look
from tasks.storage.local import LocalStore
from tests.support.predictions import CLASSES, NEW, OLD, TARGETS, checks, measured, table, verdict, wrong

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(("images", "margin", "differ"), [(60, 0.1, 0.2), (120, 0.1, 0.2), (200, 0.08, 0.3)])
def test_within_the_budget_the_luckiest_of_equal_models_stays_below_the_margin(images, margin, differ):
    budget = looks_allowed(images, margin, differ)
    rng = np.random.default_rng(0)

    def luck(looks):
        """How much better the luckiest of so many equal models looks, on average."""
        one = rng.choice([1, -1, 0], (400, looks, images), p=[differ / 2, differ / 2, 1 - differ])
        return one.mean(axis=2).max(axis=1).mean()

    assert luck(budget) <= margin
    assert luck(20 * budget) > 0.9 * margin  # the bound is not far off
    assert looks_allowed(images_for(2 * budget, margin, differ), margin, differ) >= 2 * budget


def test_a_set_that_was_asked_too_often_says_how_many_images_it_lacks():
    fine = measure_looks(Asked("hard set", 60, 4), 0.1)
    assert (fine.budget, fine.missing) == (4, 0)
    assert fine.sentence() == "the hard set was asked 4 times; its 60 images bear 4 looks"
    over = measure_looks(Asked("hard set", 60, 5), 0.1)
    assert over.missing == images_for(10, 0.1, 0.2) - 60 == 33
    assert over.sentence().endswith("Add 33 new images to it")
    assert measure_looks(Asked("hard set", 60, 5, 0.05), 0.1).missing == 0  # models that hardly differ
    assert measure_looks(Asked("test split", 100_000, 10**5), 0.1).sentence().endswith("bear a million looks")


def test_the_verdict_warns_and_forbids_nothing():
    said = {"asked": (Asked("hard set", 20, 9), Asked("test split", 300, 1))}
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW), **said)
    assert found.outcome == "promote"
    assert "the hard set was asked 9 times, more often than its 20 images bear" in found.sentence
    assert "the test split was asked" not in found.sentence
    assert (checks(found)["hard.looks"].value, checks(found)["test.looks"].value) == (9, 1)


def test_images_that_are_unfair_to_the_champion_do_not_count_in_the_comparison():
    hard = np.repeat(np.arange(5), 12)
    here = wrong(hard, np.arange(0, 60, 2))
    both = [
        pa.concat_tables([table(TARGETS, answers), table(hard, on_hard, split="hard")])
        for answers, on_hard in ((NEW, here), (OLD, hard))
    ]
    metrics = measured(TARGETS, NEW, hard={"accuracy": 0.5})
    seen = verdict(*both, metrics, hard_set="hard-1")
    assert seen.outcome == "reject"
    assert checks(seen)["hard.balanced_accuracy"].status == "fail"
    trained = [f"hard{row:05d}" for row in range(0, 60, 2)]  # the champion knows these by heart
    fair = verdict(*both, metrics, hard_set="hard-1", unfair=frozenset(trained), unfair_why="30 are seen")
    assert fair.outcome == "promote"
    assert checks(fair)["hard_set"].detail == "hard-1, 60 images, 30 answered correctly; 30 are seen"
    policy = GateParams(resamples=400, superior_on=["test", "hard"])
    every = verdict(*both, metrics, policy, hard_set="hard-1", unfair=frozenset(f"hard{row:05d}" for row in range(60)))
    assert every.outcome == "promote"
    assert "hard.balanced_accuracy" not in checks(every)


def test_the_share_on_which_two_models_differ():
    new, old = (Contender("c", table(TARGETS, answers), {}) for answers in (NEW, OLD))
    trial = Trial(CLASSES, "multiclass", dict.fromkeys(CLASSES, 100), None)
    found = differing(new, old, trial)
    assert found == {"test": pytest.approx(37 / 300)}
    assert differing(new, None, trial) == {}
    assert differing(new, Contender("v", table(TARGETS[:9], OLD[:9]), {}), trial) == {}


def look(challenger="a" * 64, seq=3, version="hard-1", champion="v0.1.0"):
    sets = {"hard": SetLook(version=version, images=60, differ=0.1)}
    return Look(at=AT, run="r-1", by="ann", challenger=challenger, champion=champion, seq=seq, sets=sets)


def test_the_ledger_keeps_each_look_once_and_refuses_what_it_cannot_read(tmp_path):
    store = LocalStore(tmp_path)
    assert record_look(store, look())
    assert not record_look(store, look().model_copy(update={"how": "approval", "run": "r-2"}))  # the same look
    assert record_look(store, look(champion="v0.2.0"))
    assert record_look(store, look("b" * 64, seq=5, version="hard-2"))
    found = read_looks(store)
    assert len(found) == 3
    assert [one.seq for one in looks_at(found, "hard", since=4)] == [5]  # images that came later were not seen before
    assert looks_at(found, "test", since=0) == []
    store.create("looks/x.json", b'{"schema": 9}')
    with pytest.raises(NewerFormat):
        read_looks(store)
    store.remove("looks/x.json")
    store.create("looks/y.json", b"[]")
    with pytest.raises(StoreDamaged, match=r"looks/y.json.*backup"):
        read_looks(store)
