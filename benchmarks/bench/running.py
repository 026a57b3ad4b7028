"""Run one benchmark in a process of its own, and keep how it ended, so that a stopped `make bench` goes on.

.bench/done/<name>.json     {schema, command, code, outcome, seconds, began, machine, said}
.bench/logs/<name>.txt      all that it printed
.bench/kept/<name>/         its own folder, which lasts
.bench/peers/<name>/        the environment of its peers
"""

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench.catalogue import FOLDER, Benchmark, absent
from benchmarks.record import machine
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import sha256_bytes, write_json
from tasks.common.rebuildable import expect, read_rebuildable

SCHEMA = 1
INSTALL_SECONDS = 900
LAST = 12  # lines of the output that the page shows of a benchmark that failed


@dataclass(frozen=True)
class Done:
    """How one benchmark ended: "measured", "failed" or "left out". `code`: of its script, when it ran."""

    name: str
    command: str
    code: str
    outcome: str
    seconds: float
    began: str
    machine: str
    said: str


@dataclass(frozen=True)
class Place:
    """Where the image sets are (None: nowhere), where `make bench` keeps its state, whether passes are quick."""

    data: Path | None
    state: Path
    quick: bool

    @property
    def done(self) -> Path:
        return self.state / ("quick" if self.quick else "done")


def script_code(name: str) -> str:
    """Changes with the script's text. What it measures changes daily, which does not count."""
    return sha256_bytes((FOLDER / f"{name}.py").read_bytes())[:16]


def read_done(one: Benchmark, place: Place) -> Done | None:
    """How `one` ended last time; None if it has not run, or its script or arguments have changed since."""

    def accept(about: dict) -> Done:
        refuse_newer(about.get("schema"), SCHEMA, one.name)
        return Done(**{name: about[name] for name in Done.__dataclass_fields__} | {"said": expect(about["said"], str)})

    found = read_rebuildable(place.done / f"{one.name}.json", accept, "the benchmark runs again")
    same = found is not None and found.code == script_code(one.name) and found.command == command_of(one, place)
    return found if same else None


def command_of(one: Benchmark, place: Place) -> str:
    """The command without its interpreter, as a person would type it with these folders."""
    arguments = (one.quick or "") if place.quick else one.arguments
    folders = {"{kept}": _kept(one, place), "{data}": place.data or "DATA", "{peers}": _python(one, place)}
    for name, path in folders.items():
        arguments = arguments.replace(name, shlex.quote(str(path)))
    return f"-m benchmarks.{one.name} {arguments}".strip()


def _kept(one: Benchmark, place: Place) -> Path:
    return place.state / ("kept-quick" if place.quick else "kept") / one.name


def _python(one: Benchmark, place: Place) -> Path:
    return place.state / "peers" / one.name / "bin/python"


def lacking(one: Benchmark, place: Place) -> str:
    """What `one` would need and is not there, as a phrase; "" if nothing is known to be missing."""
    arguments = one.quick if place.quick else one.arguments
    if arguments is None:
        return "a quick pass, which it does not have"
    if not place.quick and (absences := [need for need in one.needs if absent(need)]):
        return ", ".join(absences)
    if "{data}" not in arguments:
        return ""
    if place.data is None:
        return "image sets: name their folder with --data"
    missing = [name for name in one.sets if name in arguments and not (place.data / name).is_file()]
    return f"{', '.join(missing)} in {place.data}" if missing else ""


def run(one: Benchmark, place: Place, say=print) -> Done:
    """Run `one` to its end and keep the result. KeyboardInterrupt ends its processes, and keeps nothing."""
    began, start = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    outcome, said = "left out", lacking(one, place)
    if not said and one.peers and "{peers}" in ((one.quick or "") if place.quick else one.arguments):
        said = make_peers(one, place, say)
    if not said:
        code, said = _run(shlex.split(command_of(one, place)), one, place)
        outcome = "failed" if code else "measured"
    done = Done(
        name=one.name,
        command=command_of(one, place),
        code=script_code(one.name),
        outcome=outcome,
        seconds=round(time.monotonic() - start, 1),
        began=began,
        machine=machine(),
        said=said,
    )
    write_json(place.done / f"{one.name}.json", {"schema": SCHEMA} | asdict(done))
    return done


def _run(arguments: list[str], one: Benchmark, place: Place) -> tuple[int, str]:
    """(exit code, the last lines) of a child in a session of its own."""
    _kept(one, place).mkdir(parents=True, exist_ok=True)
    log = place.state / "logs" / f"{one.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=FOLDER.parent,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGINT)  # as Ctrl-C in a terminal reaches all of them
            try:
                child.wait(timeout=30)
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            raise
    return code, "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST:])


def make_peers(one: Benchmark, place: Place, say=print) -> str:
    """Make the environment of `one`'s peers, once; "" if it is there, else why not."""
    folder = _python(one, place).parent.parent
    wanted = hashlib.sha256("\n".join(one.peers).encode()).hexdigest()
    ready = folder / "ready"
    if ready.is_file() and ready.read_text() == wanted:
        return ""
    say(f"  installing its peers: {', '.join(one.peers)}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = Path(sys.executable).parent / "uv"
    steps = [[uv, "venv", "--quiet", "--python", sys.executable, folder]]
    steps += [[uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *one.peers]]
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
            return f"its peers ({', '.join(one.peers)}) could not be installed: {' '.join(why)}"
    ready.write_text(wanted)
    return ""


def check_names(names: list[str], known: list[str]) -> None:
    """Raise EvergreenError for names that are no benchmark."""
    if unknown := [name for name in names if name not in known]:
        raise EvergreenError(f"no benchmark is called {', '.join(unknown)}: `make bench BENCH=--list` names them")
