"""One worker process, as the process that started it sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.server.processes import created

START_SECONDS = 300.0  # to load the models on a cold, busy machine
HANG_SECONDS = 60.0  # without a sign of life
BACK_OFF = (1.0, 60.0)  # seconds before another start: the first, the longest
STEADY = 60.0  # seconds after which a worker counts as healthy
LASTING = ("ready", "models", "pinned", "humans_only", "problems")  # the rest are counters


class Worker:
    """A process that runs flows.predictor.worker."""

    def __init__(self, number: int, root: Path, listening: socket.socket, env: dict[str, str]):
        """Start it. number: its place among the workers."""
        handle = listening.fileno()
        self.number = number
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.predictor.worker", str(handle)],
            cwd=root,
            env=env,
            stdin=subprocess.PIPE,  # its end tells the worker that this process died
            stdout=subprocess.PIPE,
            pass_fds=[handle],
            start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
        )
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self.pid, self.created = self.process.pid, created(self.process.pid)
        self.restarts, self.wait = 0, 0.0
        self.again = 0.0  # when its successor may start; 0: it runs
        self.old = False  # to be replaced
        self.replaces: Worker | None = None
        self.was_ready, self._asked_to_end = False, False
        self._told: dict[str, Any] = {}
        self._rest = b""
        self._started = self._heard = time.monotonic()

    @property
    def ready(self) -> bool:
        """Does it answer requests?"""
        return not self.again and bool(self._told.get("ready"))

    @property
    def versions(self) -> list[str]:
        """The versions that it answers with."""
        return [self._told["models"]["live"]] if self._told.get("models") else []

    def read(self) -> None:
        """Take what it tells of itself."""
        with suppress(BlockingIOError):
            *lines, self._rest = (self._rest + (os.read(self.output.fileno(), 1 << 16) or b"")).split(b"\n")
            for line in lines[-1:]:
                with suppress(ValueError):
                    self._told, self._heard = json.loads(line), time.monotonic()
                    self.was_ready |= self.ready

    def hangs(self) -> bool:
        """Has it given no sign of life for too long?"""
        return time.monotonic() - self._heard > (HANG_SECONDS if self._told else START_SECONDS)

    def ended(self) -> int | None:
        """Its exit code; None while it lives."""
        return self.process.poll()

    def back_off(self) -> None:
        """Let its successor wait: not at all after a worker that answered, else longer each time."""
        steady = time.monotonic() - self._started > STEADY
        first = self.restarts == 0 and self.was_ready
        self.wait = 0.0 if steady or first else min(max(BACK_OFF[0], 2 * self.wait), BACK_OFF[1])
        self.again = time.monotonic() + self.wait

    def terminate(self) -> None:
        """Ask it to stop after its last answers."""
        if not self._asked_to_end and self.process.poll() is None:
            self._asked_to_end = True
            self.process.terminate()

    def kill(self) -> None:
        """End it now."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, seconds: float) -> None:
        """Wait for its end, at most so long."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def about(self) -> dict[str, Any]:
        """Its entry in service.json."""
        found = {"number": self.number, "pid": self.pid, "created": self.created, "restarts": self.restarts}
        found |= {name: self._told.get(name) for name in LASTING} | {"ready": self.ready}
        return found | {"counters": {name: value for name, value in self._told.items() if name not in LASTING}}
