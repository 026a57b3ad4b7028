"""Kills of `evergreen up`, alone or with the server, the supervisor and all that they started."""

import os
import signal
from pathlib import Path

import psutil

from benchmarks.killing.checks import check
from flows.services import up
from tests.support import versions_project
from tests.support.checkout import ROOT


def _mine(root: Path) -> list[psutil.Process]:
    """Every process that works for the project at `root`, apart from this one and its parents."""
    state, own = str(root / ".evergreen"), {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            values = process.environ().values() if process.pid not in own else ()
            if any(value == state or value.startswith(f"{state}/") for value in values):
                found.append(process)
        except psutil.Error:
            continue
    return found


class Up:
    """Starting all services of a project that has one release."""

    points = ()
    seconds = 600.0
    every = 6
    outlived = True  # the services are to outlive the command

    @staticmethod
    def make(root: Path) -> None:
        versions_project.copy(root, 1)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.environ.pop("PREFECT_API_URL", None)
        up.up(root, print)

    @staticmethod
    def victims(root: Path, seed: int) -> None:
        """Kill what the command started; the seed says whether all of it."""
        for number, process in enumerate(_mine(root)):
            if seed % 2 or number % 2:
                process.send_signal(signal.SIGKILL)

    @staticmethod
    def state(root: Path) -> object:
        return versions_project.store(root).live().version

    @staticmethod
    def stop(root: Path) -> None:
        up.down(root)

    @staticmethod
    def again(root: Path, seed: int) -> None:
        Up.act(root, seed)
        check(all(well for _, _, well in up.services(root)), f"not all services answer: {up.services(root)}")
        servers = [p.pid for p in _mine(root) if "flows.server.serve" in p.cmdline()]
        check(len(servers) == 1, f"Prefect servers of this project: {servers}")

    @staticmethod
    def whole(root: Path) -> None:
        up.down(root)
        left = [(p.pid, p.cmdline()[:5]) for p in _mine(root)]
        check(not left, f"`down` leaves {left}")
