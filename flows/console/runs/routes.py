"""The addresses of the pages of runs."""

from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.runs import view
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.repo.progress import Step
from flows.runs.overview import WORDS, RunRow, list_runs, one_run
from flows.runs.single_flight import wanted
from flows.server.process import api_of, running

EXPORTED = 5000  # runs in a CSV file
SLOT = "retrain"
STEPS = ("step", "state", "began", "seconds", "seconds last time", "what it found")
COLUMNS = ("run", "outcome", "began", "ended", "seconds", "why", "by", "version", "sentence")

router = APIRouter()


@router.get("/runs")
def runs(request: Request, outcome: str = "", after: str = "", format: str = "") -> Response:
    """All runs, newest first."""
    console = console_of(request)
    releases = console.releases()
    chosen = outcome if outcome in WORDS else None
    read = view.records_of(console.root).reader(releases)
    if format == "csv":
        found = list_runs(console.root, releases, outcome=chosen, most=EXPORTED, read=read)
        return csv_download("runs", COLUMNS, map(_cells, found.rows))
    found = list_runs(console.root, releases, outcome=chosen, after=after or None, read=read)
    kept = {"outcome": chosen} if chosen else {}
    return page(
        request,
        "runs/runs.html",
        title="Runs",
        section="/runs",
        rows=found.rows,
        outcomes=WORDS,
        outcome=chosen,
        waiting=wanted(console.root),
        first=f"/runs?{urlencode(kept)}" if after else "",
        next=f"/runs?{urlencode(kept | {'after': found.after})}" if found.after else "",
        csv=f"/runs?{urlencode(kept | {'format': 'csv'})}",
        would=view.would_do(console).sentence,
        slot=SLOT,
    )


@router.post("/runs")
def start(request: Request, form: Posted = Depends(posted)) -> Response:
    """Start a run; a person gives the reason."""
    person = need(request, "approver")
    why = form.text("why", most=500)
    arguments = ["retrain", *([f"--reason={why}"] if why else [])]
    start_job(
        console_of(request).root,
        arguments,
        slot=SLOT,
        title="Retraining",
        by=person.name,
        back=form.text("back", "/runs"),
    )
    return back(request, form.text("back", "/runs"), "The retraining is being started: this page shows how far it is.")


@router.get("/runs/{run}")
def run(request: Request, run: str, format: str = "") -> Response:
    """One run: its steps, its log, what it leads to."""
    console, row = console_of(request), _row(console_of(request), run)
    steps = view.step_rows(row.steps, view.expected_seconds(console.root))
    if format == "csv":
        lines = ((one.name, one.words, one.step.began, one.seconds, one.expected, one.found) for one in steps)
        return csv_download(f"steps-{run}", STEPS, lines)
    return page(
        request,
        "runs/run.html",
        title=f"Run {run}",
        section="/runs",
        row=row,
        steps=steps,
        share=view.share_done(steps, _spent) if row.outcome == "running" else None,
        links=view.links_of(row),
        prefect=_in_prefect(request, row) if row.flow_run else "",
        slot=SLOT,
    )


def _in_prefect(request: Request, row: RunRow) -> str:
    """Where the run is in Prefect: own servers sign in admins by the console, others are the user's."""
    root, path = console_of(request).root, f"/runs/flow-run/{row.flow_run}"
    if running(root):
        return f"/services/open/prefect?to={path}" if request.state.person.may("admin") else ""
    api = api_of(root)
    return f"{api.url.removesuffix('/api')}{path}" if api else ""


@router.post("/runs/{run}/cancel")
def cancel(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """End a run that is at work."""
    person, root = need(request, "approver"), console_of(request).root
    row = _row(console_of(request), run)
    if row.outcome != "running":
        return back(request, _address(run), f"The run has ended: {row.words}.", good=False)
    arguments = ["cancel", run, f"--why={form.text('why', most=500)}"]
    start_job(root, arguments, slot=f"cancel {run}", title="Cancelling the run", by=person.name, back=_address(run))
    return back(request, _address(run), "The run is being cancelled. Its finished stages stay for the next run.")


@router.post("/runs/{run}/again")
def again(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Start a run even if nothing is new."""
    person, root = need(request, "approver"), console_of(request).root
    _row(console_of(request), run)
    why = form.text("why", most=400)
    reason = f"again after run {run}" + (f": {why}" if why else "")
    arguments = ["retrain", "--force", f"--reason={reason}"]
    start_job(root, arguments, slot=SLOT, title="Retraining again", by=person.name, back=_address(run))
    return back(request, _address(run), "A new run is being started.")


def _row(console: Console, run: str) -> RunRow:
    if (row := one_run(console.root, console.releases(), run)) is None:
        raise HTTPException(404, f"There is no run {run[:80]}: it never was, or its record is gone.")
    return row


def _address(run: str) -> str:
    return f"/runs/{quote(run, safe='')}"


def _spent(step: Step) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(step.began)).total_seconds() if step.began else 0.0


def _cells(row: RunRow) -> tuple:
    seconds = None if row.seconds is None else round(row.seconds)
    return row.id, row.words, row.began, row.ended, seconds, row.why, row.by, row.version, row.sentence
