"""A Ray head as `ray start --head` makes it: processes of its own, a client server, and a token that all must have.

def test_x(head):                        # tests/flows/scale/test_ray_head.py has the fixture
    engine.connect(ScaleParams(engine="ray", address=head.client))
    head.kill()                          # the whole node, with SIGKILL
    head.start()                         # a new cluster at the same addresses
"""

import os
import random
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from flows.scale import engine
from flows.scale.scratch import SOCKETS, scratch_folder
from flows.scale.start import QUIET
from tests.support.checkout import ROOT
from tests.support.waiting import until

PORTS = range(20_100, 22_900)  # none that Ray (10002 to 19999, 23000 to 24000) or the system gives away
CPUS = 2


@dataclass
class Head:
    """Addresses of a head, and its processes."""

    environment: dict[str, str]
    host: str  # "127.0.0.1:6379", for programs of this machine
    client: str  # "ray://127.0.0.1:10001"
    printed: Path  # a file
    started: list[subprocess.Popen] = field(default_factory=list)

    def start(self) -> None:
        """Start the head; returns before it answers."""
        ports = "--port", _port(self.host), "--ray-client-server-port", _port(self.client)
        size = "--num-cpus", str(CPUS), "--object-store-memory", str(200 << 20)
        less = "--include-dashboard", "false", "--include-log-monitor", "false", "--disable-usage-stats"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--node-ip-address", "127.0.0.1", *ports, *size, *less]
        with open(self.printed, "w") as printed:
            self.started.append(subprocess.Popen(command, env=self.environment, stdout=printed, stderr=printed))

    def answers(self) -> bool:
        """Whether both ports are open."""
        for address in (self.host, self.client):
            try:
                socket.create_connection(("127.0.0.1", int(_port(address))), 1).close()
            except OSError:
                return False
        return True

    def wait(self) -> None:
        """Return once the head answers."""
        try:
            until(self.answers, 120)
        except AssertionError as error:
            raise AssertionError(self.printed.read_text()) from error

    def kill(self) -> None:
        """End the node at once with all it has started, as a machine that is taken away."""
        seen: set[psutil.Process] = set()

        def gone() -> bool:
            for process in self.started:
                with suppress(psutil.NoSuchProcess):
                    seen.update(psutil.Process(process.pid).children(recursive=True))
            for process in seen:  # Ray renames processes, which hides their environment: only their parents tell
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            return not any(map(_runs, seen))

        until(gone, 60, "processes of Ray are left")
        while self.started:
            process = self.started.pop()
            process.kill()
            process.wait()


@contextmanager
def running_head() -> Iterator[Head]:
    """A head of CPUS cores that answers. In the block, this process has its token, and finds it as `auto`."""
    with scratch_folder("eg-ray-", SOCKETS) as folder, pytest.MonkeyPatch.context() as patch:
        (folder / "ray").mkdir()  # where Ray notes the address
        for name, value in QUIET.items():
            patch.setenv(name, os.environ.get(name, value))
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # workers import tests/
        patch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "120")  # for a client's server, on a loaded machine
        host, client = (f"127.0.0.1:{port}" for port in _free_ports(2))
        head = Head(
            {**os.environ, "PYTHONPATH": path},
            host,
            f"ray://{client}",
            folder / "printed.txt",
        )
        try:
            head.start()
            head.wait()
            yield head
        finally:
            engine.disconnect()
            head.kill()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _free_ports(count: int) -> list[int]:
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no free port from {PORTS.start} to {PORTS.stop}")
