"""One retraining at a time for schedules, alarms and webhooks: a second trigger waits as a note, not as a process.

    .evergreen/trigger/wanted.json    reasons that no run has taken up yet
    .evergreen/trigger/flight         flock: held by the process that is taking them up

Whoever finds the flight held leaves a note and ends; the holder looks again before it ends. A note whose inputs the run
already used costs the up-to-date check alone. Locks are flocks: a killed process blocks nobody, and as a note goes only
when its run has ended, the next trigger takes up what a killed one had begun. A person's `evergreen
retrain` goes ahead at once (losers of a race gate again); a trigger waits for it and runs only what it did not cover.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from flows.repo import run_inputs, workspace
from flows.runs import launch
from monitoring.alerts import alert
from tasks.common.errors import EvergreenError
from tasks.common.files import locked, read_json, try_locked, wait_for_lock, write_json
from tasks.common.paths import state_dir

LOCK_SECONDS = 600.0  # a note is written in milliseconds
ENDINGS = ("promoted", "held", "rejected", "refused")


def trigger(root: Path, reason: str, say=print, run: Callable[[str], str] | None = None) -> str:
    """Retrain because of `reason`, or leave it to the run in flight. Returns what happened, a sentence.

    run: takes the joined reasons, returns a sentence (a test's; default: a real run).
    Raises EvergreenError when the run failed.
    """
    folder = state_dir(root) / "trigger"
    folder.mkdir(parents=True, exist_ok=True)
    id_ = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"  # sorts by time
    _change(folder, lambda known: known | {id_: reason})
    ended = []
    while wanted(root):
        with try_locked(folder / "flight") as mine:
            if not mine:
                ended.append("a retraining is under way: the reason is kept and looked at when it ends")
                break
            while notes := _notes(folder):
                try:
                    reason = "; ".join(dict.fromkeys(notes.values()))
                    ended.append(run(reason) if run else _run(root, reason, say))
                finally:
                    _change(folder, lambda known, done=notes: {n: why for n, why in known.items() if n not in done})
        # a note left between the last look and the lock's release is found by the loop
    return ended[-1] if ended else "taken up by another run"


def wanted(root: Path) -> list[str]:
    """Reasons that wait, or were being taken up when their process was killed."""
    return list(_notes(state_dir(root) / "trigger").values())


def run_and_tell(root: Path, reason: str, force: bool = False, say=print) -> int:
    """`launch.retrain`, and an alert about how it ended. A run with nothing to do tells nobody."""
    key, _, ended = run_inputs.current_inputs(root)
    if ended and not force:
        return launch.retrain(root, reason, force, say=say)
    try:
        code = launch.retrain(root, reason, force, say=say)
    except EvergreenError as error:
        alert(root, "failed", f"a retraining could not start: {error}", done=f"nothing; wanted: {reason}")
        raise
    ending = run_inputs.recorded_ending(root, key)
    if code == 1 or code > 128 or ending is None:
        alert(
            root, "failed", f"a retraining ended with exit code {code}; its flow run in Prefect says why", done=reason
        )
    elif ending["outcome"] in ENDINGS:
        version = f" {ending['version']}" if ending.get("version") else ""
        alert(root, ending["outcome"], f"{ending['outcome']}{version}: {ending['sentence']}", done=f"because: {reason}")
    return code


def _run(root: Path, reason: str, say) -> str:
    _wait_for_others(root, say)
    code = run_and_tell(root, reason, say=say)
    if code not in (0, 3, 4):
        raise EvergreenError(f"the retraining ended with exit code {code}: its own flow run says why")
    _, _, ending = run_inputs.current_inputs(root)
    if ending is None:  # refused: its batch is tombstoned, so the inputs are others now
        return f"ended with exit code {code}"
    return f"{ending['outcome']}: {ending['sentence']}"


def _wait_for_others(root: Path, say) -> None:
    """Until no run that a person started lives: its flock ends with its process, however that ends."""
    for run_id in list(workspace.alive_runs(root)):
        say(f"waiting for run {run_id}, which may cover this already")
        try:
            lock = os.open(state_dir(root) / "runs" / run_id / "lock", os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            wait_for_lock(lock, run_inputs.RUN_SECONDS, f"run {run_id}", fcntl.LOCK_SH)
        finally:
            os.close(lock)


def _notes(folder: Path) -> dict[str, str]:
    """Note id -> reason."""
    file = folder / "wanted.json"
    return read_json(file) if file.is_file() else {}


def _change(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    with locked(folder / "notes", LOCK_SECONDS, f"the list of triggers in {folder}"):
        write_json(folder / "wanted.json", change(_notes(folder)))
