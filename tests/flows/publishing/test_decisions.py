"""Comments on runs, refusals, and verdicts as of now: in the run's record, where no writer loses another's words."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.publishing import decisions, held, run_records
from flows.publishing.decisions import Judgement, comment, newest_judgement, refusal_of, refuse
from flows.publishing.outcomes import Ending
from flows.repo import run_inputs
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.gate.verdict import GateVerdict
from tests.flows.publishing.test_held import end
from tests.support.released_project import evergreen, store

HOLD = GateVerdict(outcome="hold", sentence="hold: equal.", checks=[], challenger="c", champion="v0.3.0", hard_set=None)


def test_comments_of_two_writers_are_all_kept(main):
    end(main, "run-4", "held", keep=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: comment(main, "run-4", by=f"p{n % 3}", text=f"why {n}?"), range(12)))
    assert "Ann on run-4: it \\u202e waits" in evergreen(main, "comment", "run-4", " it \u202e waits ")
    found = store(main).run("run-4")["comments"]
    assert sorted(one["text"] for one in found[:12]) == sorted(f"why {n}?" for n in range(12))
    assert (found[12]["by"], found[12]["text"]) == ("Ann", "it \u202e waits")
    assert len({one["id"] for one in found}) == 13
    held.override(main, "run-4", by="bob", why="fine")  # a decision keeps them
    record = store(main).run("run-4")
    assert (record["outcome"], len(record["comments"])) == ("promoted", 13)
    comment(main, "run-4", by="ann", text="after the fact")
    with pytest.raises(EvergreenError, match="a comment needs a text"):
        comment(main, "run-4", by="ann", text=" \n")
    with pytest.raises(EvergreenError, match="expected at most 4,000"):
        comment(main, "run-4", by="ann", text="x" * 4001)
    with pytest.raises(EvergreenError, match="no run 'run-5'"):
        comment(main, "run-5", by="ann", text="x")


def test_a_refused_run_is_not_asked_about_and_only_an_override_publishes_it(main):
    end(main, "run-4", "held", keep=True)
    key = store(main).run("run-4")["key"]
    assert "run-4 waits for a person" in evergreen(main, "status")
    assert "needs a reason" in evergreen(main, "refuse", "run-4", code=1)
    assert "Refused since by Ann: not on this line." in evergreen(main, "refuse", "run-4", "--why", "not on this line")
    assert "waits for a person" not in evergreen(main, "status")
    record = store(main).run("run-4")
    assert record["outcome"] == "rejected"
    assert [(one["how"], one["by"], one["why"]) for one in record["decisions"]] == [
        ("refused", "Ann", "not on this line")
    ]
    assert run_inputs.recorded_ending(main, key)["outcome"] == "rejected"
    assert git(main, "for-each-ref", "refs/evergreen/held") == ""
    for command in (held.approve, refuse):
        with pytest.raises(EvergreenError, match=r"run run-4 was refused by Ann: not on this line.*--override"):
            command(main, "run-4", by="bob", why="but I like it")
    run_id, refusal = refusal_of(store(main), record["bundle"])
    assert (run_id, refusal["by"]) == ("run-4", "Ann")
    assert "this is the model of run run-4 again, which Ann refused on" in decisions.refusal_sentence(run_id, refusal)
    assert held.override(main, "run-4", by="bob", why="the line changed").version == "v0.4.0"
    assert refusal_of(store(main), record["bundle"]) is None, "somebody published it since"
    assert [one["how"] for one in store(main).run("run-4")["decisions"]] == ["refused", "override"]


def test_a_killed_refusal_is_completed(main):
    end(main, "run-4", "held", keep=True)
    evergreen(main, "refuse", "run-4", "--why", "no", failpoint="refused.noted", code=-signal.SIGKILL)
    assert store(main).run("run-4")["outcome"] == "rejected"
    assert run_records.reconcile(main, store(main)) == ["deleted the ref of run run-4, which is rejected"]


def test_what_was_not_held_cannot_be_refused(main):
    end(main, "run-4", "rejected", keep=False)
    with pytest.raises(EvergreenError, match=r"run run-4 was rejected: "):
        refuse(main, "run-4", by="bob", why="x")
    with pytest.raises(EvergreenError, match=r"published already, as v0\.2\.0"):
        decisions.preview(main, "run-2", by="bob")


def test_a_verdict_is_fresh_while_what_it_was_judged_against_is_live(main):
    tree = end(main, "run-4", "held", keep=True)
    ending = Ending(outcome="held", sentence=HOLD.sentence, verdict=HOLD)
    run_records.record(store(main), tree, "run-4", ending, store(main).run("run-4")["rev"])
    found = newest_judgement(store(main).run("run-4"))
    live = store(main).live()
    assert (found.by, found.version, found.is_fresh(live), found.is_fresh(None)) == (None, "v0.3.0", True, False)
    again = Judgement(at=run_records.now(), by="ann", version="v0.2.0", verdict=HOLD).model_dump(mode="json")
    store(main).change_run("run-4", lambda record: record | {"preview": again})
    found = newest_judgement(store(main).run("run-4"))
    assert (found.by, found.is_fresh(live)) == ("ann", False)
    assert newest_judgement({"outcome": "held", "verdict": None, "at": run_records.now()}) is None


def test_records_of_before_are_read_and_those_of_a_newer_evergreen_refused(main):
    file = main / ".evergreen/releases/runs/old.json"
    file.write_text(json.dumps({"schema": 1, "outcome": "held", "sentence": "s", "bundle": "b", "decisions": []}))
    comment(main, "old", by="ann", text="of schema 1")
    assert json.loads(file.read_text())["schema"] == 2
    file.write_text(json.dumps({"schema": 9, "outcome": "held"}))
    with pytest.raises(EvergreenError, match="newer Evergreen"):
        comment(main, "old", by="ann", text="x")
