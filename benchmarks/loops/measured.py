"""Run the commands of one phase and measure them: seconds, seconds up to lines of their output, peak memory."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT, MemoryWatch
from benchmarks.scratch import say
from tasks.common.errors import EvergreenError

SAMPLE_SECONDS = 1.0  # a look at the memory of all processes takes milliseconds of a core
LAST = 40  # lines of the output, in the error


@dataclass(frozen=True)
class Phase:
    """What the commands of a phase took: wall seconds, and those until a line of their output matched a mark."""

    wall: float
    marks: dict[str, float]
    memory: int  # bytes, the highest of the process trees

    @property
    def before(self) -> float:
        """Seconds before training; all of them if nothing was trained."""
        return self.marks.get("training", self.wall)

    @property
    def training(self) -> float:
        return self.marks.get("trained", self.wall) - self.before

    def record(self) -> dict:
        """For the arm's result file."""
        parts = {"before": self.before, "training": self.training, "after": self.wall - self.before - self.training}
        return {"wall": self.wall, "memory": self.memory} | parts


def run(
    commands: Sequence[Sequence[str]],
    cwd: Path,
    marks: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    accepted: Sequence[int] = (0,),
) -> Phase:
    """Run `commands` one after the other in `cwd`. `marks`: name -> pattern of the line that ends this part.

    Raises EvergreenError with the last lines of a command that ends with another code than `accepted`, and if a mark
    was not found.
    """
    began, found, memory = time.perf_counter(), {}, 0
    patterns = {name: re.compile(pattern) for name, pattern in (marks or {}).items()}
    for command in commands:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        watch, lines = MemoryWatch(child.pid, SAMPLE_SECONDS), []
        try:
            for line in child.stdout:
                lines.append(line)
                for name, pattern in patterns.items():
                    if name not in found and pattern.search(line):
                        found[name] = time.perf_counter() - began
            child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            memory = max(memory, watch.end()[1])
        if child.returncode not in accepted:
            said = "".join(lines[-LAST:])
            raise EvergreenError(f"`{' '.join(command)}` in {cwd} ended with {child.returncode}:\n{said}")
    if missing := patterns.keys() - found.keys():
        said = "".join(lines[-LAST:])
        raise EvergreenError(f"no line of `{' '.join(commands[-1])}` says {', '.join(missing)}:\n{said}")
    return Phase(time.perf_counter() - began, found, memory)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with our interpreter's commands first, and without what would mix projects."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    for name in ("EVERGREEN_STATE", "PYTHONDONTWRITEBYTECODE", "PREFECT_API_URL", "OMP_NUM_THREADS"):
        env.pop(name, None)
    return env | dict(more or {})


def stored(folder: Path) -> int:
    """Bytes of the files under `folder`, each hard-linked file once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            about = os.lstat(Path(place, name))
            sizes[about.st_dev, about.st_ino] = about.st_size
    return sum(sizes.values())


def told(name: str, phase: Phase) -> Phase:
    """`phase`, said on stderr."""
    parts = phase.record()
    listed = ", ".join(f"{part} {parts[part]:.1f}" for part in ("before", "training", "after"))
    say(f"{name}: {phase.wall:.1f} s ({listed} s), {phase.memory / 1e6:.0f} MB")
    return phase
