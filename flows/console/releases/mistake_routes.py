"""Why a run's model makes its mistakes: the training images that taught them, and labels to look at."""

from collections.abc import Iterator
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.releases.run_page import run_of
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.labels.mistakes import found as kept
from flows.labels.mistakes.found import Found
from flows.labels.mistakes.of_run import ask_about
from monitoring.review.asked import label_text
from tasks.common.person import acting_as

SHOWN = 12  # mistakes a page
COLUMNS = ("mistake", "where", "label", "answer", "confidence", "why", "training image", "its label", "batch")
COLUMNS = (*COLUMNS, "annotators", "effect or similarity")
FIXES = ("training image", "label", "suggested", "batch", "annotators")

router = APIRouter()


@router.get("/releases/{run}/mistakes")
def mistakes(request: Request, run: str, after: str = "", format: str = "", table: str = "mistakes") -> Response:
    """The mistakes of a run, each with what taught it, and the suggested changes."""
    console = console_of(request)
    run_id = _run(console, run)
    if run_id != run:
        return RedirectResponse(_address(run_id))
    found = kept.read(console.root, run_id)
    if format == "csv" and table == "fixes":
        return csv_download(f"suggested-{run_id}", FIXES, fix_rows(found))
    if format == "csv":
        return csv_download(f"mistakes-{run_id}", COLUMNS, rows(found))
    start = int(after) if after.isdecimal() and len(after) < 6 else 0
    total = len(found.mistakes) if found else 0
    return page(
        request,
        "releases/mistakes.html",
        title="What taught its mistakes",
        section="/releases",
        run=run_id,
        found=found,
        shown=found.mistakes[start : start + SHOWN] if found else [],
        first=_address(run_id) if start else "",
        next=f"{_address(run_id)}?after={start + SHOWN}" if start + SHOWN < total else "",
        address=_address(run_id),
        release=_address(run_id).removesuffix("/mistakes"),
        slot=_slot(run_id),
        text=label_text,
    )


@router.post("/releases/{run}/mistakes")
def look(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Look for them: the classifier is taught again on its training images."""
    person, console = need(request, "labeller"), console_of(request)
    run_id = _run(console, run)
    start_job(
        console.root, ["mistakes", "--", run_id], slot=_slot(run_id), title="Looking for what taught the mistakes",
        by=person.name, back=_address(run_id),
    )  # fmt: skip
    return back(request, _address(run_id), "The causes are being looked for. This can take a minute.")


@router.post("/releases/{run}/mistakes/ask")
def ask(request: Request, run: str, form: Posted = Depends(posted)) -> Response:
    """Put the suggested training images into the queue of label issues."""
    person, console = need(request, "labeller"), console_of(request)
    found = kept.read(console.root, _run(console, run))
    if found is None or not found.fixes:
        return back(request, _address(run), "Nothing is suggested here.", good=False)
    with acting_as(person.name):
        count = ask_about(console.root, found)
    said = f"{count} image{'s wait' if count != 1 else ' waits'} for a person under Label."
    said = said if count else "People were asked about all of them before."
    return back(request, _address(run), said, good=bool(count))


def rows(found: Found | None) -> Iterator[tuple]:
    """A row for each training image behind a mistake."""
    for one in found.mistakes if found else ():
        about = (one.id, one.where, label_text(one.truth), label_text(one.answer), one.confidence)
        for why, teachers in (("taught it", one.taught), ("looks like it", one.near)):
            for it in teachers:
                value = it.effect if it.effect is not None else it.similarity
                yield (*about, why, it.id, label_text(it.label), it.batch, " ".join(it.annotators), value)


def fix_rows(found: Found | None) -> Iterator[tuple]:
    """A row for each suggested change."""
    for fix in found.fixes if found else ():
        to = "leave out" if fix.to is None else label_text(fix.to)
        yield fix.id, label_text(fix.label), to, fix.batch, " ".join(fix.annotators)


def _run(console: Console, run: str) -> str:
    run_id, record, problem = run_of(console, run)
    if record is None:
        raise HTTPException(404, problem or f"There is no run or version {run[:80]}.")
    return run_id


def _address(run: str) -> str:
    return f"/releases/{quote(run, safe='')}/mistakes"


def _slot(run: str) -> str:
    return f"mistakes {run}"
