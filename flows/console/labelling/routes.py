"""`/label`: the queues, one image after the other, one suggested class together, the classes."""

from datetime import date
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from flows.console.jobs.store import start_job
from flows.console.labelling import answers, pages, pictures
from flows.console.labelling.feedback import SLOT as FEEDBACK_SLOT
from flows.console.labelling.feedback import decided_lately, waiting_by_client
from flows.console.labelling.overview import TITLES, overview_of, people_rows
from flows.console.labelling.state import labelling_of, who_of
from flows.console.people.roles import need
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, local, posted
from flows.labels.queues import QUEUES
from monitoring.review.assignments import assign
from tasks.common.errors import EvergreenError

SLOT = "labels"  # of the jobs that take answers or pick images
MOST_PICKED = 1000

router = APIRouter()


@router.get("/label")
def overview(request: Request, format: str = "", table: str = "queues") -> Response:
    """The queues."""
    person, found = need(request, "viewer"), labelling_of(request)
    seen = overview_of(found, who_of(person))
    if format == "csv" and table == "people":
        columns = ("name", "labels", "right, by the others' labels", "second looks")
        return csv_download("people", columns, people_rows(seen.people))
    if format == "csv" and table == "assigned":
        rows = [(one.person, one.due, len(one.ids), "yes" if one.overdue else "no") for one in seen.work]
        return csv_download("assigned", ("person", "due", "images", "overdue"), rows)
    if format == "csv":
        rows = [(c.title, c.left.all, c.left.free, c.left.mine, c.left.due, c.left.others, c.done) for c in seen.cards]
        columns = ("queue", "waiting", "for me", "assigned to me", "due", "assigned to others", "done in this sitting")
        return csv_download("queues", columns, rows)
    values = {"seen": seen, "people": people_rows(seen.people), "slot": SLOT, "titles": TITLES}
    values |= {"feedback": waiting_by_client(found.console), "feedback_slot": FEEDBACK_SLOT}
    values["feedback_decided"] = decided_lately(found.console)
    return page(request, "label/overview.html", title="Label", section="/label", **values)


@router.get("/label/classes")
def classes(request: Request, format: str = "") -> Response:
    """What each class means, with its reference images."""
    found = labelling_of(request)
    seen = pages.class_cards(found)
    if format == "csv":
        rows = [(one.name, one.text, " ".join(one.images), one.by, one.at) for one in seen]
        return csv_download("classes", ("class", "meaning", "reference images", "by", "at"), rows)
    return page(request, "label/classes.html", title="What the classes mean", section="/label", seen=seen)


@router.post("/label/classes")
def define(request: Request, form: Posted = Depends(posted)) -> Response:
    """Say what a class means."""
    person, name = need(request, "approver"), form.text("class", most=200)
    words = ["classes", "define", f"--text={form.text('why', most=2000)}", "--", name]
    start_job(labelling_of(request).root, words, slot=f"define {name}", title=f"Define {name}", by=person.name,
              back="/label/classes")  # fmt: skip
    return back(request, "/label/classes", f"What {name} means is being recorded.")


@router.get("/label/image/{image}")
def picture(request: Request, image: str, queue: str = "production") -> Response:
    """The image itself."""
    return pictures.answer(request, labelling_of(request), image, _queue(queue))


@router.post("/label/finish")
def finish(request: Request, form: Posted = Depends(posted)) -> Response:
    """Take all answers as one commit, and end the sitting."""
    person, found = need(request, "labeller"), labelling_of(request)
    found.sittings.end(person.name)
    start_job(found.root, ["finish"], slot=SLOT, title="Taking the answers", by=person.name, back="/label")
    return back(request, "/label", "The answers are being taken, as one commit.")


@router.post("/label/pick")
def pick(request: Request, form: Posted = Depends(posted)) -> Response:
    """Pick more images: the most informative of the last hours, or of data/ without a label."""
    person, found = need(request, "labeller"), labelling_of(request)
    data = form.text("from") == "data"
    number = _number(form.text("number"), 1, MOST_PICKED if data else 24 * 365)
    words = ["queue", "--pick-data" if data else "--pick", str(number)]
    start_job(found.root, words, slot="pick", title="Picking images", by=person.name, back="/label")
    return back(request, "/label", "Images are being picked.")


@router.post("/label/assign")
def assigned(request: Request, form: Posted = Depends(posted)) -> Response:
    """Assign unassigned images to a person."""
    person, found = need(request, "approver"), labelling_of(request)
    queue, to, due = _queue(form.text("queue")), form.text("person", most=200), form.text("due")
    count = _number(form.text("number"), 1, 100_000)
    turn = found.turn(queue, who_of(person))
    ids = [one.id for one in turn.open if one.id not in turn.holders][:count]
    if not ids:
        raise EvergreenError(f"every image of {TITLES[queue]} is assigned, or none waits")
    made = assign(turn.log.store, to, _day(due), ids, person.name)
    until = f" until {made.due.isoformat()}" if made.due else ""
    return back(request, "/label", f"{made.person} was assigned {len(ids)} images{until}.")


@router.get("/label/{queue}")
def one(request: Request, queue: str, format: str = "", view: str = "") -> Response:
    """One image of a queue; or with ?view=grid those of one suggested class together."""
    found, queue = labelling_of(request), _queue(queue)
    if format == "csv":
        return csv_download(f"label-{queue}", *pages.queue_table(found, queue, who_of(need(request, "viewer"))))
    who = who_of(need(request, "labeller"))
    title = f"Label: {TITLES[queue]}"
    if view == "grid":
        values = pages.grid_values(found, queue, who, request.query_params)
        return page(request, "label/grid.html", title=title, section="/label", **values)
    values = pages.one_values(found, queue, who, request.query_params)
    return page(request, "label/one.html", title=title, section="/label", **values)


@router.post("/label/{queue}/answer")
def answer(request: Request, queue: str, form: Posted = Depends(posted)) -> Response:
    """Take what a person says about one image. The page's script sends several, and gets JSON with the next images."""
    found, queue, who = labelling_of(request), _queue(queue), who_of(need(request, "labeller"))
    if not _asks_json(request):
        return back(request, _next(form, queue), answers.act(found, queue, who, form).said)
    told = [answers.try_to_act(found, queue, who, one) for one in answers.entries(form)]
    return JSONResponse({"told": told, **_more(request, queue, form)})


@router.post("/label/{queue}/more")
def more(request: Request, queue: str, form: Posted = Depends(posted)) -> Response:
    """The next images, for a page that has shown all of its own."""
    need(request, "labeller")
    return JSONResponse(_more(request, _queue(queue), form))


@router.post("/label/{queue}/undo")
def undo(request: Request, queue: str, form: Posted = Depends(posted)) -> Response:
    """Take the last answer back, and show its image again."""
    found, who = labelling_of(request), who_of(need(request, "labeller"))
    _queue(queue)
    if not _asks_json(request):
        done = answers.undo(found, who)
        return back(request, f"/label/{done.entry.queue}?id={done.entry.id}", done.said)
    try:
        done = answers.undo(found, who, form.text("id"))
    except EvergreenError as error:
        return JSONResponse({"refused": str(error)}, 409)
    return JSONResponse({"said": done.said, "item": pages.item(found, done.entry), **_more(request, queue, form)})


@router.post("/label/{queue}/accept")
def accept(request: Request, queue: str, form: Posted = Depends(posted)) -> Response:
    """Accept the suggested class of all images of a grid but the crossed-out."""
    found, queue, who = labelling_of(request), _queue(queue), who_of(need(request, "labeller"))
    count = answers.accept(found, queue, who, form)
    return back(request, _next(form, queue), f"Saved: {count} images as {form.text('class', most=500)}.")


def _more(request: Request, queue: str, form: Posted) -> dict[str, Any]:
    """The next images for a page that holds those in `have`, and how it goes."""
    found, who = labelling_of(request), who_of(request.state.person)
    return pages.more(found, queue, who, form.all("have"), form.text("order"))


def _next(form: Posted, queue: str) -> str:
    """The page that a form came from."""
    to = form.text("back")
    return to if to and local(to) == to else f"/label/{queue}"


def _asks_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _queue(text: str) -> str:
    if text not in QUEUES:
        raise HTTPException(404, f"There is no queue of that name: there are {', '.join(QUEUES)}.")
    return text


def _number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise EvergreenError(f"{text[:40]!r} is not a number between {least} and {most}")
    return int(text)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise EvergreenError(f"{text[:40]!r} is not a date like 2026-12-31") from None
