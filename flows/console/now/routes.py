"""The first page: what waits for a person, what is live, what runs."""

from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from flows.console.labelling.state import labelling_of
from flows.console.now.cards import waiting_cards
from flows.console.now.counts import label_counts
from flows.console.now.live_model import LiveModel, live_model
from flows.console.now.since import happened_since, note_visit
from flows.console.people.roles import need
from flows.console.shell.console import console_of
from flows.console.shell.facts import forget, project_of
from flows.console.shell.page import page
from flows.console.shell.posted import Posted, back, posted
from flows.repo.workspace import alive_runs
from flows.runs.overview import one_run
from monitoring.until import until_time
from tasks.common.errors import EvergreenError
from tasks.releases import pause as pauses

router = APIRouter()


@router.get("/")
def now(request: Request) -> Response:
    """The page."""
    console, person = console_of(request), request.state.person
    before = note_visit(console.root, person.name)
    try:
        model = live_model(console)
    except EvergreenError:  # the frame says what is wrong with the store
        model = LiveModel(None)
    return page(
        request,
        "now/now.html",
        title="Now",
        section="/",
        cards=waiting_cards(console, lambda: label_counts(labelling_of(request), person)),
        model=model,
        before=before,
        happened=happened_since(console, before) if before else [],
        running=[run for name in alive_runs(console.root) if (run := one_run(console.root, console.releases(), name))],
        pause=project_of(console).pause,
        at=datetime.now(UTC),
    )


@router.post("/pause")
def pause(request: Request, form: Posted = Depends(posted)) -> Response:
    """Pause all automatic actions."""
    person, console = need(request, "approver"), console_of(request)
    until = until_time(form.text("until", most=40)) if form.text("until") else None
    made = pauses.pause(console.releases(), by=person.name, why=form.text("why", most=500), until=until)
    forget("project", console.root)
    return back(request, form.text("back", "/"), f"{made.sentence()}.")


@router.post("/resume")
def resume(request: Request, form: Posted = Depends(posted)) -> Response:
    """End the pause."""
    person, console = need(request, "approver"), console_of(request)
    ended = pauses.resume(console.releases(), by=person.name)
    forget("project", console.root)
    return back(request, form.text("back", "/"), "Resumed." if ended else "Nothing was paused.")
