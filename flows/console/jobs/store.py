"""Jobs: commands that the console runs for a person, each in a process of its own.

    .evergreen/jobs/<id>.json   what, by whom, since when, how it ended; <id>.log: what it printed

A job goes on when the web server ends or the page is closed. A slot ("approve 20261121-080000-ab12") has one job at a
time: a second press of the button leads to the first job.
"""

import functools
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime

from flows.server.environment import environment
from flows.server.processes import created
from tasks.common.checks import Frozen
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.person import VARIABLE
from tasks.common.private import make_folder, open_private
from tasks.common.rebuildable import read_rebuildable
from tasks.common.text import one_line

ID = re.compile(r"[0-9]{8}T[0-9]{12}-[0-9a-f]{8}")
KEPT = timedelta(days=7)
SHOWN = timedelta(minutes=10)  # how long a job's end is shown in place of its button
LOG = 64 << 10  # bytes of the log's end that are read
LETTERS = 600  # of what a job said at its end
LOCK_SECONDS = 30.0


class Job(Frozen):
    """One job. `code` None: it runs, or died without a word."""

    id: str
    slot: str
    title: str
    by: str
    back: str  # the page that its button was on
    arguments: list[str]
    at: AwareDatetime
    pid: int | None = None
    created: str | None = None  # of the process, for pids are used again
    ended: AwareDatetime | None = None
    code: int | None = None
    said: str = ""  # the last lines that it printed

    @property
    def runs(self) -> bool:
        """Whether its process is alive."""
        return self.ended is None and self.pid is not None and created(self.pid) == self.created

    @property
    def failed(self) -> bool:
        """Whether it ended badly."""
        return not self.runs and self.code != 0

    @property
    def fresh(self) -> bool:
        """Whether it ended so recently that the page still says how."""
        return not self.runs and datetime.now(UTC) - (self.ended or self.at) < SHOWN

    @property
    def result(self) -> str:
        """How it ended, in a sentence."""
        if self.ended is None:
            return "This was interrupted: its process ended without a word. Try it again."
        return self.said or ("Done." if self.code == 0 else f"It ended with exit code {self.code}.")


def start_job(root: Path, arguments: Sequence[str], *, slot: str, title: str, by: str, back: str) -> Job:
    """Run `evergreen ARGUMENTS` for the person `by`; the job that runs already, if the slot has one."""
    folder = jobs_dir(root)
    with locked(folder / ".lock", LOCK_SECONDS, "the console's jobs"):
        if (known := newest_job(root, slot)) and known.runs:
            return known
        _prune(folder)
        now = datetime.now(UTC)
        job = Job(
            id=f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}", slot=slot, title=title, by=by, back=back,
            arguments=list(arguments), at=now,
        )  # fmt: skip
        write_job(folder, job)
        with open(folder / f"{job.id}.log", "ab", opener=open_private) as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.console.jobs.child", job.id],  # -P: the code that the console runs
                cwd=root,
                env=environment(root) | {VARIABLE: by, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # survives the web server
            )
        job = job.model_copy(update={"pid": process.pid, "created": created(process.pid)})
        known = read_job(root, job.id)  # a very short job may have ended by now
        if known is not None and known.ended is None:
            write_job(folder, job)
        return job


def read_job(root: Path, id_: str) -> Job | None:
    """The job called `id_`; None if there is none."""
    if not ID.fullmatch(id_):
        return None
    job = _read(jobs_dir(root) / f"{id_}.json")
    if job is None or job.ended is not None or job.runs:
        return job
    return _read(jobs_dir(root) / f"{id_}.json")  # it may have ended between the reading and the look at its process


def _read(file: Path) -> Job | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return _parsed(file, (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=2000)
def _parsed(file: Path, stamp: tuple[int, int, int]) -> Job | None:
    """The job in `file`, parsed once for each `stamp`: every button of a page looks through all jobs."""
    return read_rebuildable(file, Job.model_validate, "this job is forgotten")


def newest_job(root: Path, slot: str) -> Job | None:
    """The newest job of a slot."""
    return next((job for job in jobs(root) if job.slot == slot), None)


def running_jobs(root: Path) -> list[Job]:
    """The jobs that run now, newest first."""
    return [job for job in jobs(root) if job.runs]


def jobs(root: Path) -> list[Job]:
    """All jobs that are remembered, newest first."""
    found = (read_job(root, file.stem) for file in sorted(jobs_dir(root).glob("*.json"), reverse=True))
    return [job for job in found if job is not None]


def log_end(root: Path, id_: str) -> str:
    """The end of what a job printed."""
    file = jobs_dir(root) / f"{id_}.log"
    if not file.is_file():
        return ""
    with open(file, "rb") as handle:
        handle.seek(max(0, file.stat().st_size - LOG))
        return handle.read().decode("utf-8", "replace")


def said(log: str) -> str:
    """What a job said last, on one line: for an error all of its lines are needed."""
    lines = [line for line in log.replace("\r", "\n").splitlines() if line.strip()]
    kept: list[str] = []
    for line in reversed(lines):
        if sum(map(len, kept)) + len(line) > LETTERS and kept:
            break
        kept.insert(0, line.strip())
        if not line.startswith((" ", "\t")) and len(kept) >= 3:
            break
    return one_line(" ".join(kept), LETTERS)


def write_job(folder: Path, job: Job) -> None:
    """Write what is known of a job."""
    write_json(folder / f"{job.id}.json", job.model_dump(mode="json"))


def jobs_dir(root: Path) -> Path:
    """The folder of the jobs."""
    folder = state_dir(root) / "jobs"
    make_folder(folder)
    return folder


def _prune(folder: Path) -> None:
    for file in [*folder.glob("*.json"), *folder.glob("*.log")]:
        if time.time() - file.stat().st_mtime > KEPT.total_seconds():
            file.unlink(missing_ok=True)
