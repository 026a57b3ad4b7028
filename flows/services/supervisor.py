"""The process behind `evergreen up`: starts services and restarts those that die.

    python -m flows.services.supervisor        (in the project's folder)

While it is alive it holds a file lock on .evergreen/services.lock. It writes every pid and address to
.evergreen/services.json and checks once a minute whether the monitor is silent. Every process that it starts, directly
or not, has EVERGREEN_SERVICES in its environment. By that `evergreen down` finds what a killed supervisor left, and
processes that the runner put into sessions of their own.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.labels.journal import IDLE_SECONDS, idle_seconds
from flows.server.environment import environment, shown_host
from flows.server.process import ensure_server, free_port, running
from flows.server.processes import created
from monitoring.alerts import alert_once, retry_alerts
from monitoring.silence import monitor_silence
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import project_root, state_dir
from tasks.common.private import open_private

MARK = "EVERGREEN_SERVICES"
PREDICTOR = "predictor"  # needs no Prefect server
BACK_OFF = (1.0, 60.0)  # seconds before a restart: the first, the longest
STEADY = 60.0  # seconds after which a service counts as healthy and its back-off starts over
STOP = 6.0  # seconds that a service has to end by itself
TICK, LOOK = 1.0, 60.0  # seconds between checks of the services, and of the monitor's silence


def commands(root: Path, params: Params) -> dict[str, Callable[[], tuple[list[str], str | None]]]:
    """Map each service to a function that makes (its command, its address), with a port that is free at its start."""
    from monitoring.pages.evidently import evidently_ui_command, workspace_dir

    serve = params.serve
    shown = shown_host(serve)

    def runner():
        return [sys.executable, "-m", "flows.services.runner"], None

    ports = {}

    def evidently():
        ports["evidently"] = free_port(serve.evidently_port)
        # always on loopback: Evidently's `--secret` protects writes only
        return evidently_ui_command(workspace_dir(root), ports["evidently"]), f"http://127.0.0.1:{ports['evidently']}"

    def pages():
        port = free_port(serve.port, serve.host)
        command = [sys.executable, "-m", "flows.console.web", str(port), str(ports["evidently"])]
        return command, f"http://{shown}:{port}"

    def predictor():
        return [sys.executable, "-m", "flows.predictor.run", "--wait"], None

    found = {"runner": runner, "evidently": evidently, "pages": pages}
    return found | {PREDICTOR: predictor} if params.predictor.with_up else found


class Child:
    """One service: start it, watch it, restart it."""

    def __init__(self, name: str, make: Callable[[], tuple[list[str], str | None]]):
        self.name, self.make = name, make
        self.process: subprocess.Popen | None = None
        self.url: str | None = None
        self.restarts, self.started, self.again, self.wait = -1, 0.0, 0.0, BACK_OFF[0]

    def look(self, root: Path, env: dict[str, str]) -> bool:
        """Start the service if it is down and its back-off is over; returns whether anything changed."""
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                return False
            print(f"{self.name} ended with exit code {self.process.returncode}", flush=True)
            self.wait = BACK_OFF[0] if now - self.started > STEADY else min(self.wait * 2, BACK_OFF[1])
            self.process, self.again = None, now + self.wait
            return True
        if now < self.again:
            return False
        command, self.url = self.make()
        with open(state_dir(root) / f"{self.name}.log", "ab", opener=open_private) as log:
            self.process = subprocess.Popen(
                command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.started, self.restarts = now, self.restarts + 1
        return True

    def stop(self) -> None:
        """End the service, for `look` to start it again at once."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process, self.again = None, 0.0

    def about(self) -> dict[str, Any]:
        """The service's entry in services.json."""
        pid = self.process.pid if self.process else None
        return {"pid": pid, "created": created(pid) if pid else None, "url": self.url, "restarts": self.restarts}


def supervise(root: Path) -> None:
    """Supervise until SIGTERM. Ends at once if another supervisor of this project is alive."""
    state = state_dir(root)
    lock = open(state / "services.lock", "w", opener=open_private)  # noqa: SIM115 (held for the life of this process)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    since = datetime.now(UTC)
    params = load_params(root / "params.yaml")
    children = [Child(name, make) for name, make in commands(root, params).items()]
    looked, written, served = time.monotonic(), None, None
    try:
        while True:
            try:
                api = ensure_server(root, lambda line: print(line, flush=True))
                if served not in (None, api):  # they would go on asking the server that is gone
                    for child in children:
                        if child.name != PREDICTOR:
                            child.stop()
                served = api
                env = environment(root) | api.environment()
                changed = [child.look(root, env) for child in children]
                server = running(root)
                about = {
                    "pid": os.getpid(),
                    "created": created(os.getpid()),
                    "checkout": checkout(root).id,
                    "since": since.isoformat(timespec="seconds"),
                    "api": api.url,
                    "services": {
                        "prefect": {"pid": server["pid"] if server else None, "url": api.url.removesuffix("/api")},
                        **{child.name: child.about() for child in children},
                    },
                }
                if any(changed) or about != written:
                    write_json(state / "services.json", about)
                    written = about
                if time.monotonic() - looked > LOOK:
                    looked = time.monotonic()
                    alert_once(root, "monitor silence", "silence", monitor_silence(root, since, datetime.now(UTC)))
                    retry_alerts(root)
                    take_idle_answers(root, env)
            except (
                EvergreenError,
                OSError,
            ) as error:  # a full disk, a port, a server that does not start
                print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {error}", flush=True)
                time.sleep(BACK_OFF[0] * 5)
            time.sleep(TICK)
    finally:
        for child in children:
            if child.process and child.process.poll() is None:
                child.process.terminate()


def take_idle_answers(root: Path, env: dict[str, str]) -> subprocess.Popen | None:
    """Start `evergreen finish` if answers about samples wait and nobody gave one for a while."""
    quiet = idle_seconds(root)
    if quiet is None or quiet < IDLE_SECONDS:
        return None
    with open(state_dir(root) / "finish.log", "ab", opener=open_private) as log:
        command = [sys.executable, "-m", "flows.cli.main", "finish"]
        return subprocess.Popen(command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


if __name__ == "__main__":
    supervise(project_root())
