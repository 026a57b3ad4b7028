"""What the buttons of the pages of images do: for chosen images, and for one."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from flows.console.images import actions, view
from flows.console.images.named import found_rows, fresh_index
from flows.console.images.pictures import pictures_of
from flows.console.index.index import ImageRow, Index
from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download
from flows.console.shell.posted import Posted, back, posted
from flows.labels.exclude import include, readable
from flows.labels.journal import Answer
from flows.labels.samples import data_classes
from flows.labels.take import take_later
from flows.production.labels import known_classes
from tasks.common.person import acting_as

router = APIRouter()


@router.post("/images/queue")
def queue(request: Request, form: Posted = Depends(posted)) -> Response:
    """Ask people for labels of the chosen images."""
    person, console, index = need(request, "labeller"), console_of(request), fresh_index(console_of(request))
    rows = _chosen(index, form, actions.MOST_ASKED)
    with acting_as(person.name):
        found = actions.put_in_queue(console.root, console.log(), index, rows, person.name)
    return back(request, form.text("back") or "/images", found.sentence(), good=bool(found.production + found.data))


@router.post("/images/exclude")
def exclude(request: Request, form: Posted = Depends(posted)) -> Response:
    """Leave the chosen images out of training, calibration and tests."""
    person, console = need(request, "approver"), console_of(request)
    rows = _chosen(fresh_index(console), form, actions.MOST_EXCLUDED)
    found = actions.leave_out(console.root, rows, form.text("why", most=500), person.name)
    _take(console, person.name, form)
    return back(request, form.text("back") or "/images", f"Excluded {found.added}: the data set takes it now.")


@router.post("/images/export")
def export(request: Request, form: Posted = Depends(posted)) -> Response:
    """The chosen images as a table, or as a ZIP file with the images."""
    need(request, "labeller")
    console, index = console_of(request), fresh_index(console_of(request))
    as_zip = form.text("as") == "zip"
    rows = _chosen(index, form, actions.MOST_ZIPPED if as_zip else None)
    table = csv_download("images", actions.TABLE, actions.table_rows(rows))
    if not as_zip:
        return table
    content = actions.zipped(pictures_of(console.root), rows, table.body)
    headers = {"Content-Disposition": 'attachment; filename="images.zip"'}
    return StreamingResponse(content, media_type="application/zip", headers=headers)


def _chosen(index: Index, form: Posted, most: int | None) -> list[ImageRow]:
    state = view.read_view(form.text("state", most=60_000))
    return actions.chosen(index, state, form.all("id"), form.flag("whole"), most)


def _take(console: Console, person: str, form: Posted) -> None:
    start_job(
        console.root, ["finish"], slot="finish", title="Taking answers into the data set", by=person,
        back=form.text("back") or "/images",
    )  # fmt: skip


@router.post("/images/{image}/label")
def label(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Give the image another label: an approver's word overrides, a labeller's is a vote."""
    person, console = need(request, "labeller"), console_of(request)
    found_rows(console, image)
    params = console.params()
    known = known_classes(console.root, params)
    known = [*known, *data_classes(console.root)] if known else None
    words = form.all("label")
    said = readable([word for word in words if word], params.data.task, known) if any(words) else []
    if said == [] and params.data.task == "multiclass":
        return back(request, f"/images/{image}", "Choose a class first.", good=False)
    role = "reviewer" if person.may("approver") else "annotator"
    answer = Answer(image, said, annotator=person.name, role=role, why=form.text("why", most=500))
    take_later(console.root, [answer])
    _take(console, person.name, form)
    return back(request, f"/images/{image}", "The label is kept: the data set takes it now.")


@router.post("/images/{image}/include")
def take_back(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Take an excluded image back."""
    person, console = need(request, "approver"), console_of(request)
    found_rows(console, image)
    with acting_as(person.name):
        include(console.root, [image], form.text("why", most=500), later=True)
    _take(console, person.name, form)
    return back(request, f"/images/{image}", "It is used again: the data set takes it now.")


@router.post("/images/{image}/undo")
def undo(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Take back the newest word about the image."""
    person, console = need(request, "approver"), console_of(request)
    found_rows(console, image)
    command = ["undo", image, f"--why={form.text('why', most=500)}"]
    title, to = f"Undoing the newest word about {image[:12]}", f"/images/{image}"
    start_job(console.root, command, slot=f"undo {image[:12]}", title=title, by=person.name, back=to)
    return back(request, to, "The newest word is being taken back.")


@router.post("/images/{image}/forget")
def forget(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Erase the image everywhere; the start of its id must be typed."""
    person, console = need(request, "admin"), console_of(request)
    found_rows(console, image)
    if form.text("typed") != image[:8]:
        return back(request, f"/images/{image}", f"Type {image[:8]} to erase this image.", good=False)
    if not form.text("why"):
        return back(request, f"/images/{image}", "Say why: the erasure is recorded with its reason.", good=False)
    command = ["forget", image, f"--why={form.text('why', most=500)}", "--yes"]
    title = f"Erasing {image[:12]} everywhere"
    job = start_job(console.root, command, slot=f"forget {image[:12]}", title=title, by=person.name, back="/images")
    return back(request, f"/jobs/{job.id}", "The image is being erased everywhere. This can take minutes.")
