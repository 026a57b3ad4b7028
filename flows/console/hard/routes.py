"""The addresses of the hard set: its page, plans of changes, and the changes as jobs."""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from flows.console.hard import view
from flows.console.images import actions
from flows.console.images.named import fresh_index
from flows.console.images.pictures import ID
from flows.console.images.view import read_view
from flows.console.images.words import described
from flows.console.index.index import index_of
from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.hard_set.candidates import Candidate, candidates_of, production_mistakes, training_counts
from flows.hard_set.period import period_of
from flows.hard_set.plan import Limits, plan_add
from tasks.common.errors import EvergreenError
from tasks.dataset.hard_set import membership

MOST_CHANGED = 500  # images that one press changes
SLOT = "hard-set"
QUOTA = Limits(per_class=50, per_source=50, near=True)  # as `evergreen hard refresh`
COMMANDS = {  # what a form asks for -> the command, what the job is called
    "add": (["add"], "Adding {} to the hard set"),
    "remove": (["remove"], "Taking {} out of the hard set"),
    "never": (["never-again"], "Marking {} as never again"),
    "allow": (["never-again", "--undo"], "Taking the mark back from {}"),
}

router = APIRouter()


@router.get("/hard-set")
def hard_set(request: Request, after: str = "", format: str = "", table: str = "images") -> Response:
    """What is in the hard set, how the live model does on it, how often it was asked, and every version."""
    console = console_of(request)
    index = fresh_index(console)
    found = view.hard_view(console.root, index)
    ledger = view.ledger_of(console)[::-1]
    history = view.history_of(console.root, console.params())
    if format == "csv":
        if table == "history":
            rows = [(one.version, one.images, one.sentence(), one.batch, one.at, one.by, one.why) for one in history]
            return csv_download("hard-set-history", ("version", "images", "what", "change", "at", "by", "why"), rows)
        if table == "looks":
            rows = [
                (look.at, look.run, look.by, look.how, look.champion, name, one.version, one.images)
                for look in ledger
                for name, one in look.sets.items()
            ]
            return csv_download("looks", ("at", "run", "by", "how", "against", "set", "version", "images"), rows)
        return csv_download("hard-set", view.IMAGES, view.image_rows(found))
    place = next((number + 1 for number, row in enumerate(found.rows) if row.id == after), 0)
    shown = found.rows[place : place + view.MOST]
    more = place + view.MOST < len(found.rows)
    return page(
        request, "hard/hard.html", title="Hard set", section="/data", hard=found, rows=shown, alt=described,
        looks=view.looks_of(console, found, index), ledger=ledger[:10], looked=len(ledger), history=history[:12],
        first="/hard-set" if place else "", next=f"/hard-set?after={shown[-1].id}" if more else "", slot=SLOT,
    )  # fmt: skip


@router.get("/hard-set/mistakes")
def mistakes(request: Request, week: str = "", window: str = "") -> Response:
    """What a refresh would add: the answers of production that labels contradict."""
    need(request, "approver")
    console = console_of(request)
    start, end = period_of(window or None, week or None)
    gone = membership(console.root / "data").removed
    found = [one for one in production_mistakes(console.root, start, end) if one.id not in gone]
    return _plan_page(request, console, found, QUOTA, "Mistakes of production")


@router.post("/hard-set/plan")
def plan(request: Request, form: Posted = Depends(posted)) -> Response:
    """What it would do to put the chosen images into the hard set."""
    need(request, "approver")
    console = console_of(request)
    state = read_view(form.text("state", most=60_000))
    rows = actions.chosen(fresh_index(console), state, form.all("id"), form.flag("whole"), MOST_CHANGED)
    found = candidates_of(console.root, [row.id for row in rows])
    return _plan_page(request, console, found, Limits(), "Into the hard set")


def _plan_page(request: Request, console: Console, found: Sequence[Candidate], limits: Limits, title: str) -> Response:
    counts = training_counts(console.root)
    made = plan_add(console.root, found, limits, counts=counts, live=console.releases().live())
    index, take = index_of(console.root), made.take[:MOST_CHANGED]
    rows = {one.id: rows[0] for one in take if (rows := index.of_id(one.id))}
    return page(
        request, "hard/plan.html", title=title, section="/data", lines=made.lines(), take=take, rows=rows,
        alt=described, more=len(made.take) - len(take),
    )  # fmt: skip


@router.post("/hard-set/change")
def change(request: Request, form: Posted = Depends(posted)) -> Response:
    """Add, remove or mark the images that the form names, as a job."""
    person, console = need(request, "approver"), console_of(request)
    what, to = form.text("what"), form.text("back") or "/hard-set"
    if what not in COMMANDS:
        raise HTTPException(400, "This form does not say what to do.")
    ids = [image for image in dict.fromkeys(form.all("id")) if ID.fullmatch(image)]
    if not ids:
        raise EvergreenError("No image is chosen: tick some.")
    if len(ids) > MOST_CHANGED:
        raise EvergreenError(f"{len(ids):,} images are chosen: at most {MOST_CHANGED:,} go at once.")
    command, title = COMMANDS[what]
    return _start(console, person.name, [*command, *ids], form, title.format(_images(len(ids))), to, request)


@router.post("/hard-set/undo")
def undo(request: Request, form: Posted = Depends(posted)) -> Response:
    """Take a change of the hard set back, as a job."""
    person, console = need(request, "approver"), console_of(request)
    batch = form.text("change", most=40)
    if batch not in {one.batch for one in view.history_of(console.root, console.params())}:
        raise HTTPException(404, "There is no such change of the hard set.")
    return _start(console, person.name, ["undo", batch], form, f"Undoing {batch}", "/hard-set", request)


def _start(
    console: Console, person: str, command: list[str], form: Posted, title: str, to: str, request: Request
) -> Response:
    if not (why := form.text("why", most=500)):
        raise EvergreenError("Say why: the change is recorded with its reason.")
    start_job(console.root, ["hard", *command, f"--why={why}"], slot=SLOT, title=title, by=person, back=to)
    return back(request, "/hard-set", f"{title}: it is being done now.")


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"
