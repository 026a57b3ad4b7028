"""The arms of benchmarks.loop_vs_scripts: Evergreen and the peers, each in a project of its own.

Each arm builds a model from the first delivery, answers the second one and reports its drift, and trains again with it.
"""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loops.measured import Phase, environment, run, stored, told
from benchmarks.loops.written import lines_of
from benchmarks.scratch import change_params
from flows.repo.git import git
from flows.server.process import healthy
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json
from tests.support.waiting import until

PEERS = "benchmarks.scripts_peers"
START_SECONDS = 180  # a Prefect server on busy cores
OURS_MARKS = {"training": r"^\s*clean\s", "trained": r"^\s*train_head\s"}
SCRIPT_MARKS = {"training": r"^training$", "trained": r"^trained$"}
REPRO_MARKS = {"training": r"Running stage 'train_backbone'", "trained": r"Running stage 'calibrate'"}
SERVER = "from pathlib import Path; from flows.server.process import ensure_server; ensure_server(Path.cwd())"
REJECTED = 4  # exit code of `evergreen retrain`: trained and judged, not better


@dataclass(frozen=True)
class Work:
    """What every arm gets: the deliveries, the side in pixels, other params of a quick pass."""

    photos: Path
    side: int
    changes: dict

    @property
    def first(self) -> str:
        return str(self.photos / "first")

    @property
    def new(self) -> str:
        return str(self.photos / "new")


def evergreen(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flows.cli.main import entry; entry()", *arguments]


def by_hand(name: str, *arguments: str) -> list[str]:
    """A script of scripts_peers."""
    run_by = [] if name == "loop_c" else ["benchmarks.loops.as_user"]  # loop_c imports no torch, which as_user would
    return [sys.executable, "-m", *run_by, f"{PEERS}.{name}", *arguments]


def ours(folder: Path, work: Work, seconds: list[float]) -> dict:
    """`evergreen ingest` and `retrain`, `score` and `monitor`; `seconds` is not read: ours says what the others get."""
    root, env = _evergreen_project(folder, work)

    def retrain(source: str) -> Phase:
        return run([evergreen("ingest", source), evergreen("retrain")], root, OURS_MARKS, env, (0, REJECTED))

    run([[sys.executable, "-c", SERVER]], root, env=env)
    try:
        phases = {"build": told("ours, build", retrain(work.first))}
        scores = [_score(root)]
        phases["watch"] = told("ours, watch", run([evergreen("score", work.new), evergreen("monitor")], root, env=env))
        phases["retrain"] = told("ours, retrain", retrain(work.new))
        scores.append(_score(root))
    finally:
        run([evergreen("down")], root, env=env)
    return _result(root, phases, scores, lines=1, commands=5)  # the resolution; init, ingest, retrain, score, monitor


def repro(folder: Path, work: Work, seconds: list[float]) -> dict:
    """Peer C: `dvc repro` over our stages, the release and the drift report by a script."""
    root, env = _evergreen_project(folder, work)
    own = {"PYTHONPATH": env["PYTHONPATH"] + ":" + environment()["PYTHONPATH"]}  # its script lies in this checkout

    def retrain(source: str) -> Phase:
        commands = [evergreen("ingest", source), [sys.executable, "-m", "dvc", "repro"], by_hand("loop_c", "release")]
        return run(commands, root, REPRO_MARKS, own)

    phases = {"build": told("c, build", retrain(work.first))}
    scores = [read_json(root / "metrics/evaluate.json")["test"]["balanced_accuracy"]]
    phases["watch"] = told("c, watch", run([by_hand("loop_c", "drift", work.new)], root, env=own))
    phases["retrain"] = told("c, retrain", retrain(work.new))
    scores.append(read_json(root / "metrics/evaluate.json")["test"]["balanced_accuracy"])
    return _result(root, phases, scores, lines=1 + lines_of("loop_c"), commands=5)


def script(name: str, folder: Path, work: Work, seconds: list[float]) -> dict:
    """Peer A or B: a Prefect flow of its own, which may train for `seconds` (build, retrain)."""
    root, commands = _dvc_repository(folder)
    with prefect_server(folder) as url:
        env, side = {"PREFECT_API_URL": url, "PREFECT_HOME": str(folder / "prefect")}, str(work.side)

        def retrain(source: str, given: float) -> Phase:
            commands = [["cp", "-r", f"{source}/.", "photos"], by_hand(name, side, f"{given:.1f}")]
            return run(commands, root, SCRIPT_MARKS, env)

        phases = {"build": told(f"{name}, build", retrain(work.first, seconds[0]))}
        scores = [_score_of_script(root)]
        watch = run([by_hand("drift", work.new, side)], root, env=env)
        phases["watch"] = told(f"{name}, watch", watch)
        phases["retrain"] = told(f"{name}, retrain", retrain(work.new, seconds[1]))
        scores.append(_score_of_script(root))
    return _result(root, phases, scores, lines=lines_of(name, "drift"), commands=commands + 3)  # cp, flow, drift


def _dvc_repository(folder: Path) -> tuple[Path, int]:
    """(an empty git and DVC repository, how many commands made it)."""
    root, dvc = folder / "project", [sys.executable, "-m", "dvc"]
    root.mkdir(parents=True)
    _repository(root)
    (root / ".gitignore").write_text("/.store\n/cache\n/report.html\n")
    commands = [[*dvc, "init", "--quiet"], [*dvc, "config", "core.analytics", "false"]]
    commands += [[*dvc, "remote", "add", "--quiet", "--default", "store", ".store"]]
    commands += [["git", "add", ".dvc", ".gitignore"], ["git", "commit", "--quiet", "-m", "start"]]
    run(commands, root)
    return root, len(commands)


def _evergreen_project(folder: Path, work: Work) -> tuple[Path, dict[str, str]]:
    """(project, environment) after `evergreen init`; not timed, as no arm's set-up is."""
    root = folder / "project"
    folder.mkdir(parents=True)
    run([evergreen("init", str(root), "--data", work.first, "--fast")], folder)
    change_params(root, {"images": {"resolution": work.side}} | work.changes)
    git(root, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-am", "the resolution")
    git(root, "config", "user.name", "a person")
    git(root, "config", "user.email", "person@localhost")
    return root, {"PYTHONPATH": str(root)}


def _repository(root: Path) -> None:
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "a person")
    git(root, "config", "user.email", "person@localhost")


def _score(root: Path) -> float:
    """Balanced accuracy of the newest run's exported model on the test photos."""
    newest = max((root / ".evergreen/runs").glob("*/tree/metrics/evaluate.json"))
    return read_json(newest)["test"]["balanced_accuracy"]


def _score_of_script(root: Path) -> float:
    return read_json(root / "judged.json")["balanced_accuracy"]


def _result(root: Path, phases: dict[str, Phase], scores: list[float], lines: int, commands: int) -> dict:
    about = {name: phase.record() for name, phase in phases.items()}
    written = {"lines": lines, "commands": commands}
    size = stored(root) - stored(root / ".evergreen/prefect")  # a script's Prefect lies elsewhere
    return about | written | {"scores": scores, "stored": size}


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """The address of a Prefect server of its own, as a user has one running."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment({"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"})
    url = f"http://127.0.0.1:{port}/api"
    with open(folder / "prefect.log", "wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: healthy(url) or server.poll() is not None, START_SECONDS)
        if server.poll() is not None:
            raise EvergreenError(f"the Prefect server ended with {server.returncode}: see {log.name}")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


ARMS = {
    "ours": ours,
    "a": lambda *work: script("loop_a", *work),
    "b": lambda *work: script("loop_b", *work),
    "c": repro,
}


def measure(name: str, folder: Path, work: Work, seconds: list[float]) -> dict:
    """The result of arm `name` in an empty `folder`, which is deleted afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return ARMS[name](folder, work, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
