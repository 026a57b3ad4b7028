"""The addresses of the pages of releases, of decisions about runs, and of two versions side by side."""

from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.releases import compare_page, run_table, timeline
from flows.console.releases.rollout_part import ORDERS, going_on, rollout_part
from flows.console.releases.run_page import RunPage, run_of, run_page
from flows.console.releases.undo import Undo, undo_of
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.publishing import decisions
from flows.publishing.history import known_history, periods
from flows.publishing.run_list import run_rows
from flows.release_report.figures import points
from tasks.common.errors import EvergreenError

PARTS = {
    "": "Verdict",
    "figures": "Figures",
    "mistakes": "Mistakes",
    "data": "Labels and data",
    "changes": "What changed",
    "again": "How to get it again",
}
router = APIRouter()


@router.get("/releases")
def releases(request: Request, outcome: str = "", after: str = "", format: str = "") -> Response:
    """Held runs, what is live, and every version since the first."""
    console = console_of(request)
    store = console.releases()
    rows, history, retired, problem = run_rows(console.root, store), [], {}, ""
    try:
        history, retired = periods(known_history(console.root, store)), store.retired()
    except EvergreenError as error:
        problem = str(error)
    if format == "csv":
        return csv_download("releases", timeline.COLUMNS, timeline.table(history, rows))
    chosen = outcome if outcome in timeline.WORDS else ""
    kept = {"outcome": chosen} if chosen else {}
    if chosen:
        runs, following = timeline.of_outcome(rows, chosen, after)
        first, shown = [], []
    else:
        runs, place = [], int(after) if after.isdecimal() and len(after) < 12 else None
        first, shown, following = timeline.releases(history, rows, retired, place)
    rolling, rolling_problem = (None, "") if after or chosen else going_on(store)
    return page(
        request,
        "releases/releases.html",
        title="Releases",
        section="/releases",
        held=[row for row in rows if row.outcome == "held"] if not after and not chosen else [],
        live=history[-1] if history and not after and not chosen else None,
        rolling=rolling,
        rolling_problem=rolling_problem,
        loose=first,
        shown=shown,
        runs=runs,
        outcome=chosen,
        words=timeline.WORDS,
        words_of=timeline.words_of,
        folded=timeline.FOLDED,
        problem=problem,
        nothing=not history and not rows,
        first=f"/releases?{urlencode(kept)}" if after else "",
        next=f"/releases?{urlencode(kept | {'after': following})}" if following else "",
    )


@router.get("/releases/{run}")
def release(request: Request, run: str, part: str = "", format: str = "") -> Response:
    """One run: is it better, is anything worse, what happens without a decision; then the parts of its report."""
    console = console_of(request)
    run_id, found = _page(console, run)
    if run_id != run:  # a version's name
        return RedirectResponse(_address(run_id))
    if format == "csv":
        return csv_download(f"release-{run_id}", run_table.COLUMNS, run_table.table(found))
    rollout, rollout_problem = rollout_part(console, run_id)
    return page(
        request,
        "releases/run.html",
        title=f"Release of run {run_id}" if not found.version else f"Release {found.version}",
        section="/releases",
        found=found,
        rollout=rollout,
        rollout_problem=rollout_problem,
        slot=_slot(run_id),
        parts_of_page=PARTS,
        part=part if part in PARTS else "",
        words=timeline.words_of(found.row),
        address=_address(run_id),
        points=points,
    )


@router.post("/releases/{run}/preview")
def preview(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Judge the run again, against what is live now."""
    return _job(request, run, ["approve", run, "--preview"], "Judging the run again", "The run is being judged again.")


@router.post("/releases/{run}/approve")
def approve(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Publish a held run."""
    need(request, "approver")
    why = _reason(form)
    said = "The run is being judged once more and published."
    return _job(request, run, ["approve", run, f"--why={why}"], "Approving the run", said)


@router.post("/releases/{run}/refuse")
def refuse(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Refuse a held run for good."""
    person = need(request, "approver")
    console = console_of(request)
    _record(console, run)
    decisions.refuse(console.root, run, by=person.name, why=_reason(form))
    return back(request, _address(run), "The run is refused: no page asks about it again.")


@router.post("/releases/{run}/comment")
def comment(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Say or ask something about a run."""
    person = need(request, "labeller")
    console = console_of(request)
    _record(console, run)
    decisions.comment(console.root, run, by=person.name, text=form.text("text", most=decisions.LETTERS))
    return back(request, f"{_address(run)}#comments", "Your comment is kept with the run.")


@router.post("/releases/{run}/rollout/{order}")
def order_rollout(request: Request, run: str, order: str, form: Posted = Depends(posted)) -> Response:
    """Stop the run's rollout, promote its model now, or go to the next share."""
    need(request, "approver")
    if order not in ORDERS:
        raise HTTPException(404, f"A rollout knows no order {order[:40]!r}: expected {', '.join(ORDERS)}.")
    why = _reason(form)
    now, problem = going_on(console_of(request).releases())
    if now is None or now.run_id != run:
        raise EvergreenError(
            problem or f"nothing was changed: the rollout of run {run[:80]} has ended, reload the page"
        )
    return _job(request, run, ["rollout", order, f"--why={why}"], ORDERS[order][2], f"{ORDERS[order][2]} has begun.")


@router.post("/releases/{run}/override")
def override(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Publish a run against the gate's verdict; the person types its id."""
    need(request, "approver")
    why = _reason(form)
    if form.text("typed") != run:
        raise EvergreenError(f"nothing was published: the typed run {form.text('typed')!r} is not {run!r}")
    said = "The run is being published against the gate's verdict."
    return _job(request, run, ["promote", run, "--override", f"--why={why}"], "Publishing against the gate", said)


@router.get("/releases/{version}/rollback")
def undo(request: Request, version: str) -> Response:
    """What a rollback to a version would change."""
    found = _undo(console_of(request), version)
    return page(
        request,
        "releases/rollback.html",
        title=f"Roll back to {version}",
        section="/releases",
        found=found,
        slot="rollback",
        address=_address(version),
    )


@router.post("/releases/{version}/rollback")
def roll_back(request: Request, version: str, form: Posted = Depends(posted)) -> Response:
    """Make a version live again."""
    person = need(request, "approver")
    console = console_of(request)
    found, why = _undo(console, version), _reason(form)
    known = {batch.batch for batch in found.newer}
    if unknown := sorted(set(form.all("tombstone")) - known):
        raise EvergreenError(f"no batch {unknown[0]!r} came after {version}: nothing was changed, reload the page")
    chosen = [f"--tombstone={batch}" for batch in form.all("tombstone")]
    model = ["--model-only"] if form.text("data") == "model" else []
    start_job(
        console.root,
        ["rollback", version, f"--why={why}", *model, *chosen],
        slot="rollback",
        title=f"Rolling back to {version}",
        by=person.name,
        back="/releases",
    )
    return back(
        request, f"{_address(version)}/rollback", f"Every byte of {version} is being checked; then it goes live."
    )


@router.get("/compare")
def compare(request: Request, a: str = "", b: str = "", format: str = "") -> Response:
    """Two versions side by side."""
    console = console_of(request)
    found = compare_page.compare_page(console, a, b)
    if format == "csv" and found.comparison:
        return csv_download(
            f"compare-{found.a}-{found.b}", compare_page.COLUMNS, compare_page.table(found.comparison, found.floors)
        )
    return page(
        request, "releases/compare.html", title="Compare two versions", section="/releases", found=found, points=points
    )


def _job(request: Request, run: str, arguments: list[str], title: str, said: str) -> Response:
    person = need(request, "approver")
    console = console_of(request)
    _record(console, run)
    address = _address(run)
    start_job(console.root, arguments, slot=_slot(run), title=title, by=person.name, back=address)
    return back(request, address, said)


def _page(console: Console, run: str) -> tuple[str, RunPage]:
    run_id, record, problem = run_of(console, run)
    if record is None:
        raise HTTPException(
            404, problem or f"There is no run or version {run[:80]}: it never was, or its record is gone."
        )
    return run_id, run_page(console, run_id, record)


def _record(console: Console, run: str) -> None:
    run_id, record, problem = run_of(console, run)
    if record is None or run_id != run or record.get("of_pointer"):
        raise HTTPException(404, problem or f"There is no record of run {run[:80]}.")


def _undo(console: Console, version: str) -> Undo:
    try:
        return undo_of(console, version)
    except LookupError:
        raise HTTPException(404, f"No version {version[:80]} was ever live.") from None


def _reason(form: Posted) -> str:
    if not (why := form.text("why", most=500)):
        raise EvergreenError("nothing was changed: a reason is needed, it is kept with the decision")
    return why


def _slot(run: str) -> str:
    return f"decide {run}"


def _address(run: str) -> str:
    return f"/releases/{quote(run, safe='')}"
