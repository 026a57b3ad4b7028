"""A Prefect server of one's own: started when none is configured, kept running, found again.

A temporary server per run would cost 10-20 s each time and be orphaned by a kill, so one detached `prefect server`
serves all runs of a project until `evergreen down`. SQLite under .evergreen/prefect on loopback by default; a Postgres
URL, another port or another address (then with a password) by params.yaml's `serve` section.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

from flows.server.api import post
from tasks.common.errors import EvergreenError
from tasks.common.files import locked, read_json, write_json
from tasks.common.params import ServeParams, load_params
from tasks.common.paths import state_dir

START_SECONDS = 120  # a cold server on two busy cores takes 15-60 s to create its database

LOOPBACK = ("127.0.0.1", "::1", "localhost")

QUIET = {  # libraries that would phone home or draw banners
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_CLI_PROMPT": "false",
}


def environment(root: Path) -> dict[str, str]:
    """Environment of a process that talks to the project's server (or to the user's, where one is configured)."""
    # PREFECT__*: of the flow run this command may be part of; its child is a run of its own
    values = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")} | QUIET
    values.setdefault("PREFECT_HOME", str(state_dir(root) / "prefect"))
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", "")])
    return values


def server_environment(serve: ServeParams) -> dict[str, str]:
    """What the server itself needs beside `environment`: its database, and a password beyond loopback.

    Raises EvergreenError where it is to listen on the network without a password.
    """
    values = {}
    if database := os.environ.get(serve.database_env):
        values["PREFECT_API_DATABASE_CONNECTION_URL"] = _asyncpg(database, serve.database_env)
    if auth := auth_string(serve):
        values["PREFECT_SERVER_API_AUTH_STRING"] = values["PREFECT_API_AUTH_STRING"] = auth
    return values


def auth_string(serve: ServeParams) -> str | None:
    """ "user:password" of a server beyond loopback; None on loopback."""
    if serve.host in LOOPBACK:
        return None
    password = os.environ.get(serve.password_env)
    if not password:
        raise EvergreenError(
            f"serve.host in params.yaml is {serve.host}: beyond loopback a password is needed. Set the environment "
            f"variable {serve.password_env}, or use 127.0.0.1 (and a tunnel)."
        )
    return f"evergreen:{password}"


def _asyncpg(url: str, variable: str) -> str:
    """`url` with the driver Prefect needs; the address is never repeated in an error, it holds a password."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("postgres", "postgresql", "postgresql+asyncpg", "sqlite+aiosqlite"):
        raise EvergreenError(
            f"{variable} holds no database URL that Prefect knows: expected postgresql+asyncpg://user:password@host/name"
        )
    return f"{'postgresql+asyncpg' if scheme.startswith('postgres') else scheme}://{rest}"


def healthy(url: str, seconds: float = 2.0) -> bool:
    """Does a Prefect API answer at `url`?"""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def created(pid: int) -> float | None:
    """When process `pid` was created; None when it is dead. With the pid it names one process for ever."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None


def running(root: Path) -> dict | None:
    """{pid, created, url, ui} of the project's own server if it answers. After a restart of the machine the server of
    another project may answer at its address."""
    file = state_dir(root) / "server.json"
    if not file.is_file():
        return None
    about = read_json(file)
    own = about.get("created") is not None and created(about["pid"]) == about["created"]
    return about if own and healthy(about["url"]) else None


def ensure_server(root: Path, say=print) -> str:
    """The API address to use: PREFECT_API_URL if set, else the project's own server, started if need be.

    Raises EvergreenError when the configured server does not answer or ours does not come up.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        if not healthy(url, 10):
            raise EvergreenError(f"PREFECT_API_URL={url} does not answer: start that server, or unset the variable")
        return url
    if auth := auth_string(load_params(root / "params.yaml").serve):
        os.environ["PREFECT_API_AUTH_STRING"] = auth  # of this process and those it starts
    if about := running(root):
        return about["url"]
    state = state_dir(root)
    state.mkdir(parents=True, exist_ok=True)
    # two runs at once start one server
    with locked(state / "server.lock", 2 * START_SECONDS, "the start of the Prefect server"):
        if about := running(root):
            return about["url"]
        say("starting the Prefect server (once; it stays up, `evergreen down` stops it)")
        return _start(root, state)


def _start(root: Path, state: Path, tries: int = 5) -> str:
    serve = load_params(root / "params.yaml").serve
    own = server_environment(serve)
    port = free_port(serve.prefect_port, serve.host)
    shown = "127.0.0.1" if serve.host in (*LOOPBACK, "0.0.0.0", "::") else serve.host
    url = f"http://{shown}:{port}/api"
    # beyond loopback the browser's own idea of the address is the right one
    ui_api = url if serve.host in LOOPBACK else "/api"
    with open(state / "server.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", serve.host, "--port", str(port)],
            env={**environment(root), **own, "PREFECT_API_URL": url, "PREFECT_UI_API_URL": ui_api},
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # survives this command and its terminal
        )
    deadline = time.monotonic() + START_SECONDS
    while not (healthy(url) and _listens(process.pid, port)):
        if process.poll() is not None:
            if tries > 1 and free_port(port, serve.host) != port:  # another project's server was faster to take it
                return _start(root, state, tries - 1)
            raise EvergreenError(f"the Prefect server ended with {process.returncode}; see {state / 'server.log'}")
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGTERM)
            raise EvergreenError(f"the Prefect server was not up in {START_SECONDS} s; see {state / 'server.log'}")
        time.sleep(0.2)
    about = {"pid": process.pid, "created": created(process.pid), "url": url, "ui": url.removesuffix("/api")}
    write_json(state / "server.json", about)
    return url


def _listens(pid: int, port: int) -> bool:
    """Does process `pid`, or one of its children, listen on `port`?"""
    try:
        process = psutil.Process(pid)
        family = (process, *process.children(recursive=True))
        connections = [connection for one in family for connection in one.net_connections("tcp")]
    except psutil.Error:  # one of them has just ended
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def stop_server(root: Path) -> bool:
    """Stop the project's own server and its children; False when none runs."""
    about = running(root)
    file = state_dir(root) / "server.json"
    file.unlink(missing_ok=True)
    if about is None:
        return False
    with suppress(ProcessLookupError):  # it ends by itself this moment
        os.killpg(about["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 15
        while healthy(about["url"], 0.5) and time.monotonic() < deadline:
            time.sleep(0.1)
        if healthy(about["url"], 0.5):
            os.killpg(about["pid"], signal.SIGKILL)
    return True


def free_port(wanted: int, host: str = "127.0.0.1") -> int:
    """`wanted` if nobody listens there, else one the system picks."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: TIME_WAIT is free
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise EvergreenError(f"no port can be opened on {host}: is serve.host in params.yaml an address of this machine?")


def ui_url(api: str, run_id: str = "") -> str:
    """Page of a flow run in Prefect's UI."""
    base = api.removesuffix("/api")
    return f"{base}/runs/flow-run/{run_id}" if run_id else base


def mark_crashed(api: str, run_ids: list[str]) -> None:
    """Tell Prefect that the flow runs of these names died: a killed process cannot say so itself."""
    if not run_ids:
        return
    running = {"name": {"any_": run_ids}, "state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}
    state = {"type": "CRASHED", "message": "its process died; the next run continues from its finished stages"}
    for run in post(f"{api}/flow_runs/filter", {"flow_runs": running}):
        post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
