"""One experiment that is being made: its workspace, its process here or on a worker, its result."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flows.publishing.experiment_table import Row
from flows.repo import workspace
from flows.repo.git import git
from flows.server.environment import environment
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.params import ScaleParams
from tasks.common.paths import main_checkout, state_dir

INTERRUPTED = 130
PARENT = "EVERGREEN_PARENT"  # the process whose end is the trial's end, too
PROCESS = "flows.experiments.process"
GRACE_SECONDS = 2.0  # for a process that got Ctrl-C to take back what it was writing
LOOK = 0.2  # seconds between two looks at a process on a worker: an interrupt of the task wakes no call that waits
TRIAL_CORES = 2  # of a trial on a cluster without GPUs: training and most stages gain little from more


@dataclass
class Trial:
    """An experiment to make. `held` gives back the workspace, and the lock of its inputs, when it closes."""

    name: str
    root: Path  # the checkout
    folder: Path  # of the workspace; the worktree is folder/tree
    locks: tuple[int, int]  # descriptors, which its process on this machine inherits
    held: ExitStack = field(repr=False)

    @classmethod
    def begin(cls, root: Path, tombstones: dict, asked: dict[str, Any], text: str, reason: str, flight: int) -> "Trial":
        """Make the workspace, with params.yaml `text`. asked: what `flows.experiments.run.main` reads.

        flight: the descriptor of the lock of its inputs.
        """
        about = asked["about"]
        with ExitStack() as held:
            tree, lock = workspace.create(root, workspace.new_run_id(about["key"]), tombstones)
            trial = cls(about["name"], root, tree.parent, (lock, flight), held)
            held.callback(trial._remove)
            (tree / "params.yaml").write_text(text, encoding="utf-8")
            write_json(trial.folder / "asked.json", asked)
            write_json(trial.folder / "started.json", {"key": about["key"], "reason": reason, "by": about["by"]})
            trial.held = held.pop_all()
        return trial

    def close(self) -> None:
        """Remove the workspace and release the locks: the process has ended."""
        self.held.close()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.locks[0])
        git(main_checkout(self.root), "worktree", "prune")

    def result(self, code: int) -> Row | str:
        """The row of the experiment, or why it failed, after its process ended with `code`."""
        made = read_json(self.folder / "made.json") if (self.folder / "made.json").is_file() else {}
        if "row" in made:
            return Row.model_validate(made["row"])
        return made.get("error") or f"its process ended with exit code {code}"


@dataclass(frozen=True)
class Ended:
    """How the process of a trial ended, and the seconds that it took."""

    code: int
    seconds: float


def run_here(trials: Iterable[Trial], out: TextIO | None) -> Iterator[Ended]:
    """Run `trials` on this machine, one after another. out: where they print; None: standard output."""
    for trial in trials:
        began = time.monotonic()
        yield Ended(_run_here(trial, out), time.monotonic() - began)


def _run_here(trial: Trial, out: TextIO | None) -> int:
    env = environment(trial.root) | _variables(trial.folder, state_dir(trial.root))
    command = [sys.executable, "-m", PROCESS, trial.folder.name]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child unblocks it once it can end cleanly
    try:
        process = subprocess.Popen(command, cwd=trial.folder / "tree", env=env, stdout=out, pass_fds=trial.locks)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while True:
        try:
            return _plain(process.wait())
        except KeyboardInterrupt:  # the child got it, too (same terminal)
            continue


def run_on_ray(trials: Iterable[Trial], scale: ScaleParams, say: Callable[[str], object]) -> Iterator[Ended]:
    """Run `trials` on the workers of a Ray cluster, as many at once as it has room for.

    The workers see the project's folder. Raises EvergreenError where the cluster cannot be used.
    """
    from flows.scale import engine
    from flows.scale.map import ray_map

    cluster = engine.connect(scale)
    cores, gpus = (1, 1) if cluster.gpus else (min(TRIAL_CORES, max(1, int(cluster.cpus / cluster.nodes))), 0)
    at_once = max(1, int(cluster.gpus or cluster.cpus // cores))
    say(f"up to {at_once} at once on {cluster.sentence()}")
    roots = (OnWorker(trial.folder, state_dir(trial.root)) for trial in trials)
    return ray_map(OnWorker.run, roots, in_flight=at_once, say=say, name=str, cpus=cores, gpus=gpus)


@dataclass(frozen=True)
class OnWorker:
    """A trial as a Ray task gets it."""

    folder: Path
    state: Path

    def __str__(self) -> str:
        return f"experiment {self.folder.name}"

    def run(self) -> Ended:
        """Run the process on this node. It ends with the task, also if the worker is killed."""
        tree, began = self.folder / "tree", time.monotonic()
        if not tree.is_dir():
            raise EvergreenError(
                f"the Ray worker on {socket.gethostname()} does not see {tree}: mount the project under this path on "
                "every node, or set scale.engine: local for experiments"
            )
        env = os.environ | _variables(self.folder, self.state) | {PARENT: str(os.getpid())}
        with open(self.folder / "printed.txt", "a") as out:
            command = [sys.executable, "-m", PROCESS, self.folder.name]
            process = subprocess.Popen(command, cwd=tree, env=env, stdout=out, stderr=out)
            try:
                while process.poll() is None:
                    time.sleep(LOOK)
                return Ended(_plain(process.returncode), time.monotonic() - began)
            finally:  # an interrupted task gets KeyboardInterrupt; where the worker is killed, PARENT ends the process
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
                process.kill()
                process.wait()


def _variables(folder: Path, state: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(folder / "tree"),  # the code of its commit
        "PYTHONUNBUFFERED": "1",
        "EVERGREEN_STATE": str(state),
    }


def _plain(code: int) -> int:
    return 128 - code if code < 0 else code
