"""The project's own Prefect server: start it, keep it running, find it again.

A temporary server per run would cost 10-20 s each time and outlive a killed run. So one detached `prefect server`
serves all runs of a project until `evergreen down`. By default it uses SQLite under .evergreen/prefect and listens on
loopback. The `serve` section of params.yaml can name a Postgres URL, another port, or another address (which then needs
a password).
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

QUIET = {  # stops libraries from phoning home and from printing banners
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_CLI_PROMPT": "false",
}


def environment(root: Path) -> dict[str, str]:
    """Environment of a process that talks to the project's server, or to the one that the user configured."""
    # PREFECT__* belong to the flow run that may have started this command; a child starts a flow run of its own
    values = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")} | QUIET
    values.setdefault("PREFECT_HOME", str(state_dir(root) / "prefect"))
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", "")])
    return values


def server_environment(serve: ServeParams) -> dict[str, str]:
    """What the server needs in addition to `environment`: its database, and a password beyond loopback.

    Raises EvergreenError if it should listen on the network without a password.
    """
    values = {}
    if database := os.environ.get(serve.database_env):
        values["PREFECT_API_DATABASE_CONNECTION_URL"] = _asyncpg(database, serve.database_env)
    if auth := auth_string(serve):
        values["PREFECT_SERVER_API_AUTH_STRING"] = values["PREFECT_API_AUTH_STRING"] = auth
    return values


def auth_string(serve: ServeParams) -> str | None:
    """ "user:password" of a server that listens beyond loopback; None on loopback."""
    if serve.host in LOOPBACK:
        return None
    password = os.environ.get(serve.password_env)
    if not password:
        raise EvergreenError(
            f"serve.host in params.yaml is {serve.host}: an address beyond loopback needs a password. Set the "
            f"environment variable {serve.password_env}, or use 127.0.0.1 (and a tunnel)."
        )
    return f"evergreen:{password}"


def _asyncpg(url: str, variable: str) -> str:
    """`url` with the driver that Prefect needs. Errors never repeat the address: it holds a password."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("postgres", "postgresql", "postgresql+asyncpg", "sqlite+aiosqlite"):
        raise EvergreenError(
            f"{variable} is not a database URL that Prefect knows: expected postgresql+asyncpg://user:password@host/name"
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
    """When process `pid` was created; None if it is dead. Together with the pid this identifies one process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None


def running(root: Path) -> dict | None:
    """{pid, created, url, ui} of the project's own server if it answers, else None.

    The process is compared too: after a reboot, the server of another project may answer at this address.
    """
    file = state_dir(root) / "server.json"
    if not file.is_file():
        return None
    about = read_json(file)
    own = about.get("created") is not None and created(about["pid"]) == about["created"]
    return about if own and healthy(about["url"]) else None


def ensure_server(root: Path, say=print) -> str:
    """Return the API address to use: PREFECT_API_URL if set, else the project's own server, started if needed.

    Raises EvergreenError if the configured server does not answer or ours does not start.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        if not healthy(url, 10):
            raise EvergreenError(f"PREFECT_API_URL={url} does not answer: start that server, or unset the variable")
        return url
    if auth := auth_string(load_params(root / "params.yaml").serve):
        os.environ["PREFECT_API_AUTH_STRING"] = auth  # for this process and its children
    if about := running(root):
        return about["url"]
    state = state_dir(root)
    state.mkdir(parents=True, exist_ok=True)
    # two runs at once start one server
    with locked(state / "server.lock", 2 * START_SECONDS, "the start of the Prefect server"):
        if about := running(root):
            return about["url"]
        say("starting the Prefect server (it keeps running; `evergreen down` stops it)")
        return _start(root, state)


def _start(root: Path, state: Path, tries: int = 5) -> str:
    serve = load_params(root / "params.yaml").serve
    own = server_environment(serve)
    port = free_port(serve.prefect_port, serve.host)
    shown = "127.0.0.1" if serve.host in (*LOOPBACK, "0.0.0.0", "::") else serve.host
    url = f"http://{shown}:{port}/api"
    # beyond loopback only the browser knows the right address
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
            if tries > 1 and free_port(port, serve.host) != port:  # another project's server took it first
                return _start(root, state, tries - 1)
            log_file = state / "server.log"
            raise EvergreenError(f"the Prefect server ended with exit code {process.returncode}; see {log_file}")
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGTERM)
            raise EvergreenError(f"the Prefect server did not start in {START_SECONDS} s; see {state / 'server.log'}")
        time.sleep(0.2)
    about = {"pid": process.pid, "created": created(process.pid), "url": url, "ui": url.removesuffix("/api")}
    write_json(state / "server.json", about)
    return url


def _listens(pid: int, port: int) -> bool:
    """Whether process `pid` or one of its children listens on `port`."""
    try:
        process = psutil.Process(pid)
        family = (process, *process.children(recursive=True))
        connections = [connection for one in family for connection in one.net_connections("tcp")]
    except psutil.Error:  # one of them ended meanwhile
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def stop_server(root: Path) -> bool:
    """Stop the project's own server and its children; False if none runs."""
    about = running(root)
    file = state_dir(root) / "server.json"
    file.unlink(missing_ok=True)
    if about is None:
        return False
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.killpg(about["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 15
        while healthy(about["url"], 0.5) and time.monotonic() < deadline:
            time.sleep(0.1)
        if healthy(about["url"], 0.5):
            os.killpg(about["pid"], signal.SIGKILL)
    return True


def free_port(wanted: int, host: str = "127.0.0.1") -> int:
    """Return `wanted` if it is free, else a free port that the system picks."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT counts as free
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise EvergreenError(f"cannot open a port on {host}: is serve.host in params.yaml an address of this machine?")


def ui_url(api: str, run_id: str = "") -> str:
    """Address of Prefect's UI, or of a flow run's page in it."""
    base = api.removesuffix("/api")
    return f"{base}/runs/flow-run/{run_id}" if run_id else base


def mark_crashed(api: str, run_ids: list[str]) -> None:
    """Mark the flow runs of these names as crashed in Prefect: a killed process cannot do it itself."""
    if not run_ids:
        return
    running = {"name": {"any_": run_ids}, "state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}
    state = {"type": "CRASHED", "message": "its process died; the next run continues from its finished stages"}
    for run in post(f"{api}/flow_runs/filter", {"flow_runs": running}):
        post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
