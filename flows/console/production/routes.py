"""The pages of /production."""

from datetime import UTC, datetime
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from flows.console.index.index import index_of
from flows.console.production import incidents as rows
from flows.console.production import overview, tables, window
from flows.console.production.chart import chart
from flows.console.production.followed import asked_of, followed
from flows.console.production.slots import LOOK, RETRAIN, ROLLBACK
from flows.console.production.words import OUTCOMES, folded, lasted, span
from flows.console.runs.view import would_do
from flows.console.shell.console import console_of
from flows.console.shell.facts import recent
from flows.console.shell.page import csv_download, page
from monitoring.expected import marks
from monitoring.journal import Journal
from monitoring.mutes import KINDS, active_mutes
from monitoring.pages import evidently
from monitoring.pages.live import read as read_live
from monitoring.pages.live import reports_dir
from monitoring.plain_names import plain_name
from monitoring.seen import last_seen
from tasks.releases.pause import pause_of

EXPORTED = 20_000  # rows of a CSV
SPANS = {"1h": "1 hour", "1d": "1 day", "quiet": "until it is quiet"}

router = APIRouter()


@router.get("/production")
def production(request: Request, after: str = "", week: str = "", format: str = "") -> Response:
    """All windows: the chart, incidents, filters, live accuracy."""
    console = console_of(request)
    state = overview.chosen(request.query_params)
    index, known, wanted = index_of(console.root), marks(console.log().store), state.filter()
    outline, counts = overview.outline_and_counts(index, wanted)
    if format == "csv" and state.view == "windows":
        return csv_download("windows", tables.WINDOWS, map(tables.window_row, index.windows(wanted, most=EXPORTED)))
    if format == "csv":
        return csv_download(
            "incidents", tables.INCIDENTS, map(tables.incident_row, rows.incidents(outline, known)[::-1])
        )
    known_weeks = read_live(reports_dir(console.root))
    periods = known_weeks.periods
    if format == "weeks":
        return csv_download("live-accuracy-weeks", tables.WEEKS, map(tables.week_row, periods))
    if format == "sources":
        return csv_download("live-accuracy", tables.WEEK_SOURCES, tables.week_source_rows(periods, week))
    if state.view == "windows":
        shown, more = overview.page_of_windows(index, wanted, after)
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
        accuracy=overview.accuracy(known_weeks, week),
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
        return csv_download(f"measures-{name}", tables.MEASURES, map(tables.measure_row, facts.measures.findings))
    if format == "checks":
        return csv_download(f"checks-{name}", tables.CHECKS, map(tables.check_row, facts.decision.checks))
    if format == "sources":
        return csv_download(f"sources-{name}", tables.SOURCES, tables.source_rows(facts))
    around = facts.around
    part = [one for one in around if facts.incident and facts.incident.first <= one.id <= facts.incident.last]
    names = {name, *(one.id for one in part)}
    since = part[0].start if part else facts.measures.window.start
    chain = recent(
        ("followed", console.root, name),
        lambda: followed(console.root, releases, log, names, since, asked_of(console.root)),
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
