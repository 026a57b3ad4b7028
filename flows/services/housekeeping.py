"""The nightly clean-up: retention, leftovers, unfinished releases, unsent alerts."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.erasure.forget import complete_erasures
from flows.production.feedback import take_feedback
from flows.production.finish import finish_idle
from flows.project.uploads import sweep_uploads
from flows.publishing import run_records
from flows.publishing.publish import reconcile
from flows.repo import workspace
from monitoring.alerts import alert_once, retry_alerts
from monitoring.journal import Journal
from monitoring.log.production_log import open_log
from monitoring.log.shadow import open_shadow_log
from monitoring.pages.evidently import prune as prune_snapshots
from monitoring.pages.evidently import workspace_dir
from monitoring.silence import monitor_silence
from tasks.common.errors import EvergreenError
from tasks.common.files import sweep
from tasks.common.params import load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.private import open_private
from tasks.releases.store import open_store

LONGEST_LOG = 50 << 20  # bytes of a service's log before it is cut


def housekeeping(root: Path, say: Callable[[str], None] = print, now: datetime | None = None) -> str:
    """Run every clean-up step, whether or not an earlier one failed. Returns one sentence.

    Raises EvergreenError at the end if any step failed.
    """
    now = now or datetime.now(UTC)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    log = open_log(root, params)
    steps: dict[str, Callable[[], int]] = {  # labels first: their images may expire today
        "labels of clients that waited to be taken": lambda: take_feedback(main_checkout(root)).changes,
        "expired log files": lambda: log.prune(now, params.capture.keep_days, params.capture.keep_gb),
        "expired files of unseen answers": lambda: open_shadow_log(root, params).prune(
            now, params.capture.keep_days, params.capture.keep_gb
        ),
        "journal entries": lambda: Journal(log.store).prune(params.report.keep),
        "Evidently snapshots": lambda: prune_snapshots(workspace_dir(root), params.report.keep),
        "leftovers of unfinished writes": lambda: releases.sweep() + log.store.sweep() + sweep(state_dir(root)),
        "unfinished releases": lambda: len(reconcile(main_checkout(root), releases, params.bundle.name)),
        "unfinished records of runs": lambda: len(run_records.reconcile(root, releases)),  # read from their workspaces
        "dead runs": lambda: len(workspace.reconcile(root)),
        "answers about samples that waited to be taken": lambda: finish_idle(main_checkout(root)),
        "uploads that were not taken": lambda: sweep_uploads(root),
        "overlong logs": lambda: trim(state_dir(root)),
        "erasures that were killed": lambda: len(complete_erasures(root)),
    }
    done, failed = [], []
    for what, step in steps.items():
        try:
            count = step()
        except (EvergreenError, OSError) as error:
            failed.append(f"{what}: {error}")
            say(failed[-1])
            continue
        if count:
            done.append(f"{count} {what}")
    for problem in retry_alerts(root):
        say(problem)
    silent = monitor_silence(root, now - timedelta(days=1), now)
    alert_once(root, "monitor silence", "silence", silent)
    if failed:
        raise EvergreenError(f"housekeeping failed in part: {'; '.join(failed)}")
    return f"removed or repaired: {', '.join(done) or 'nothing'}{f'. ALARM: {silent}' if silent else ''}"


def trim(folder: Path) -> int:
    """Cut service logs that grew too long down to their last MB. Their writers append, so they simply go on."""
    count = 0
    for path in folder.glob("*.log"):
        if path.stat().st_size > LONGEST_LOG:
            with open(path, "r+b") as log:
                log.seek(-(1 << 20), 2)
                tail = log.read()
                log.truncate(0)
            with open(path, "ab", opener=open_private) as log:
                log.write(f"--- emptied at {time.strftime('%Y-%m-%d %H:%M:%S')}, the last MB was:\n".encode() + tail)
            count += 1
    return count
