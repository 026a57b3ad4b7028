"""One triggered retraining at a time, with real processes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.runs import single_flight
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
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
        assert "under way" in other.communicate(timeout=30)[0]
    (folder / "go").touch()
    assert first.communicate(timeout=30)[0].strip() == "ran"
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
    assert second.communicate(timeout=30)[0].strip() == "ran"
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
    waiting.join(10)
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
