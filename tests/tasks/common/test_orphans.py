"""Workers end when their parent is killed: real pools, a real kill -9, processes counted afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.common.orphans import end_with_parent
from tests.support.checkout import ROOT
from tests.support.waiting import until

DECODING = """
import sys
from tasks.inspection.sandbox import sandboxed_map
from tests.tasks.common.test_orphans import note_and_wait
list(sandboxed_map(note_and_wait, [sys.argv[1].encode()] * 2, workers=2, memory=1 << 30))
"""
JOBLIB = """
import os, sys
from joblib import Parallel, delayed
from tests.tasks.common.test_orphans import watch_and_wait
Parallel(n_jobs=2)(delayed(watch_and_wait)(os.getpid(), sys.argv[1]) for _ in range(2))
"""


def note_and_wait(folder: bytes) -> None:
    """In a worker of the sandbox: say who it is, then hang."""
    (Path(folder.decode()) / str(os.getpid())).touch()
    time.sleep(600)


def watch_and_wait(parent: int, folder: str) -> None:
    """In a worker of joblib."""
    end_with_parent(parent)
    end_with_parent(parent)
    note_and_wait(folder.encode())


@pytest.mark.parametrize("script", [DECODING, JOBLIB], ids=["sandbox", "joblib"])
def test_no_worker_outlives_a_killed_parent(script, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    workers = until(lambda: [int(file.name) for file in tmp_path.iterdir()], 120)
    assert all(psutil.pid_exists(pid) for pid in workers)
    family = psutil.Process(parent.pid).children(recursive=True)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, left = psutil.wait_procs(family, timeout=60)
    assert left == [], "they would hold memory and files for minutes"


def test_a_pool_of_one_worker_that_works_in_its_parent_does_not_end_it():
    code = (
        "import os, time\n"
        "from tasks.common.orphans import end_with_parent\n"
        "end_with_parent(os.getpid())\n"
        "time.sleep(0.5)\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
