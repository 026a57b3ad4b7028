"""The addresses of /production, and what its buttons do."""

import time
from datetime import UTC, datetime
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from flows.console.index.index import index_of
from flows.console.jobs.store import read_job, start_job
from flows.console.people.roles import need
from flows.console.production import incidents as rows
from flows.console.production import overview, window
from flows.console.production.chart import chart
from flows.console.production.followed import Asked, followed
from flows.console.production.words import OUTCOMES, folded, lasted, span
from flows.console.runs.view import would_do
from flows.console.shell.console import Console, console_of
from flows.console.shell.facts import recent
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.repo.workspace import alive_runs
from monitoring.drift.by_source import COLUMNS
from monitoring.expected import mark_expected, marks, remove_mark
from monitoring.journal import Journal
from monitoring.mutes import KINDS, active_mutes, mute, unmute
from monitoring.pages import evidently
from monitoring.pages.live import read as read_live
from monitoring.pages.live import reports_dir
from monitoring.plain_names import plain_name
from monitoring.review.queue import enqueue
from monitoring.seen import last_seen
from monitoring.until import until_time
from tasks.releases.pause import pause_of

LOOK, RETRAIN, ROLLBACK = "monitor", "retrain", "rollback"  # slots of jobs
WAIT = 4.0  # seconds in which a run that is started shows up, mostly
EXPORTED = 20_000  # rows of a CSV
SPANS = {"1h": "1 hour", "1d": "1 day", "quiet": "until it is quiet"}

router = APIRouter()
asked = Asked()


@router.get("/production")
def production(request: Request, after: str = "", week: str = "", format: str = "") -> Response:
    """All windows: the chart, incidents, filters, live accuracy."""
    console = console_of(request)
    state = overview.chosen(request.query_params)
    index, known, filters = index_of(console.root), marks(console.log().store), state.filters()
    outline, counts = overview.outline_and_counts(index, filters)
    if format == "csv" and state.view == "windows":
        return csv_download("windows", WINDOW_COLUMNS, map(_window_cells, index.windows(**filters, most=EXPORTED)))
    if format == "csv":
        return csv_download("incidents", INCIDENT_COLUMNS, map(_incident_cells, rows.incidents(outline, known)[::-1]))
    periods = read_live(reports_dir(console.root)).periods
    if format == "sources":
        return csv_download("live-accuracy", ACCURACY_COLUMNS, _accuracy_cells(periods, week))
    if state.view == "windows":
        shown, more = overview.page_of_windows(index, filters, after)
    else:
        shown, more = overview.page_of_incidents(outline, known, after)
    seen = last_seen(console.root)
    return page(
        request,
        "production/production.html",
        title="Production",
        section="/production",
        state=state,
        chart=chart(rows.bars(outline, known), f"{len(outline)} windows, oldest first"),
        count=len(outline),
        shown=shown,
        first=state.address() if after else "",
        next=f"{state.address()}{'&' if '?' in state.address() else '?'}after={quote(more)}" if more else "",
        counts=counts,
        outcomes=OUTCOMES,
        accuracy=overview.accuracy(periods, week),
        seen=seen,
        marks=known[::-1],
        mutes=active_mutes(console.root),
        kinds=KINDS,
        spans=SPANS,
        complete=index.is_complete(),
        span=span,
        lasted=lasted,
        folded=folded,
        plain_name=plain_name,
        slot=LOOK,
        now=datetime.now(UTC),
    )


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


@router.get("/production/{name}")
def one_window(request: Request, name: str, format: str = "") -> Response:
    """One window: why it was an alarm, since when, what followed, what to do."""
    console = console_of(request)
    log, releases, index = console.log(), console.releases(), index_of(console.root)
    known = marks(log.store)
    facts = window.read_window(Journal(log.store), index, known, name)
    if facts is None:
        raise HTTPException(404, "There is no such window: it was pruned or never measured.")
    if format == "measures":
        return csv_download(f"measures-{name}", MEASURE_COLUMNS, map(_measure_cells, facts.measures.findings))
    if format == "sources":
        return csv_download(f"sources-{name}", SOURCE_COLUMNS, _source_cells(facts))
    around = facts.around
    part = [one for one in around if facts.incident and facts.incident.first <= one.id <= facts.incident.last]
    names = {name, *(one.id for one in part)}
    since = part[0].start if part else facts.measures.window.start
    chain = recent(
        ("followed", console.root, name),
        lambda: followed(console.root, releases, log, names, since, asked),
        1.0,
    )
    live = releases.live()
    version, about = window.back_to(console.root, releases) if live else (None, "nothing is live yet")
    first, rest = folded(facts.decision.sentence)
    held = pause_of(releases)
    reports, measured = reports_dir(console.root), window.measure_rows(facts.measures)
    return page(
        request,
        "production/window.html",
        title=span(facts.measures.window.start, facts.measures.window.end),
        section="/production",
        id=name,
        facts=facts,
        window=facts.measures.window,
        decision=facts.decision,
        outcomes=OUTCOMES,
        sentence=first,
        rest=rest,
        incident=facts.incident,
        lasted=lasted,
        span=span,
        chart=chart(rows.bars(window.trend(around, name), known, current=name), "the windows around this one"),
        heat=window.heat(facts.details),
        loud=[row for row in measured if row["finding"].status != "ok"],
        quiet=[row for row in measured if row["finding"].status == "ok"],
        accuracies=[
            (plain_name(code), found)
            for code in ("accuracy.true", "accuracy.estimated", "accuracy.reference")
            if (found := window.named(facts.measures, code)) is not None and found.value is not None
        ],
        plots=[(bins, window.drawn(bins)) for bins in (facts.details.plots if facts.details else [])],
        chain=chain,
        markable=[one for one in facts.measures.findings if one.status == "drifted"],
        sources=[one.source for one in facts.details.sources[: window.SOURCES]] if facts.details else [],
        muted=next((one for one in active_mutes(console.root) if one.kind == "drift"), None),
        spans=SPANS,
        new=would_do(console),
        paused=held.sentence() if held else "",
        live=live.version if live else "",
        version=version,
        about_version=about,
        archive=(reports / f"{name}.html").is_file(),
        evidently=evidently.has(evidently.workspace_dir(console.root), name),
        slots={"retrain": RETRAIN, "rollback": ROLLBACK},
    )


@router.post("/production/{name}/label")
def label_these(request: Request, name: str, form: Posted = Depends(posted)) -> Response:
    """Ask people about the window's most informative images."""
    person, console = need(request, "labeller"), console_of(request)
    log, about = console.log(), _facts(console, name).measures.window
    because = f"window {name}: asked for by {person.name}"
    added = enqueue(log, console.params().review, about.start, about.end, because)
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


# --- CSV

INCIDENT_COLUMNS = ("start", "end", "windows", "outcome", "measure", "ratio", "version", "retrainings", "expected")
WINDOW_COLUMNS = ("window", "start", "end", "outcome", "version", "rows", "measured", "drifted", "ratio", "sentence")
MEASURE_COLUMNS = ("measure", "code", "status", "value", "bound", "p", "low", "high", "detail")
SOURCE_COLUMNS = ("source", "images", "measure", "code", "value", "reference", "ratio")
ACCURACY_COLUMNS = ("week", "version", "source", "accuracy", "low", "high", "labels")


def _incident_cells(one: rows.Incident) -> tuple:
    return (
        one.start, one.end, one.windows, OUTCOMES[one.outcome], one.measure, one.ratio, one.version,
        len(one.retrained), one.expected,
    )  # fmt: skip


def _window_cells(one) -> tuple:
    drifted = ", ".join(plain_name(code) for code in one.drifted)
    return (
        one.id, one.start, one.end, OUTCOMES[one.outcome], one.version, one.rows, one.used, drifted, one.worst,
        one.sentence,
    )  # fmt: skip


def _measure_cells(one) -> tuple:
    return (
        plain_name(one.name),
        one.name,
        one.status,
        one.value,
        one.threshold,
        one.p_value,
        one.low,
        one.high,
        one.detail,
    )


def _source_cells(facts: window.WindowFacts):
    for one in facts.details.sources if facts.details else []:
        for code in COLUMNS:
            if (cell := one.cells.get(code)) is not None:
                yield one.source, one.rows, plain_name(code), code, cell.value, cell.was, cell.ratio


def _accuracy_cells(periods, week: str):
    for period in periods:
        if week and period.id != week:
            continue
        for source, one in sorted(period.sources.items()):
            yield period.start.date(), period.version, source, one.value, one.low, one.high, one.used
