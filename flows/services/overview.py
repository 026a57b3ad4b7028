"""What `evergreen up` runs, for the page of services: show, restart, run a schedule now."""

import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from flows.predictor.status import running as running_predictor
from flows.server.api import Api
from flows.server.process import api_of, stop_server
from flows.server.processes import created
from flows.services.logs import said_last
from flows.services.pools import flow_names, pooled_name
from flows.services.supervisor import PREDICTOR
from flows.services.up import SERVICES, known_services, services, supervised
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.text import one_line

TITLES = {
    "prefect": "Prefect: runs and schedules",
    "runner": "Runner: starts what is due",
    "pages": "Console: these pages",
    "evidently": "Evidently: a second opinion on drift",
}
OWN = {PREDICTOR: "Predictor: answers over HTTP"}  # shown where it runs
FLOWS = {  # that have a schedule
    "retrain-when-needed": "Retrain if anything is new",
    "monitor": "Look at production",
    "reevaluate": "Measure accuracy on late labels",
    "housekeeping": "Clean up",
}


@dataclass(frozen=True)
class Service:
    """One service."""

    name: str
    title: str
    well: bool
    url: str | None
    restarts: int
    since: datetime | None  # when its process started
    said: str  # last line of its log; of one that is well, not of a process before it


def overview(root: Path) -> list[Service]:
    """Every service, in the order in which people look."""
    known = known_services(root)
    found = []
    for name, url, well in services(root):
        about = known.get(name, {})
        if name == PREDICTOR and (own := running_predictor(root)):
            about = {"pid": own.pid, "created": created(own.pid), "restarts": own.restarts}
        pid = about.get("pid")
        since = _started(pid) if pid and (name == "prefect" or created(pid) == about.get("created")) else None
        found.append(
            Service(
                name=name,
                title=(TITLES | OWN)[name],
                well=well,
                url=url,
                restarts=max(0, about.get("restarts", 0)),
                since=since,
                said=one_line(said_last(root, name, since if well else None), 200),
            )
        )
    return found


def restart(root: Path, name: str) -> None:
    """End a service: the supervisor starts it again within seconds. Raises EvergreenError if nothing would."""
    if name == PREDICTOR:
        replace_workers(root)
        return
    if name not in SERVICES:
        raise EvergreenError(f"no service {name!r}; there are {', '.join(SERVICES)}")
    if not supervised(root):
        raise EvergreenError("the process that restarts services does not run: `evergreen up` starts it")
    if name == "prefect":
        if not stop_server(root):
            raise EvergreenError("no Prefect server of this checkout runs; PREFECT_API_URL may name another")
        return
    about = known_services(root).get(name, {})
    pid = about.get("pid")
    if not pid or created(pid) != about.get("created"):
        raise EvergreenError(f"{name} is down just now: it is started again by itself")
    os.kill(pid, signal.SIGTERM)


def replace_workers(root: Path) -> None:
    """Replace the predictor's workers one by one, without a lost request. Raises EvergreenError if it does not run."""
    if (found := running_predictor(root)) is None:
        raise EvergreenError("the predictor does not run: `evergreen serve` starts it")
    os.kill(found.pid, signal.SIGHUP)


def run_now(root: Path, flow: str, by: str) -> None:
    """Start a scheduled flow now, as Prefect's own button does. Raises EvergreenError if Prefect does not take it."""
    if flow not in FLOWS:
        raise EvergreenError(f"no schedule {flow!r}; there are {', '.join(FLOWS)}")
    api, own = api_of(root), checkout(root)
    if api is None:
        raise EvergreenError("no Prefect server runs: `evergreen up` starts it")
    parameters = {"reason": f"{by} asked for it on the page of services"} if flow == "retrain-when-needed" else {}
    deployment = _deployment(api, flow, own.id)
    api.post(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})


def _deployment(api: Api, flow: str, name: str) -> str:
    found = api.post("/deployments/filter", {"deployments": {"name": {"any_": [name, pooled_name(name)]}}})
    named = flow_names(api)
    for one in found:
        if named.get(one["flow_id"]) == flow:
            return one["id"]
    raise EvergreenError(f"{flow} is not deployed: the runner may be starting; try again in a minute")


def _started(pid: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC)
    except psutil.Error:
        return None
