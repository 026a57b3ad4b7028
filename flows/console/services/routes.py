"""The page of services: what runs, what comes next, where alerts go, what `evergreen doctor` finds."""

import json
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from flows.console.jobs.store import log_end, newest_job, start_job
from flows.console.people.roles import need
from flows.console.shell import facts
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.predictor.status import running as running_predictor
from flows.server.process import api_of, running
from flows.services.overview import FLOWS, OWN, TITLES, overview, restart, run_now
from flows.services.up import next_runs, supervised
from monitoring.alerts import addresses, unsent
from monitoring.console_link import SERVICE, console_link
from tasks.common import sign_in
from tasks.common.access import is_foreign
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.loopback import is_loopback
from tasks.common.tickets import make_ticket
from tasks.releases.switches import SwitchesDamaged, end_pin, read_switches, sentences, set_humans_only

HERE = "/services"
SECONDS = 10.0  # between questions to the Prefect server for what comes next

router = APIRouter()


@router.get(HERE)
def services(request: Request, format: str = "") -> Response:
    """The page."""
    console = console_of(request)
    found = overview(console.root)
    if format == "csv":
        columns = ("service", "answers", "address", "restarts", "since", "last line of its log")
        return csv_download(
            "services", columns, [(one.name, one.well, one.url, one.restarts, one.since, one.said) for one in found]
        )
    due, problem = facts.recent(("schedules", console.root), lambda: _schedules(console), SECONDS)
    if format == "schedules":
        return csv_download("schedules", ("what", "next"), [(FLOWS.get(flow, flow), at) for flow, at in due])
    job = newest_job(console.root, "doctor")
    try:
        switches = read_switches(console.root)
        switched = sentences(switches)
    except SwitchesDamaged as error:
        switches, switched = None, [str(error)]
    return page(
        request,
        "services/services.html",
        title="Services",
        section=HERE,
        services=found,
        supervised=supervised(console.root),
        predictor=running_predictor(console.root),
        switches=switches,
        switched=switched,
        address=console_link(console.root),
        due=due,
        problem=problem,
        flows=FLOWS,
        addresses=facts.recent(("addresses", console.root), lambda: addresses(console.root), SECONDS),
        variable=console.params().alerts.urls_env,
        unsent=unsent(console.root),
        examined=job,
        findings=findings(log_end(console.root, job.id)) if job and not job.runs else None,
        opened=openable(request),
    )


def findings(log: str) -> list[dict] | None:
    """What `evergreen doctor --json` printed, the worst first; None if it is not that."""
    try:
        found = json.loads(log[log.index("[") :])
        order = {"problem": 0, "warning": 1, "ok": 2}
        return sorted(found, key=lambda one: order[one["state"]])
    except (ValueError, KeyError, TypeError):
        return None


def openable(request: Request) -> list[str]:
    """The other servers that this person may open from here.

    Evidently's listens on this machine only. A browser that opens Prefect's keeps the secret, which runs commands.
    """
    near = is_loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname or "")
    found = ["prefect"] if request.state.person.may("admin") else []
    return [*found, "evidently"] if near else found


@router.post(HERE + "/restart")
def restarted(request: Request, later: BackgroundTasks, form: Posted = Depends(posted)) -> Response:
    """Restart one service."""
    need(request, "admin")
    root, name = console_of(request).root, form.text("name")
    if name == SERVICE:  # this process: it answers first
        if not supervised(root):
            raise EvergreenError("the process that restarts services does not run: `evergreen up` starts it")
        answer = back(request, HERE, "The console restarts: reload this page in a few seconds.")
        later.add_task(restart, root, name)
        answer.background = later
        return answer
    restart(root, name)
    return back(request, HERE, f"{(TITLES | OWN)[name].partition(':')[0]} restarts within seconds.")


@router.post(HERE + "/humans-only")
def humans_only(request: Request, form: Posted = Depends(posted)) -> Response:
    """Have people look at every answer of the predictor, or no longer."""
    person, on = need(request, "approver"), form.text("on", most=3) == "on"
    set_humans_only(console_of(request).root, on, person.name, form.text("why", most=400))
    return back(request, HERE, f"People look at {'every answer' if on else 'unsure answers'} from now on.")


@router.post(HERE + "/unpin")
def unpin(request: Request, form: Posted = Depends(posted)) -> Response:
    """Let the live version answer again."""
    person = need(request, "approver")
    end_pin(console_of(request).root, person.name)
    return back(request, HERE, "The live version answers again.")


@router.post(HERE + "/run")
def run(request: Request, form: Posted = Depends(posted)) -> Response:
    """Start a schedule's flow now."""
    person, flow = need(request, "approver"), form.text("flow")
    run_now(console_of(request).root, flow, person.name)
    return back(request, HERE, f"Started: {FLOWS[flow].lower()}.")


@router.post(HERE + "/alerts/test")
def send_test(request: Request, form: Posted = Depends(posted)) -> Response:
    """Send a test to one address."""
    person, number = need(request, "admin"), form.text("number", most=4)
    if not number.isdecimal():
        raise EvergreenError(f"{number!r} is not the number of an address")
    root = console_of(request).root
    title = f"Send a test to address {number}"
    slot = f"alert {number}"
    start_job(root, ["alerts", "--test", number], slot=slot, title=title, by=person.name, back=HERE)
    return back(request, HERE)


@router.post(HERE + "/doctor")
def doctor(request: Request, form: Posted = Depends(posted)) -> Response:
    """Look for what is wrong."""
    person = need(request, "admin")
    title = "Look for what is wrong"
    start_job(console_of(request).root, ["doctor", "--json"], slot="doctor", title=title, by=person.name, back=HERE)
    return back(request, HERE)


@router.get(HERE + "/open/{name}")
def opened(request: Request, name: str, to: str = "/") -> Response:
    """Lead the browser to the page `to` of Prefect or Evidently, signed in there by a ticket."""
    if name == "prefect":
        need(request, "admin")
    host = request.headers.get("host", "")
    if request.scope.get("head") or is_foreign(host, None, request.headers.get("sec-fetch-site")):
        raise HTTPException(403, "Open it from the page of services.")
    root, hostname = console_of(request).root, urlsplit(f"//{host}").hostname or ""
    server = running(root)
    url = server["ui"] if server and name == "prefect" else _address(root, name) if name in openable(request) else None
    if url is None:
        raise HTTPException(404, f"{name} does not run here, or your browser cannot reach it.")
    port, shown = urlsplit(url).port, f"[{hostname}]" if ":" in hostname else hostname
    query = urlencode({"ticket": make_ticket(root, name), "to": sign_in.local_path(to)})
    return RedirectResponse(f"http://{shown}:{port}{sign_in.PATH}?{query}", 303)


def _address(root, name: str) -> str | None:
    return next((one.url for one in overview(root) if one.name == name and one.well), None)


def _schedules(console: Console) -> tuple[list, str]:
    """(what comes next, why that is unknown)."""
    api = api_of(console.root)
    if api is None:
        return [], "Prefect does not run: `evergreen up` starts it."
    try:
        return next_runs(api, checkout(console.root).id), ""
    except EvergreenError as error:
        return [], str(error)
