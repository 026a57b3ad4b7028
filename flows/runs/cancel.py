"""`evergreen cancel`: a person ends a run that is at work; its finished stages stay for the next run."""

import os
import signal
import time
from pathlib import Path

import psutil

from flows.repo import workspace
from flows.repo.progress import record_unfinished, request_cancel
from tasks.common.errors import EvergreenError
from tasks.common.paths import state_dir

SECONDS = 60.0  # in which a run ends after Ctrl-C: a step in C code hears it when it returns to Python
LOOK = 0.1
PROCESSES = {"flows.runs.process", "flows.experiments.process"}


def cancel(root: Path, run_id: str, by: str, why: str = "", seconds: float = SECONDS) -> str:
    """End run `run_id` as Ctrl-C would, and with SIGKILL after `seconds`; returns one sentence on what happened.

    Raises EvergreenError for a run that is not at work on this machine.
    """
    folder = state_dir(root) / "runs" / run_id
    if run_id not in set(workspace.alive_runs(root)):
        ending = workspace.read_ending(folder)
        ended = f"it ended as {ending['outcome']}" if ending else "no such run is at work on this machine"
        alive = ", ".join(workspace.alive_runs(root)) or "none"
        raise EvergreenError(f"run {run_id} cannot be cancelled: {ended}. Runs at work: {alive}")
    request_cancel(folder, by, why)
    _send(run_id, signal.SIGINT)
    if not _ended(root, run_id, seconds):
        _send(run_id, signal.SIGKILL)
        _ended(root, run_id, seconds)
    if ending := workspace.read_ending(folder):
        return f"run {run_id} had ended before: {ending['outcome']}"
    said = f"cancelled by {by}" + (f": {why}" if why else "")
    record_unfinished(root, folder, "cancelled", said)  # of a run that was killed, or that had not begun
    return f"run {run_id} is {said}. Its finished stages stay: the next run goes on from there"


def _send(run_id: str, number: int) -> None:
    """Send a signal to the process of run `run_id`; its workers end with it."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if not PROCESSES.isdisjoint(line) and run_id in line:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def _ended(root: Path, run_id: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while run_id in set(workspace.alive_runs(root)):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK)
    return True
