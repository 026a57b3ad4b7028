"""The addresses of the pages of the data: the list of batches and one batch."""

from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from flows.console.data import batch as one_batch
from flows.console.data import batches, refusals, tables
from flows.console.data.counts import single_names, totals_of
from flows.console.index.index import index_of
from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.project.tombstoning import lift_tombstone, tombstone_batch
from flows.project.uploads import uploads
from flows.runs.overview import newest_ended
from tasks.common.schemas import SPLITS
from tasks.labels.changes import in_force, label_state, read_changes

STATES = ("in use", "refused", "tombstoned", "judged again")
CLASSES = 20  # rows of the table of classes on the first page
PICTURES = 24
LABEL_BATCHES = 10

router = APIRouter()


@router.get("/data")
def data(request: Request, state: str = "", after: str = "", format: str = "", table: str = "batches") -> Response:
    """All batches, refused ones on top; classes and their changes; people's labels."""
    console = console_of(request)
    rows = _rows(console)
    chosen = state if state in STATES else None
    out = {row.id for row in rows if row.state in ("refused", "tombstoned")}
    index = index_of(console.root)
    totals = totals_of(index.columns(), SPLITS, out, console.params().data.task == "multilabel")
    labels = batches.label_rows(console.root)
    if format == "csv":
        if table == "classes":
            return csv_download(*tables.classes_table(totals))
        if table == "labels":
            return csv_download(*tables.labels_table(labels))
        return csv_download(*tables.batches_table(row for row in rows if chosen in (None, row.state)))
    found = batches.one_page(rows, after or None, chosen)
    folder = console.root / "data"
    changes = read_changes(folder)
    counting = in_force(changes)
    state_now = label_state(folder)
    newest = newest_ended(console.root, console.releases())
    kept = {"state": chosen} if chosen else {}
    return page(
        request,
        "data/data.html",
        title="Data",
        section="/data",
        refused=[row for row in rows if row.state == "refused"][:10],
        blocked=newest if newest and newest.outcome == "refused" else None,
        rows=found.rows,
        total=len(rows),
        states=STATES,
        state=chosen,
        splits=SPLITS,
        totals=totals[:CLASSES],
        classes=len(totals),
        pending=[change for change in counting if change.state == state_now],
        changes=list(reversed(counting))[:10],
        labels=labels[:LABEL_BATCHES],
        label_count=len(labels),
        stopped=refusals.refused_sources(console.root)[-5:],
        uploads=uploads(console.root)[:5],
        complete=index.is_complete(),
        first=f"/data?{urlencode(kept)}" if after else "",
        next=f"/data?{urlencode(kept | {'after': found.after})}" if found.after else "",
        csv=f"/data?{urlencode(kept | {'format': 'csv'})}",
    )


@router.get("/data/table")
def table(request: Request, format: str = "") -> Response:
    """Why a run refused all batches together."""
    console = console_of(request)
    if (kept := refusals.kept_validation(console.root, "table")) is None:
        raise HTTPException(404, "No run of this checkout refused the data as a whole.")
    checks = sorted(kept.get("checks", []), key=lambda check: check.get("status") == "pass")
    expectations = kept.get("expectations", [])
    if format == "csv":
        return csv_download(*tables.rules_table("data", checks, expectations))
    newest = newest_ended(console.root, console.releases())
    return page(
        request,
        "data/table.html",
        title="The data was refused",
        section="/data",
        now=newest is not None and newest.outcome == "refused" and not newest.sentence.startswith("batch "),
        reasons=(kept.get("refused") or {}).get("reasons", []),
        checks=checks,
        expectations=expectations,
    )


@router.get("/data/{batch}")
def batch(request: Request, batch: str, given: str = "", right: str = "", swap: str = "", format: str = "") -> Response:
    """One batch: what is true of it now, its mix, its images, what was refused."""
    console = console_of(request)
    row = _batch(console, batch)
    if format:
        return csv_download(*_table(console, row, format))
    at_ingest, refused_count = refusals.refused_at_ingest(console.root, batch)
    at_validation = refusals.refused_at_validation(console.root, batch)
    releases, index = console.releases(), index_of(console.root)
    labels = [label for label in index.columns().names["true"] if label is not None]
    if console.params().data.task == "multilabel":
        labels = [name for label in labels for name in single_names(label)]
    known = sorted(set(labels))
    plan, problem = one_batch.preview(console.root, batch, given, right, bool(swap), known) if given else (None, "")
    return page(
        request,
        "data/batch.html",
        title=f"Batch {batch}",
        section="/data",
        row=row,
        sentences=one_batch.what_is_true(row, one_batch.is_blocking(console.root, releases, batch)),
        lifted=one_batch.lifted_of(releases, batch),
        pictures=index.page({"batch": [batch]}, most=PICTURES),
        validation=one_batch.validation_of(console.root, row),
        at_ingest=at_ingest,
        refused_count=refused_count,
        at_validation=at_validation,
        known=known,
        given=given,
        right=right,
        swap=bool(swap),
        plan=plan,
        problem=problem,
    )


@router.get("/data/{batch}/refused/{place}.png")
def refused_picture(request: Request, batch: str, place: int) -> Response:
    """A small picture of a row that was refused when the batch was added."""
    file = refusals.picture_file(console_of(request).root, batch, place)
    if file is None:
        raise HTTPException(404, "There is no picture of it.")
    headers = {"Content-Security-Policy": "default-src 'none'", "Cache-Control": "private, max-age=86400"}
    return Response(file.read_bytes(), media_type="image/png", headers=headers)


@router.post("/data/{batch}/tombstone")
def tombstone(request: Request, batch: str, form: Posted = Depends(posted)) -> Response:
    """Leave the batch out of all runs from now on."""
    person = need(request, "approver")
    _batch(console_of(request), batch)
    tombstone_batch(console_of(request).root, batch, form.text("why", most=500), person.name)
    return back(request, _address(batch), f"{batch} is tombstoned: it is kept, and no run trains on it from now on.")


@router.post("/data/{batch}/allow")
def allow(request: Request, batch: str, form: Posted = Depends(posted)) -> Response:
    """Take the tombstone back."""
    person = need(request, "approver")
    _batch(console_of(request), batch)
    lift_tombstone(console_of(request).root, batch, form.text("why", most=500), person.name)
    return back(request, _address(batch), f"{batch} is allowed again: the next run judges it.")


@router.post("/data/{batch}/relabel")
def relabel(request: Request, batch: str, form: Posted = Depends(posted)) -> Response:
    """Correct one class of the whole batch."""
    person, root = need(request, "approver"), console_of(request).root
    _batch(console_of(request), batch)
    given, right, why = form.text("given", most=300), form.text("right", most=300), form.text("why", most=500)
    arguments = [
        "relabel",
        batch,
        f"--given={given}",
        f"--why={why}",
        *([f"--right={right}"] if right else ["--exclude"]),
    ]
    if form.flag("swap") and right:
        arguments.append("--swap")
    start_job(
        root,
        arguments,
        slot=f"relabel {batch}",
        title="Correcting the batch's labels",
        by=person.name,
        back=_address(batch),
    )
    return back(request, _address(batch), "The labels are being corrected.")


def _rows(console: Console) -> list[batches.BatchRow]:
    return batches.known_rows(console.root, console.params(), console.releases(), index_of(console.root).columns())


def _batch(console: Console, batch: str) -> batches.BatchRow:
    found = next((row for row in _rows(console) if row.id == batch), None)
    if found is None:
        raise HTTPException(404, f"There is no batch {batch[:80]} of images in data/.")
    return found


def _table(console: Console, row: batches.BatchRow, format: str) -> tables.Table:
    """A table of a batch's page, whole. Raises HTTPException 404 if `format` names none."""
    if format == "mix":
        return tables.mix_table(row)
    if format == "seen":
        return tables.given_and_seen_table(row.id, one_batch.validation_of(console.root, row))
    if format == "rules":
        found = one_batch.validation_of(console.root, row)
        return tables.rules_table(row.id, found.checks if found else [])
    if format != "csv":
        raise HTTPException(404, "There is no such table.")
    at_ingest, _ = refusals.refused_at_ingest(console.root, row.id, most=None)
    return tables.quarantine_table(
        row.id, [*at_ingest, *refusals.refused_at_validation(console.root, row.id, most=None)]
    )


def _address(batch: str) -> str:
    return f"/data/{quote(batch, safe='')}"
