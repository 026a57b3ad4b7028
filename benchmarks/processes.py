"""Run fresh processes for the benchmarks and measure their trees: seconds, CPU seconds, memory."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.common.errors import EvergreenError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Usage:
    """What a process and all its descendants used. Memory is in bytes, at its peak."""

    wall: float  # seconds from start to end, the interpreter's start included
    cpu: float  # seconds, user and system
    largest: int  # resident memory of the largest process
    tree: int  # sampled sum over processes, shared pages counted once; 0 unless sampled
    tree_private: int  # the part not backed by a file, which the kernel cannot reclaim; 0 unless sampled
    output: str  # what it printed


def python(code: str, *arguments: object, sample: bool = False) -> Usage:
    """Run `code` with `arguments` as sys.argv[1:] in a new Python process that imports this checkout.

    `sample`: look at the memory of its process tree every SAMPLE_SECONDS (Linux). Raises EvergreenError if it fails.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("EVERGREEN_STATE", None)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise every process compiles all libraries, which is not our cost
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=env, stdout=out, stderr=err
        )
        watch = MemoryWatch(child.pid) if sample else None
        _, status, used = os.wait4(child.pid, 0)  # includes the usage of its reaped descendants
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        peak = watch.end() if watch else (0, 0, 0)
        out.seek(0)
        err.seek(0)
        printed, said = out.read(), err.read()
    if child.returncode:
        raise EvergreenError(f"a measured process ended with {child.returncode}:\n{printed}{said}")
    return Usage(wall, used.ru_utime + used.ru_stime, *peak, printed)


class MemoryWatch:
    """Samples the memory of the process tree of `pid`, on a thread, until `end`: (largest process, tree, private)."""

    def __init__(self, pid: int, every: float = SAMPLE_SECONDS):
        self.pid, self.every, self.largest, self.peak, self.peak_private = pid, every, 0, 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self.every):
            found = [_proportional(pid) for pid in tree(self.pid)]
            # not getrusage's maxrss: a child inherits it from the process it was forked from
            self.largest = max([self.largest, *(whole for whole, _ in found)])
            self.peak = max(self.peak, sum(whole for whole, _ in found))
            self.peak_private = max(self.peak_private, sum(private for _, private in found))

    def end(self) -> tuple[int, int, int]:
        self._over.set()
        self._thread.join()
        return self.largest, self.peak, self.peak_private


def tree(pid: int) -> Iterator[int]:
    """`pid` and those of its descendants that are still alive."""
    children = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            children[int(stat.rpartition(")")[2].split()[1])].append(int(entry))
    todo = [pid]
    while todo:
        one = todo.pop()
        yield one
        todo += children[one]


def tree_cpu() -> float:
    """CPU seconds, user and system, of this process, its living descendants and its reaped children (Linux)."""
    ticks = 0
    for pid in tree(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended: its parent's fields now include its usage
            continue
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def _proportional(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, with its proportion of shared pages: all, and those not backed by a file."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:  # it has just ended
        return 0, 0
    value = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}
    return value["Pss"], value["Pss_Anon"] + value["Pss_Shmem"]
