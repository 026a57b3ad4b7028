"""What the buttons of /production do."""

import time
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from flows.console.index.index import index_of
from flows.console.jobs.store import read_job, start_job
from flows.console.people.roles import need
from flows.console.production import window
from flows.console.production.slots import LOOK, RETRAIN, ROLLBACK
from flows.console.production.words import folded
from flows.console.shell.console import Console, console_of
from flows.console.shell.posted import Posted, back, posted
from flows.repo.workspace import alive_runs
from monitoring.expected import mark_expected, marks, remove_mark
from monitoring.journal import Journal
from monitoring.mutes import mute, unmute
from monitoring.review.queue import enqueue
from monitoring.until import until_time

WAIT = 4.0  # seconds in which a run that is started shows up, mostly

router = APIRouter()


@router.post("/production/look")
def look(request: Request, form: Posted = Depends(posted)) -> Response:
    """Measure the newest window now."""
    person = need(request, "labeller")
    to = form.text("back", "/production")
    start_job(console_of(request).root, ["monitor"], slot=LOOK, title="Looking at production", by=person.name, back=to)
    return back(request, to, "The newest window is being measured.")


@router.post("/production/marks")
def unmark(request: Request, form: Posted = Depends(posted)) -> Response:
    """Take a mark of what is expected back."""
    person = need(request, "approver")
    remove_mark(console_of(request).log().store, form.text("id"), by=person.name)
    return back(request, form.text("back", "/production"), "The mark is removed: its measures count again.")


@router.post("/production/mute")
def mute_kind(request: Request, form: Posted = Depends(posted)) -> Response:
    """Send no alerts of a kind for a while."""
    person, root = need(request, "approver"), console_of(request).root
    to, wanted = form.text("back", "/production"), form.text("for", "1h")
    until = None if wanted == "quiet" else until_time(wanted)
    new = mute(root, form.text("kind"), by=person.name, why=form.text("why", most=300), until=until)
    return back(request, to, f"{new.sentence()}. Everything is measured and shown as before.")


@router.post("/production/mutes")
def send_again(request: Request, form: Posted = Depends(posted)) -> Response:
    """Send alarms of a kind again."""
    person = need(request, "approver")
    unmute(console_of(request).root, form.text("kind"), by=person.name)
    return back(request, form.text("back", "/production"), "These alarms are sent again.")


@router.post("/production/{name}/label")
def label_these(request: Request, name: str, form: Posted = Depends(posted)) -> Response:
    """Ask people about the window's most informative images."""
    person, console = need(request, "labeller"), console_of(request)
    log, about = console.log(), _facts(console, name).measures.window
    because = f"window {name}: asked for by {person.name}"
    added = enqueue(log, console.params().review, about.start, about.end, because, bundle=about.bundle)
    if not added:
        return back(
            request, "/label/production", "No image was added: those of this window wait already, or are known."
        )
    return back(request, "/label/production", f"{len(added)} images of the window were added to the queue.")


@router.post("/production/{name}/retrain")
def retrain(request: Request, name: str, form: Posted = Depends(posted)) -> Response:
    """Start a run because of this window, and lead to its page."""
    person, console = need(request, "approver"), console_of(request)
    facts, why = _facts(console, name), form.text("why", most=300)
    reason = f"window {name}: {why or folded(facts.decision.sentence)[0]}"
    before, here = set(alive_runs(console.root)), f"/production/{name}"
    job = start_job(
        console.root, ["retrain", f"--reason={reason}"], slot=RETRAIN, title="Retraining", by=person.name, back=here
    )
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if started := set(alive_runs(console.root)) - before:
            return back(request, f"/runs/{quote(max(started), safe='')}", "The run has started.")
        now = read_job(console.root, job.id)
        if now is not None and now.ended is not None:
            return back(request, here, now.result, good=not now.failed)
        time.sleep(0.1)
    return back(request, f"/jobs/{job.id}", "The run is being started.")


@router.post("/production/{name}/mute")
def mute_drift(request: Request, name: str, form: Posted = Depends(posted)) -> Response:
    """Send no alerts of drift for a while."""
    person, console = need(request, "approver"), console_of(request)
    _facts(console, name)
    wanted = form.text("for", "1h")
    until = None if wanted == "quiet" else until_time(wanted)
    why = form.text("why", most=300) or f"while window {name} is looked at"
    new = mute(console.root, "drift", by=person.name, why=why, until=until)
    return back(request, f"/production/{name}", f"{new.sentence()}. Windows are measured and shown as before.")


@router.post("/production/{name}/expected")
def expect(request: Request, name: str, form: Posted = Depends(posted)) -> Response:
    """Mark measures of sources as expected."""
    person, console = need(request, "approver"), console_of(request)
    facts, until = _facts(console, name), form.text("until", most=40)
    measures, sources = form.all("measure"), form.all("source")
    drifted = {one.name for one in facts.measures.findings if one.status in ("drifted", "expected")}
    mark_expected(
        console.log().store,
        by=person.name,
        why=form.text("why", most=500),
        since=facts.incident.start if facts.incident else facts.measures.window.start,
        until=until_time(until) if until else None,
        measures=[one for one in measures if one in drifted] or sorted(drifted),
        sources=sources,
    )
    return back(request, f"/production/{name}", "Marked as expected: it is measured and shown, and does not count.")


@router.post("/production/{name}/rollback")
def roll_back(request: Request, name: str, form: Posted = Depends(posted)) -> Response:
    """Make the version before live again."""
    person, console = need(request, "approver"), console_of(request)
    version, why = form.text("version", most=100), form.text("why", most=300)
    start_job(
        console.root,
        ["rollback", f"--why=window {name}: {why}" if why else f"--why=because of window {name}", "--", version],
        slot=ROLLBACK,
        title=f"Rolling back to {version}",
        by=person.name,
        back=f"/production/{name}",
    )
    return back(request, f"/production/{name}", f"Rolling back to {version}: every byte of it is checked first.")


def _facts(console: Console, name: str) -> window.WindowFacts:
    log = console.log()
    found = window.read_window(Journal(log.store), index_of(console.root), marks(log.store), name)
    if found is None:
        raise HTTPException(404, "There is no such window: it was pruned or never measured.")
    return found
