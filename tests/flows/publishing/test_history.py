"""What was live when, and what a rollback withdraws."""

import hashlib
import json
import sys
from pathlib import Path

import gto
import pytest

from flows.publishing import held, run_records
from flows.publishing.history import find, periods, withdrawal_of, withdrawn, withdrawn_sentence
from flows.publishing.rollback import rollback
from flows.repo import run_inputs
from flows.runs import launch
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, sha256_file
from tasks.common.params import load_params
from tasks.releases.pointer import Pointer, successor
from tests.support import released_project
from tests.support.released_project import NAME, evergreen, store

BIN = Path(sys.executable).parent


def history_of(*versions: str) -> list[Pointer]:
    """Pointers to `versions` in this order; a version's bundle is made of its name."""
    found: list[Pointer] = []
    for version in versions:
        bundle = hashlib.sha256(version.encode()).hexdigest()
        about = {"version": version, "run_id": f"run-{version}", "git_rev": "0" * 40, "by": "ann", "why": "-"}
        found.append(successor(found[-1] if found else None, bundle=bundle, **about))
    return found


def test_periods_follow_each_other():
    history = history_of("v1", "v2", "v1")
    assert [(p.version, p.since, p.until) for p in periods(history)] == [
        ("v1", history[0].at, history[1].at),
        ("v2", history[1].at, history[2].at),
        ("v1", history[2].at, None),
    ]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["v1", "v2", "v3"], []),
        (["v1", "v2", "v1"], ["v2"]),
        (["v1", "v2", "v3", "v1"], ["v2", "v3"]),
        (["v1", "v2", "v3", "v1", "v2"], ["v3"]),  # v2 was put back by a person, v3 was not
        (["v1", "v2", "v1", "v3"], ["v2"]),  # a new version does not make the old one good
        (["v1", "v2", "v1", "v2"], []),
        (["v1", "v2", "v1", "v3", "v1", "v3"], ["v2"]),
    ],
)
def test_withdrawn_is_what_was_rolled_back_and_not_put_back(versions, expected):
    found = withdrawn(history_of(*versions))
    assert sorted(entry.release.version for entry in found.values()) == expected


@pytest.mark.parametrize(
    ("versions", "before"),
    [(["v1", "v2", "v3"], "v2"), (["v1", "v2", "v3", "v2"], "v1"), (["v1", "v2", "v1", "v3"], "v1")],
)
def test_rollback_after_rollback_goes_further_back_never_forward(versions, before):
    assert find(history_of(*versions), None).version == before


def test_going_back_before_the_first_or_to_an_unknown_version_is_an_error():
    with pytest.raises(EvergreenError, match="is the first version"):
        find(history_of("v1", "v2", "v1"), None)
    with pytest.raises(EvergreenError, match="no version 'v7' was ever live; there are: v1, v2"):
        find(history_of("v1", "v2"), "v7")
    with pytest.raises(EvergreenError, match="nothing has been released"):
        find([], None)


def test_a_lost_promotion_does_not_let_a_rollback_go_one_too_far_back():
    first, _, third = history_of("v1", "v2", "v3")
    with pytest.raises(EvergreenError, match=r"promotion 2 is missing.*name the version"):
        find([first, third], None)
    assert find([first, third], "v1") == first


def test_releases_lists_what_was_live_when_by_whom_and_why(main):
    rollback(main, "v0.1.0", by="bob", why="worse on night shifts")
    found = json.loads(evergreen(main, "releases", "--json"))["releases"]
    assert [row["version"] for row in found] == ["v0.1.0", "v0.2.0", "v0.3.0", "v0.1.0"]
    assert [row["until"] for row in found] == [row["since"] for row in found[1:]] + [None]
    assert [row["again"] for row in found] == [False, False, False, True]
    assert (found[-1]["by"], found[-1]["why"]) == ("bob", "rollback: worse on night shifts")
    text = evergreen(main, "releases")
    lines = text.splitlines()
    (live,) = [n for n, line in enumerate(lines) if ", live, by " in line]
    assert live == 0
    assert lines[0].startswith("v0.1.0  from ")
    assert lines[1].strip() == "rollback: worse on night shifts"


def test_runs_and_hostile_words_are_shown_as_they_are(main):
    store(main).put_run("run-9", {"outcome": "rejected", "sentence": "[red]reject[/]: worse [link=x]", "by": "ann"})
    assert "[red]reject[/]: worse [link=x]" in evergreen(main, "releases", "--runs")
    assert json.loads(evergreen(main, "releases", "--runs", "--json"))["runs"]["run-2"]["outcome"] == "promoted"


def test_the_next_schedule_does_not_promote_what_was_rolled_back(main, capsys):
    rollback(main, by="bob", why="worse on night shifts")
    assert launch.retrain(main, "schedule", say=print) == 0  # the same inputs: nothing starts
    said = capsys.readouterr().out
    assert "nothing new since run run-3" in said
    assert "since then bob rolled v0.3.0 back to v0.2.0 (rollback: worse on night shifts)" in said
    assert store(main).live().version == "v0.2.0"


def test_the_same_model_or_the_same_inputs_are_held_after_a_rollback(main):
    third = store(main).live()
    rollback(main, by="bob", why="worse")
    key = store(main).run("run-3")["key"]
    by_bundle = withdrawal_of(store(main), third.bundle)
    by_inputs = withdrawal_of(store(main), "f" * 64, key)
    assert by_bundle.release == by_inputs.release == third
    assert withdrawal_of(store(main), "f" * 64, "another") is None
    assert withdrawal_of(store(main), store(main).history()[0].bundle) is None
    assert "this is v0.3.0 again, which bob rolled back to v0.2.0" in withdrawn_sentence(by_bundle)
    rollback(main, "v0.3.0", by="bob", why="it was not the model")
    assert withdrawal_of(store(main), third.bundle, key) is None


def test_the_flow_holds_the_model_that_was_rolled_back(main):
    from flows.repo.progress import Progress
    from flows.runs.retrain import Run, _gate_and_publish

    third = store(main).live()
    rollback(main, by="bob", why="worse")
    tree = released_project.run(main, "run-4", 0.5)  # a forced run: the same model once more
    assert sha256_file(tree / run_records.MANIFEST) == third.bundle
    params = load_params(tree / "params.yaml")
    ending = _gate_and_publish(Run(tree, params, store(main), "run-4", "forced", "ann", Progress(tree.parent, [])))
    assert ending.outcome == "held"
    assert "this is v0.3.0 again, which bob rolled back to v0.2.0" in ending.sentence
    assert store(main).live().version == "v0.2.0"
    rev = run_records.preserve_held(tree, store(main), NAME, "run-4", ending.sentence)
    run_records.record(store(main), tree, "run-4", ending, rev)
    live = held.override(main, "run-4", by="bob", why="it was not the model")
    assert (live.version, live.git_rev) == ("v0.3.0", third.git_rev)
    assert store(main).history()[-1] == live
    assert gto.api.show(main)[NAME]["stage"]["prod"] == "v0.3.0"


def test_a_tombstone_makes_the_next_run_a_new_one_without_the_batch(main):
    rollback(main, by="bob", why="worse", tombstone=True)
    key, _, ended = run_inputs.current_inputs(main)
    assert ended is None
    tree = released_project.run(main, "run-4")
    figures = read_json(tree / "metrics/evaluate.json")
    assert figures["test"]["n"] == 36  # b-1 and b-2
    assert withdrawal_of(store(main), sha256_file(tree / run_records.MANIFEST), key) is None
