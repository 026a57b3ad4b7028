"""Keeps each run's queue of labels that look wrong, for when the run's workspace is gone.

.evergreen/label-issues/<run id>.csv    artifacts/clean/queue.csv of that run; the newest ones stay
"""

import shutil
from pathlib import Path

from tasks.common.files import atomic_path
from tasks.common.paths import state_dir

KEEP = 20  # queues of runs that stay


def queue_file(root: Path, run_id: str) -> Path:
    """Where the queue of run `run_id` is kept."""
    return state_dir(root) / "label-issues" / f"{run_id}.csv"


def keep_queue(root: Path, run_id: str) -> Path:
    """Copy the queue of the run in worktree `root`, and delete the oldest ones; returns the copy."""
    file = queue_file(root, run_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary:
        shutil.copyfile(root / "artifacts/clean/queue.csv", temporary)
    for old in sorted(file.parent.glob("*.csv"))[:-KEEP]:  # run ids sort by time
        old.unlink(missing_ok=True)
    return file
