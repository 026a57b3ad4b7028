"""The process of one job: runs its command and records how it ended.

python -m flows.console.jobs.child ID        (in the project's folder; flows.console.jobs.store starts it)
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from flows.console.jobs.store import LOCK_SECONDS, jobs_dir, log_end, read_job, said, write_job
from flows.server.processes import created
from tasks.common.files import locked
from tasks.common.paths import project_root


def main(root: Path, id_: str) -> int:
    """Run the job called `id_`; returns its exit code."""
    job = read_job(root, id_)
    if job is None:
        return 1
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flows.cli.main", *job.arguments], cwd=root, stdin=subprocess.DEVNULL
    )
    about = {"pid": os.getpid(), "created": created(os.getpid()), "ended": datetime.now(UTC)}
    about |= {"code": done.returncode, "said": said(log_end(root, id_))}
    with locked(jobs_dir(root) / ".lock", LOCK_SECONDS, "the console's jobs"):  # its start may not be written yet
        write_job(jobs_dir(root), job.model_copy(update=about))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(project_root(), sys.argv[1]))
