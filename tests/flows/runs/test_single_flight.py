"""One triggered retraining at a time, with real processes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.repo import run_inputs
from flows.repo.progress import Progress
from flows.runs import single_flight
from flows.runs.retrain import Run, not_published
from flows.services.deployments import state_of
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.gate.verdict import GateVerdict
from tasks.releases.pause import pause, resume
from tasks.releases.store import open_store
from tests.support.checkout import ROOT
from tests.support.waiting import until

HOLD = """
import sys, time
from pathlib import Path
from flows.runs.single_flight import trigger
root, reason = Path(sys.argv[1]), sys.argv[2]
def run(joined):
    with open(root / "ran.txt", "a") as log:
        log.write(joined + "\\n")
    while not (root / "go").exists():
        time.sleep(0.01)
    return "ran"
print(trigger(root, reason, run=run))
"""


def started(root: Path, reason: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), reason], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def ran(root: Path) -> list[str]:
    return (root / "ran.txt").read_text().splitlines() if (root / "ran.txt").is_file() else []


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def test_triggers_during_a_run_become_one_more_run_with_all_their_reasons(folder):
    first = started(folder, "schedule")
    until(lambda: ran(folder) == ["schedule"])
    others = [started(folder, reason) for reason in ("drift", "webhook", "drift")]
    for other in others:
        assert "under way" in other.communicate(timeout=120)[0]
    (folder / "go").touch()
    assert first.communicate(timeout=120)[0].strip() == "ran"
    assert len(ran(folder)) == 2
    assert set(ran(folder)[1].split("; ")) == {"drift", "webhook"}
    assert single_flight.wanted(folder) == []


def test_a_killed_run_blocks_no_other_and_its_reason_is_handled(folder):
    first = started(folder, "schedule")
    until(lambda: ran(folder))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (folder / "go").touch()
    second = started(folder, "drift")
    assert second.communicate(timeout=120)[0].strip() == "ran"
    assert ran(folder) == ["schedule", "schedule; drift"]
    assert single_flight.wanted(folder) == []


def test_a_failed_run_is_not_repeated_forever(folder):
    def fails(reason: str) -> str:
        raise EvergreenError("no space left")

    with pytest.raises(EvergreenError, match="no space"):
        single_flight.trigger(folder, "schedule", run=fails)
    assert single_flight.wanted(folder) == []
    assert single_flight.trigger(folder, "next", run=lambda reason: f"ran: {reason}") == "ran: next"


def test_a_trigger_waits_for_a_run_a_person_started(folder):
    run = folder / ".evergreen" / "runs" / "r-1"
    run.mkdir(parents=True)
    lock = open(run / "lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    said: list[str] = []
    waiting = threading.Thread(target=single_flight._wait_for_others, args=(folder, said.append))
    waiting.start()
    until(lambda: said)
    assert "r-1" in said[0]
    assert waiting.is_alive()
    lock.close()
    waiting.join(60)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("outcome", "page"), [("held", "/releases/r-1"), ("promoted", "/releases/r-1"), ("refused", "/data/b-2")]
)
def test_the_alert_of_an_ending_leads_to_the_page_where_a_person_acts(outcome, page, folder):
    releases = open_store(load_params(folder / "params.yaml").store, folder)
    releases.tombstone("b-1", why="by hand", by="Ann")
    releases.tombstone("b-2", why="labels changed", by="run r-1")
    assert single_flight.ending_page(folder, {"run_id": "r-1", "outcome": outcome}) == page
    if outcome == "refused":
        assert single_flight.ending_page(folder, {"run_id": "r-2", "outcome": outcome}) == "/runs/r-2"


def test_a_pause_keeps_what_nobody_asked_for_just_now_and_it_waits_until_then(folder):
    releases = open_store(load_params(folder / "params.yaml").store, folder)
    pause(releases, by="Ann", why="the line is rebuilt")
    for _ in range(2):
        said = single_flight.trigger(folder, "webhook: camera 3", run=str.upper, automatic=True)
        assert said.startswith("not started: Evergreen is paused until somebody resumes by Ann: the line is rebuilt")
    assert single_flight.wanted(folder) == ["webhook: camera 3"], "it is noted once"
    assert single_flight.left_over(folder) == []
    resume(releases, by="Ann")
    assert single_flight.left_over(folder) == ["webhook: camera 3"]
    assert single_flight.trigger(folder, "schedule", run=str.upper, automatic=True) == "WEBHOOK: CAMERA 3; SCHEDULE"
    assert single_flight.left_over(folder) == []


def test_a_person_may_retrain_during_a_pause(folder):
    pause(open_store(load_params(folder / "params.yaml").store, folder), by="Ann", why="the line is rebuilt")
    assert single_flight.trigger(folder, "by hand", run=str.upper) == "BY HAND"


def test_a_run_that_passes_the_gate_during_a_pause_is_held_with_that_reason(folder):
    params = load_params(folder / "params.yaml")
    releases = open_store(params.store, folder)
    passed = GateVerdict(
        outcome="promote", sentence="promote: better.", checks=[], challenger="c", champion="v1", hard_set=None
    )
    run = Run(folder, params, releases, "r-1", "a test", "ann", Progress(folder, []))
    assert not_published(run, passed) is None
    pause(releases, by="Ann", why="the line is rebuilt")
    held = not_published(run, passed)
    assert (held.outcome, held.verdict) == ("held", passed)
    assert held.sentence == (
        "promote: better. It is held because Evergreen is paused until somebody resumes by Ann: the line is rebuilt."
    )


def test_a_model_that_a_person_refused_is_not_held_again(folder):
    params = load_params(folder / "params.yaml")
    releases = open_store(params.store, folder)
    verdict = GateVerdict(
        outcome="hold", sentence="hold: equal.", checks=[], challenger="c", champion="v", hard_set=None
    )
    run = Run(folder, params, releases, "r-2", "a test", "ann", Progress(folder, []))
    assert not_published(run, verdict).outcome == "held"
    refusal = {"how": "refused", "by": "bob", "why": "blurred", "at": "2026-11-27T10:00:00+00:00"}
    releases.put_run("r-1", {"outcome": "rejected", "bundle": "c", "sentence": "s", "decisions": [refusal]})
    again = not_published(run, verdict)
    assert again.outcome == "rejected"
    assert again.sentence == (
        "hold: equal; this is the model of run r-1 again, which bob refused on 2026-11-27 (blurred)"
    )


def test_a_retraining_with_nothing_new_is_not_called_by_the_last_runs_ending(toy):
    key, _, _ = run_inputs.current_inputs(toy)
    run_inputs.record_ending(toy, key, {"run_id": "r-1", "outcome": "promoted", "version": "v1", "sentence": "better"})
    said = single_flight.trigger(toy, "schedule", say=lambda line: None)
    assert said == "nothing new since run r-1, which ended as promoted: better"
    assert (state_of(said).name, state_of(said).type.value) == ("Nothing new", "COMPLETED")
    assert state_of("promoted: better").name == "Completed"
