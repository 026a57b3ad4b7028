"""The project's own Prefect server: start it, keep it running, find it again.

A temporary server per run would cost 10-20 s each time and outlive a killed run. So one detached server serves all runs
of a project until `evergreen down`. By default it uses SQLite under .evergreen/prefect and listens on loopback. The
`serve` section of params.yaml can name a Postgres URL, another port, or another address (which then needs a password).

Every start has the checkout's secret (tasks.common.checkout), and the guard in front (flows.server.guard).
"""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from flows.server import database, processes
from flows.server.api import Api
from flows.server.environment import DATABASE, environment, has_people, server_environment, shown_host
from flows.server.processes import created
from flows.server.serve import PROJECT
from tasks.common.checkout import checkout, known_checkout, renew_secret
from tasks.common.errors import EvergreenError
from tasks.common.files import locked
from tasks.common.loopback import open_url
from tasks.common.params import load_params
from tasks.common.paths import project_root, state_dir
from tasks.common.private import make_folder, open_private

OWN_ERROR = re.compile(r"^(?:tasks|flows|monitoring)(?:\.\w+)+: ")  # the class path before a traceback's message
BUSY_SECONDS = 30  # in which a server that is alive answers, or counts as one that hangs
START_SECONDS = 120  # a cold server on two busy cores takes 15-60 s to create its database


def healthy(url: str, seconds: float = 2.0) -> bool:
    """Does a Prefect API answer at `url`?"""
    try:
        with open_url(f"{url}/health", seconds) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def running(root: Path) -> dict | None:
    """{pid, created, url, ui, checkout} of this checkout's own server if it answers, else None.

    The process is compared too: after a reboot, the server of another project may answer at this address.
    """
    about = _alive(root)
    return about if about and healthy(about["url"]) else None


def own_api(root: Path) -> Api | None:
    """The API of this checkout's own server if its process is alive: a busy one may be slow to answer."""
    about, own = _alive(root), known_checkout(root)
    return Api(about["url"], own.auth) if about and own else None


def _alive(root: Path, starting: bool = False) -> dict | None:
    """What server.json says if it tells of a living process of this checkout, else None.

    starting: also one that has not answered yet.
    """
    about, own = processes.recorded(root), known_checkout(root)
    if about is None or own is None or about.get("checkout") != own.id or not processes.is_here(about, root):
        return None
    return about if about.get("ready") or starting else None


def api_of(root: Path) -> Api | None:
    """The API to use: of PREFECT_API_URL if set, else of this checkout's own server; None if neither is there."""
    given = Api.from_environment()
    if given and given.auth is None and (own := own_api(root)) and own.url == given.url:
        return own
    return given or own_api(root)


def revive_server(root: Path, api: Api, say=print) -> None:
    """Start the checkout's own server again if it died: at the same address, for the runs that use it.

    A server that the environment names is for others to watch.
    """
    if Api.from_environment() or _alive(root, starting=True):
        return
    try:
        if (found := ensure_server(root, lambda line: None)) == api:
            say("the Prefect server had died: started it again, and the run goes on")
        else:
            say(f"the Prefect server had died and its address was taken: the new one is at {found.url}")
    except (EvergreenError, OSError) as error:  # the run's result does not depend on it
        say(f"the Prefect server died and cannot be started again: {error}")


def check_given() -> Api | None:
    """The server that PREFECT_API_URL names; None without one. Raises EvergreenError if it does not answer."""
    given = Api.from_environment()
    if given and not healthy(given.url, 10):
        raise EvergreenError(
            f"PREFECT_API_URL={given.url} does not answer: start that server. If `evergreen open --env` has set it in "
            "this shell: `unset PREFECT_API_URL PREFECT_API_AUTH_STRING PREFECT_HOME`"
        )
    return given


def ensure_server(root: Path, say=print) -> Api:
    """Return the API to use: that of PREFECT_API_URL if set, else of the checkout's own server, started if needed.

    Raises EvergreenError if the configured server does not answer or ours does not start.
    """
    if given := check_given():
        return api_of(root) or given
    if running(root) and (api := own_api(root)):
        return api
    state = state_dir(root)
    make_folder(state)
    # two runs at once start one server
    with _server_locked(state):
        if (about := _alive(root, starting=True)) and _answers(about):
            processes.record(root, about["pid"], about["url"], about["checkout"], ready=True)
            if api := own_api(root):
                return api
        for pid in processes.servers(root):  # it hangs, an earlier version started it, or nothing records it
            processes.stop(pid)
        say("starting the Prefect server (it keeps running; `evergreen down` stops it)")
        return _start(root, state)


def _answers(about: dict[str, Any]) -> bool:
    """Whether the living server answers: one that is starting may take as long as a start, others BUSY_SECONDS."""
    deadline = time.monotonic() + max(BUSY_SECONDS, START_SECONDS - processes.age(about))
    while created(about["pid"]) == about["created"] and time.monotonic() < deadline:
        if healthy(about["url"], BUSY_SECONDS) and _listens(about["pid"], urlsplit(about["url"]).port):
            return True
        time.sleep(0.2)
    return False


def _server_locked(state: Path):
    return locked(state / "server.lock", 2 * START_SECONDS, "the start of the Prefect server")


def _start(root: Path, state: Path, tries: int = 5) -> Api:
    serve = load_params(root / "params.yaml").serve
    last = processes.recorded(root)
    crashed = last is not None and last.get("boot") == processes.boot()  # runs that go on know its address
    port = free_port(urlsplit(last["url"]).port if crashed else serve.prefect_port, serve.host)
    url = f"http://{shown_host(serve)}:{port}/api"
    own = renew_secret(root) if _may_have_leaked(root, url) else checkout(root)
    started = {**environment(root), **server_environment(serve, own, url, has_people(root))}
    started[PROJECT] = str(project_root(root))
    home = Path(started["PREFECT_HOME"])
    make_folder(home)
    if home.is_relative_to(state):
        home.chmod(0o700)  # an earlier version made it readable for others
    if DATABASE not in started:
        database.set_damaged_aside(home)
    started["PYTHONPATH"] = os.pathsep.join(filter(None, [str(project_root(root)), os.environ.get("PYTHONPATH")]))
    with open(state / "server.log", "ab", opener=open_private) as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", processes.MODULE, serve.host, str(port)],
            env=started,
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # survives this command and its terminal
        )
    processes.record(root, process.pid, url, own.id, ready=False)  # a start that is killed now leaves a known server
    deadline = time.monotonic() + START_SECONDS
    while not (healthy(url) and _listens(process.pid, port)):
        if process.poll() is not None:
            if tries > 1 and free_port(port, serve.host) != port:  # another project's server took it first
                return _start(root, state, tries - 1)
            raise EvergreenError(
                f"the Prefect server ended with exit code {process.returncode}: {last_line(state / 'server.log')} "
                f"(in {state / 'server.log'})"
            )
        if time.monotonic() > deadline:
            processes.stop(process.pid)
            raise EvergreenError(f"the Prefect server did not start in {START_SECONDS} s; see {state / 'server.log'}")
        time.sleep(0.2)
    processes.record(root, process.pid, url, own.id, ready=True)
    return Api(url, own.auth)


def last_line(log: Path) -> str:
    """The last line of a process's log; of a traceback through Evergreen's own errors, the message alone."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return OWN_ERROR.sub("", lines[-1])[:300] if lines else "it printed nothing"


def _may_have_leaked(root: Path, url: str) -> bool:
    """Whether another process may have listened where clients and open pages still sent the secret to.

    So it is if the last server's port is taken now, and if the machine was restarted since. A server that is started
    again after a crash keeps the secret, for the runs that go on.
    """
    last = processes.recorded(root)
    return last is not None and (last["url"] != url or last.get("boot") != processes.boot())


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
    """Stop the checkout's own servers and their children; False if none runs. The next one has another secret."""
    state = state_dir(root)
    if not processes.servers(root):
        if processes.recorded(root):
            renew_secret(root)
        processes.forget_record(root)
        return False
    with _server_locked(state):  # else one that starts meanwhile would have the old secret
        for pid in processes.servers(root):
            processes.stop(pid)
        processes.forget_record(root)
        renew_secret(root)
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


def mark_crashed(api: Api, run_ids: list[str]) -> None:
    """Mark the flow runs of these names as crashed in Prefect: a killed process cannot do it itself."""
    if not run_ids:
        return
    running = {"name": {"any_": run_ids}, "state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}
    message = "its process died; the next run continues from its finished stages"
    _set_state(api, running, {"type": "CRASHED", "message": message})


def mark_cancelled(api: Api, run_id: str, said: str) -> None:
    """Mark the flow run of this name as cancelled in Prefect, which takes an interrupted one for crashed."""
    _set_state(api, {"name": {"any_": [run_id]}}, {"type": "CANCELLED", "message": said})


def _set_state(api: Api, which: dict[str, Any], state: dict[str, str]) -> None:
    for run in api.post("/flow_runs/filter", {"flow_runs": which}):
        api.post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
