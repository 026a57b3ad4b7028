"""One triggered retraining at a time: a second trigger leaves a note for the first and ends.

    .evergreen/trigger/wanted.json    notes: reasons that no run has handled yet
    .evergreen/trigger/flight         file lock of the process that is handling them

Triggers are schedules, alarms and webhooks. A trigger that finds the lock held leaves its note; the lock holder reads
the notes again before it ends. If the holder's run already used the same inputs, a note costs only the up-to-date
check. A killed process frees its lock. A note is deleted only after its run has ended, so the next trigger repeats what
a killed one had begun. A person's `evergreen retrain` starts at once (if another run publishes first, it is judged
again). A trigger waits for that run and then runs only what it did not cover.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from flows.publishing.outcomes import CANCELLED
from flows.repo import run_inputs, workspace
from flows.runs import launch
from monitoring.alerts import alert
from monitoring.console_link import quoted
from tasks.common.errors import EvergreenError
from tasks.common.files import locked, try_locked, wait_for_lock, write_json
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect_dict, read_rebuildable
from tasks.releases.pause import paused
from tasks.releases.store import open_store

LOCK_SECONDS = 600.0  # generous: writing a note takes milliseconds
LOST = "the list of reasons was damaged"  # a reason like any other: a retraining with nothing new ends within a second
NOTHING_NEW = "nothing new"  # begins the sentence of a trigger that had nothing to do
ENDINGS = ("promoted", "held", "rejected", "refused")


def trigger(
    root: Path, reason: str, say=print, run: Callable[[str], str] | None = None, *, automatic: bool = False
) -> str:
    """Retrain because of `reason`, or leave it to the run in flight. Returns one sentence on what happened.

    automatic: no person asked for it just now. During a pause, such a reason only leaves its note.
    run: takes the joined reasons and returns a sentence; a real run by default, tests replace it.
    Raises EvergreenError when the run failed.
    """
    folder = state_dir(root) / "trigger"
    make_folder(folder)
    id_ = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"  # sorts by time
    holding = paused(root) if automatic else None
    _change(folder, lambda known: known if holding and reason in known.values() else known | {id_: reason})
    if holding:
        return f"not started: Evergreen is {holding.sentence()}. This reason waits until then"
    ended = []
    while wanted(root):
        with try_locked(folder / "flight") as mine:
            if not mine:
                ended.append("a retraining is under way: it handles this reason when it ends")
                break
            while notes := _notes(folder):
                try:
                    reason = "; ".join(dict.fromkeys(notes.values()))
                    ended.append(run(reason) if run else _run(root, reason, say))
                finally:
                    _change(folder, lambda known, done=notes: {n: why for n, why in known.items() if n not in done})
        # the outer loop finds a note that came between the last look and the release of the lock
    return ended[-1] if ended else "another run handles this reason"


def wanted(root: Path) -> list[str]:
    """List the reasons that wait, and those whose process was killed."""
    return list(_notes(state_dir(root) / "trigger").values())


def left_over(root: Path) -> list[str]:
    """List the reasons that wait and that nothing handles or forbids: a pause ended, or a process was killed."""
    notes = wanted(root)
    if not notes or paused(root):
        return []
    with try_locked(state_dir(root) / "trigger" / "flight") as free:
        return notes if free else []


def run_and_alert(root: Path, reason: str, force: bool = False, say=print) -> int:
    """Run `launch.retrain` and send an alert on how it ended; no alert when there is nothing to do."""
    key, _, ended = run_inputs.current_inputs(root)
    if ended and not force:
        return launch.retrain(root, reason, force, say=say)
    try:
        code = launch.retrain(root, reason, force, say=say)
    except EvergreenError as error:
        alert(root, "failed", f"a retraining could not start: {error}", done=f"nothing; the reason was: {reason}")
        raise
    if code == CANCELLED:  # by a person, who knows it
        return code
    ending = run_inputs.recorded_ending(root, key)
    if code == 1 or code > 128 or ending is None:
        said = f"a retraining ended with exit code {code}; its page has the last lines of its log"
        alert(root, "failed", said, done=reason, page=_run_page(workspace.newest_run(root, key)))
    elif ending["outcome"] in ENDINGS:
        version = f" {ending['version']}" if ending.get("version") else ""
        said = f"{ending['outcome']}{version}: {ending['sentence']}"
        alert(root, ending["outcome"], said, done=f"because: {reason}", page=ending_page(root, ending))
    return code


def ending_page(root: Path, ending: dict) -> str:
    """Path of the console's page on which a person acts after this ending."""
    run_id = ending.get("run_id")
    if ending["outcome"] != "refused":
        return f"/releases/{quoted(run_id)}" if run_id else "/releases"
    stones = open_store(load_params(root / "params.yaml").store, root).tombstones()
    batch = next((batch for batch, about in stones.items() if about.get("by") == f"run {run_id}"), None)
    return f"/data/{quoted(batch)}" if batch else _run_page(run_id)


def _run_page(run_id: str | None) -> str:
    return f"/runs/{quoted(run_id)}" if run_id else "/runs"


def _run(root: Path, reason: str, say) -> str:
    _wait_for_others(root, say)
    if ended := run_inputs.current_inputs(root)[2]:
        run_and_alert(root, reason, say=say)  # completes what killed runs left, and says how the last run ended
        return f"{NOTHING_NEW} since run {ended['run_id']}, which ended as {ended['outcome']}: {ended['sentence']}"
    code = run_and_alert(root, reason, say=say)
    if code == CANCELLED:
        return "cancelled by a person"
    if code not in (0, 3, 4):
        raise EvergreenError(f"the retraining ended with exit code {code}; see its flow run in Prefect")
    _, _, ending = run_inputs.current_inputs(root)
    if ending is None:  # refused: the batch is tombstoned, which changed the inputs
        return f"ended with exit code {code}"
    return f"{ending['outcome']}: {ending['sentence']}"


def _wait_for_others(root: Path, say) -> None:
    """Wait until no run that a person started is alive: its lock ends with its process."""
    for run_id in list(workspace.alive_runs(root)):
        say(f"waiting for run {run_id}, which may already cover this")
        try:
            lock = os.open(state_dir(root) / "runs" / run_id / "lock", os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            wait_for_lock(lock, run_inputs.RUN_SECONDS, f"run {run_id}", fcntl.LOCK_SH)
        finally:
            os.close(lock)


def _notes(folder: Path) -> dict[str, str]:
    """Read the notes: id -> reason. A damaged file counts as one request: what it asked for is unknown."""
    file = folder / "wanted.json"
    there = os.path.lexists(file)
    notes = read_rebuildable(file, lambda found: expect_dict(found, str), "a retraining makes up for what it asked for")
    if notes is None and there:
        notes = {f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}": LOST}
        write_json(file, notes)
    return notes or {}


def _change(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    with locked(folder / "notes", LOCK_SECONDS, f"the list of triggers in {folder}"):
        write_json(folder / "wanted.json", change(_notes(folder)))
