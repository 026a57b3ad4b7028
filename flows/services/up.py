"""`evergreen up`, `down` and `status`: start, stop and show everything that a project runs.

.evergreen/services.json    pids and addresses, written by the supervisor (flows.services.supervisor)
.evergreen/<service>.log    output of each service
"""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows.predictor import status
from flows.repo.workspace import check_code_and_state
from flows.runs.single_flight import wanted
from flows.server.api import Api
from flows.server.environment import check_password, environment, has_people
from flows.server.process import api_of, check_given, healthy, running, stop_server
from flows.server.processes import created
from flows.services.logs import keeps_ending, not_well
from flows.services.pools import flow_names, pool_trouble, pooled_name
from flows.services.supervisor import MARK, PREDICTOR
from monitoring.console_link import SERVICE, console_link
from monitoring.seen import last_seen
from monitoring.silence import monitor_silence
from tasks.common.checkout import known_checkout
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.common.private import make_folder, open_private
from tasks.common.rebuildable import expect, expect_dict, read_rebuildable
from tasks.common.text import one_line

START_SECONDS = 300  # for all services on a cold, busy machine: the server's database 60 s, Evidently's imports 30 s
GIVE_UP = 3  # restarts of one service after which `up` reports it as broken
DEPLOYED = "serving.json"  # the runner writes it once the flows are deployed
SERVICES = ("prefect", "runner", "pages", "evidently")


def up(root: Path, say=print) -> list[str]:
    """Start every service that is down and wait until all answer; returns one line per service. Idempotent.

    Raises EvergreenError if a service does not start; the others keep running.
    """
    check_code_and_state(root)
    params = load_params(root / "params.yaml")
    check_password(params.serve, has_people(root))  # before anything starts
    check_given()
    state = state_dir(root)
    make_folder(state)
    if supervised(root) and _services(root) == {} and _written(root):
        say("restarting the services: an earlier version of Evergreen started them")
        down(root)
    if not supervised(root):
        _stop(_left(root))  # left by a killed supervisor; runs that they started go on
        for name in ("services.json", DEPLOYED):
            (state / name).unlink(missing_ok=True)
        env = environment(root) | {MARK: str(state), "PYTHONUNBUFFERED": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        with open(state / "services.log", "ab", opener=open_private) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.services.supervisor"],
                cwd=root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # survives this command and its terminal
            )
    else:
        process = None
    wanted_services = {*SERVICES, PREDICTOR} if params.predictor.with_up else set(SERVICES)
    said, deadline = set(), time.monotonic() + START_SECONDS
    while True:
        for name, url, well in services(root):
            if well and name not in said:
                said.add(name)
                say(_line(root, name, url, well))
        if said >= wanted_services:
            return [_line(root, *service) for service in services(root)]
        if process is not None and process.poll() is not None and not supervised(root):
            log_file = state / "services.log"
            raise EvergreenError(f"the services ended with exit code {process.returncode}; see {log_file}")
        for name, service in _services(root).get("services", {}).items():
            if service.get("restarts", 0) >= GIVE_UP:
                raise EvergreenError(keeps_ending(root, name))
        if time.monotonic() > deadline:
            late = ", ".join(sorted(wanted_services - said))
            logs = f"{state}/<service>.log and services.log"
            raise EvergreenError(f"did not start in {START_SECONDS} s: {late}; see {logs}")
        time.sleep(0.2)


def down(root: Path) -> int:
    """Stop every process of this project's services and the runs they started; returns how many."""
    about, own = _written(root), {process.pid for process in members(root)}
    count = len(own)
    if about.get("pid") in own and created(about["pid"]) == about.get("created"):
        _stop([about["pid"]], seconds=20)
    for _ in range(5):  # a service may have been starting while the others ended
        if not (left := list(members(root))):
            break
        _stop([process.pid for process in left])
    count += stop_server(root)
    for name in ("services.json", DEPLOYED, "sign-in.html", "tickets.json"):
        (state_dir(root) / name).unlink(missing_ok=True)
    return count


def members(root: Path) -> Iterator[psutil.Process]:
    """Yield every process that `evergreen up` started here, directly or not; never this one or its parents."""
    mark, own = str(state_dir(root)), {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(MARK) == mark:
                yield process
        except psutil.Error:  # it ended meanwhile, is a zombie, or belongs to another user
            continue


def supervised(root: Path) -> bool:
    """Whether a supervisor of this project is alive."""
    try:
        lock = os.open(state_dir(root) / "services.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def services(root: Path) -> list[tuple[str, str | None, bool]]:
    """List (service, its address, whether it answers), in the order in which people look."""
    about = _services(root)
    known = about.get("services", {})
    server = running(root)
    url = server["ui"] if server else known.get("prefect", {}).get("url")
    found = [("prefect", url, bool(url) and healthy(f"{url}/api"))]
    for name in SERVICES[1:]:
        service = known.get(name, {})
        alive = bool(service.get("pid")) and created(service["pid"]) == service["created"]
        if name == "runner":
            serving = read_rebuildable(state_dir(root) / DEPLOYED, lambda about: expect(about["pid"], int))
            well = alive and serving == service["pid"]
        else:
            well = alive and _listens(service["url"])
        found.append((name, service.get("url"), well))
    predictor = status.running(root)
    if predictor is not None or PREDICTOR in known:
        found.append((PREDICTOR, predictor and predictor.url, predictor is not None and predictor.well))
    return found


def status_lines(root: Path) -> list[str]:
    """Describe what runs and where, what the monitor last saw, and what comes next."""
    about = _services(root)
    found = [service for service in services(root) if service[0] != PREDICTOR]
    lines = [_line(root, *service) for service in found]
    if not about:  # a run may have started the Prefect server alone
        lines = [_line(root, *service) for service in found if service[2]]
        rest = "services:    the others are" if lines else "services:   "
        lines.append(f"{rest} not started: `evergreen up` starts them")
    if not supervised(root):
        lines[0] += "" if not about else "   the supervisor of the services died: `evergreen up` restarts it"
    lines += [f"{'predictor:':<13}{line}" for line in status.lines(root)]
    if last := last_seen(root):
        lines.append(f"{'monitor:':<13}{_minutes(last.at)}: {last.outcome}: {last.sentence}")
    else:
        lines.append(f"{'monitor:':<13}has not run yet")
    if said := live_accuracy_line(root):
        lines.append(f"{'accuracy:':<13}{said}")
    if about and (silent := monitor_silence(root, datetime.fromisoformat(about["since"]), datetime.now(UTC))):
        lines.append(f"{'ALARM:':<13}{silent}")
    for reason in wanted(root):
        lines.append(f"{'waiting:':<13}a retraining because: {reason}")
    api, own = api_of(root), known_checkout(root)
    if api and own and about:
        params = load_params(root / "params.yaml")
        try:
            if params.serve.pool:
                trouble = pool_trouble(params, api)
                lines.append(f"{'pool:':<13}{': '.join(trouble) if trouble else params.serve.pool + ' has a worker'}")
            lines += [f"{'next:':<13}{name} at {due:%Y-%m-%d %H:%M} UTC" for name, due in next_runs(api, own.id)]
        except EvergreenError as error:
            lines.append(f"{'next:':<13}unknown: {error}")
    return lines


def live_accuracy_line(root: Path) -> str | None:
    """The newest week of live accuracy, in a sentence; None without labels."""
    from monitoring.pages import live

    known = live.read(live.reports_dir(root))
    period = live.newest(known.periods, known.live)
    if period is None:
        return None
    return f"{one_line(period.version, 40)}, week of {period.start:%Y-%m-%d}: {live.headline(period)}"


def next_runs(api: Api, name: str) -> list[tuple[str, datetime]]:
    """List (flow, when it runs next) of the checkout `name`, soonest first, whether in a work pool or not."""
    names = [name, pooled_name(name)]
    deployments = api.post("/deployments/filter", {"deployments": {"name": {"any_": names}}})
    flows = flow_names(api)
    found = []
    for deployment in deployments:
        body = {
            "flow_runs": {
                "deployment_id": {"any_": [deployment["id"]]},
                "state": {"type": {"any_": ["SCHEDULED"]}},
            },
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 1,
        }
        for run in api.post("/flow_runs/filter", body):
            found.append((flows[deployment["flow_id"]], datetime.fromisoformat(run["expected_start_time"])))
    return sorted(found, key=lambda pair: pair[1])


def known_services(root: Path) -> dict[str, dict]:
    """What the supervisor wrote about each service: pid, created, url, restarts."""
    return _services(root).get("services", {})


def _line(root: Path, name: str, url: str | None, well: bool) -> str:
    """One service. Only the console's address is shown: the others' pages open from there."""
    restarts = known_services(root).get(name, {}).get("restarts") if supervised(root) else None
    state = "runs" if well else f"does not answer at {url}" if url else not_well(name, restarts)
    if name == SERVICE:
        name, state = "console", console_link(root).removesuffix("/") if well else state
    return f"{name + ':':<13}{state}"


def _minutes(at: datetime) -> str:
    minutes = (datetime.now(UTC) - at).total_seconds() / 60
    return f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"


def _services(root: Path) -> dict:
    """What services.json says of this checkout; empty if it tells of the folder that this is a copy of."""
    about, own = _written(root), known_checkout(root)
    return about if own and about.get("checkout") == own.id else {}


def _written(root: Path) -> dict:
    return read_rebuildable(state_dir(root) / "services.json", accept_services, "the services are looked for") or {}


def accept_services(about: dict) -> dict:
    """`about` if it is what the supervisor writes. Raises ValueError, TypeError or KeyError."""
    datetime.fromisoformat(about["since"]).astimezone(UTC)
    expect(about["pid"], int)
    for service in expect_dict(about["services"], dict).values():
        for name, kind in (("pid", int), ("url", str)):
            if service[name] is not None:
                expect(service[name], kind)
    return about


def _left(root: Path) -> list[int]:
    """List the services in services.json that are still alive and were started here, whatever version did it."""
    listed = {s.get("pid"): s.get("created") for s in _written(root).get("services", {}).values()}
    return [p.pid for p in members(root) if listed.get(p.pid) is not None and created(p.pid) == listed[p.pid]]


def _stop(pids: list[int], seconds: float = 6) -> None:
    """Send SIGTERM, and SIGKILL to processes that are alive after `seconds`."""
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
            processes[-1].terminate()
        except psutil.NoSuchProcess:
            continue
    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=seconds)


def _listens(url: str) -> bool:
    at = urlsplit(url)
    try:
        with socket.create_connection((at.hostname, at.port), timeout=1):
            return True
    except OSError:
        return False
