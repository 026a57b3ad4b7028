"""The pages of images: the grid with facets, one image, its file and thumbnail, the map, search."""

import random

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from flows.console.images import actions, heat, map, one, view
from flows.console.images.neighbours import neighbours
from flows.console.images.pictures import ID, SIDES, pictures_of
from flows.console.images.search import search
from flows.console.images.words import caption, described, shown_value, under
from flows.console.index.facets import FACETS, SORTS
from flows.console.index.index import ImageRow, Index, index_of
from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.shell.console import Console, console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.labels.exclude import include, readable
from flows.labels.journal import Answer
from flows.labels.samples import data_classes
from flows.labels.take import take_later
from flows.production.labels import known_classes
from flows.production.queue_export import label_classes
from tasks.common.person import acting_as

MOST = 50  # images a page
CSV_ROWS = 200_000
KEEP = "private, max-age=31536000, immutable"  # an image is named by its content
GONE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128"><rect width="128" height="128" fill="#8791a1"/>'
    b'<path d="M40 40l48 48m0-48l-48 48" stroke="#fff" stroke-width="6"/></svg>'
)

router = APIRouter()


def _index(console: Console) -> Index:
    return index_of(console.root).ready()


@router.get("/images")
def images(request: Request) -> Response:
    """The grid, or the map, of the images that fit the filters."""
    console, now = console_of(request), view.read_view(request.url.query)
    index = _index(console)
    if request.query_params.get("format") == "csv":
        numbers = index.columns().all_rows(now.filters)[:CSV_ROWS]
        return csv_download("images", actions.TABLE, actions.table_rows(index.rows(numbers)))
    total, counts = index.counts(now.filters)
    rows = index.page(now.filters, now.sort, now.after, MOST + 1) if now.shown == "grid" else []
    next_page = now.url(after=rows[MOST - 1].row) if len(rows) > MOST else None
    chips = [(facet, value, now.without(facet, value)) for facet, values in now.filters.items() for value in values]
    return page(
        request, "images/images.html", title="Images", section="/images", view=now, total=total, chips=chips,
        everything=len(index.columns().row), rows=rows[:MOST], next=next_page, most=MOST, sorts=SORTS, titles=FACETS,
        facets=view.facets(now, counts, ordered=("confidence",)), complete=index.is_complete(),
        problems=index.problems(), shown=shown_value, alt=described, caption=caption, under=under,
    )  # fmt: skip


@router.get("/images/map.json")
def map_points(request: Request) -> Response:
    """The points of the map, for the script."""
    console = console_of(request)
    found = map.points(console.root, console.params(), _index(console), view.read_view(request.url.query))
    return Response(map.as_json(found), media_type="application/json")


# --- what is done with chosen images


@router.post("/images/queue")
def queue(request: Request, form: Posted = Depends(posted)) -> Response:
    """Ask people for labels of the chosen images."""
    person, console, index = need(request, "labeller"), console_of(request), _index(console_of(request))
    rows = _chosen(index, form, actions.MOST_ASKED)
    with acting_as(person.name):
        found = actions.put_in_queue(console.root, console.log(), index, rows, person.name)
    return back(request, form.text("back") or "/images", found.sentence(), good=bool(found.production + found.data))


@router.post("/images/exclude")
def exclude(request: Request, form: Posted = Depends(posted)) -> Response:
    """Leave the chosen images out of training, calibration and tests."""
    person, console = need(request, "approver"), console_of(request)
    rows = _chosen(_index(console), form, actions.MOST_EXCLUDED)
    found = actions.leave_out(console.root, rows, form.text("why", most=500), person.name)
    _take(console, person.name, form)
    return back(request, form.text("back") or "/images", f"Excluded {found.added}: the data set takes it now.")


@router.post("/images/export")
def export(request: Request, form: Posted = Depends(posted)) -> Response:
    """The chosen images as a table, or as a ZIP file with the images."""
    need(request, "labeller")
    console, index = console_of(request), _index(console_of(request))
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


# --- one image


def _found(console: Console, image: str) -> list[ImageRow]:
    """The rows of an image. Raises HTTPException 404."""
    rows = _index(console).of_id(image) if ID.fullmatch(image) else []
    if not rows:
        raise HTTPException(404, "No image with this id is in the data set or the production log, or it was erased.")
    return rows


@router.get("/images/{image}")
def image(request: Request, image: str) -> Response:
    """The page of one image."""
    console = console_of(request)
    _found(console, image)
    about = one.read_one(
        console.root, _index(console), pictures_of(console.root), console.log(), console.releases(), image
    )
    if about is None:
        raise HTTPException(404, "This image was erased a moment ago.")
    if request.query_params.get("format") == "csv":
        if request.query_params.get("table") == "probabilities":
            return csv_download(
                "probabilities", ("class", "probability"), ((bar.name, bar.value) for bar in about.bars)
            )
        return csv_download("answers", actions.TABLE, actions.table_rows(about.answers))
    params = console.params()
    classes = label_classes(console.root, params) or data_classes(console.root)
    return page(
        request, "images/image.html", title=about.title, section="/images", one=about, row=about.first,
        classes=classes, multilabel=params.data.task == "multilabel", shown=shown_value, titles=FACETS,
        alt=described(about.first),
    )  # fmt: skip


@router.get("/images/{image}/file")
def file(request: Request, image: str) -> Response:
    """The image's own bytes, or the same pixels as PNG where browsers do not show its format."""
    console = console_of(request)
    _found(console, image)
    return _picture(request, pictures_of(console.root).whole(image), f'"{image}"')


@router.get("/thumbs/{image}")
def thumbnail(request: Request, image: str, side: int = SIDES[0]) -> Response:
    """The image, small."""
    console = console_of(request)
    if not ID.fullmatch(image) or side not in SIDES:
        raise HTTPException(404, "There is no such thumbnail.")
    tag = f'"{image}-{side}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": KEEP})
    content = pictures_of(console.root).thumbnail(image, side)
    if content is None:
        _found(console, image)
        return Response(GONE, media_type="image/svg+xml")
    return Response(content, media_type="image/webp", headers={"ETag": tag, "Cache-Control": KEEP})


def _picture(request: Request, found, tag: str) -> Response:
    if found is None:
        return Response(GONE, media_type="image/svg+xml")
    if not found.whole:
        return Response(found.content, media_type=found.media_type)
    headers = {"ETag": tag, "Cache-Control": KEEP}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)


@router.get("/images/{image}/like")
def like(request: Request, image: str) -> Response:
    """The images most like it, by stored features."""
    console = console_of(request)
    rows = _found(console, image)
    near = neighbours(console.root, console.params(), _index(console), rows[0])
    return page(
        request, "images/like.html", title="Images like this one", section="/images", id=image, near=near,
        alt=described, caption=caption, logged=rows[0].logged,
    )  # fmt: skip


@router.get("/images/{image}/why")
def why(request: Request, image: str) -> Response:
    """Where the image came from and how it got its label, hop by hop."""
    console = console_of(request)
    rows = _found(console, image)
    lines = [] if rows[0].logged else one.label_hops(console.root, rows[0])
    return page(
        request, "images/why.html", title="Where it came from", section="/images", id=image, lines=lines, rows=rows
    )


@router.get("/images/{image}/models")
def models(request: Request, image: str) -> Response:
    """What each version made of the image."""
    console = console_of(request)
    rows = _found(console, image)
    lines = [] if rows[0].logged else one.model_hops(console.root, console.releases(), image)
    return page(request, "images/models.html", title="What models made of it", section="/images", id=image, lines=lines)


@router.get("/images/{image}/heat")
def heat_page(request: Request, image: str) -> Response:
    """Where the live model looked; a fragment that asks again while it is computed."""
    console = console_of(request)
    _found(console, image)
    found = heat.heat_of(console.root).look(image, console.releases().live())
    return page(
        request, "images/heat.html", title="Where the model looked", section="/images", id=image, heat=found,
        nonce=random.randrange(1 << 30),
    )  # fmt: skip


@router.get("/images/{image}/heat.webp")
def heat_picture(request: Request, image: str) -> Response:
    """The picture of where the model looked."""
    console = console_of(request)
    _found(console, image)
    live = console.releases().live()
    content = heat.picture(console.root, live, image) if live else None
    if content is None:
        raise HTTPException(404, "It was not computed yet.")
    return Response(content, media_type="image/webp")


@router.post("/images/{image}/label")
def label(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Give the image another label: an approver's word overrides, a labeller's is a vote."""
    person, console = need(request, "labeller"), console_of(request)
    _found(console, image)
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
    _found(console, image)
    with acting_as(person.name):
        include(console.root, [image], form.text("why", most=500), later=True)
    _take(console, person.name, form)
    return back(request, f"/images/{image}", "It is used again: the data set takes it now.")


@router.post("/images/{image}/undo")
def undo(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Take back the newest word about the image."""
    person, console = need(request, "approver"), console_of(request)
    _found(console, image)
    command = ["undo", image, f"--why={form.text('why', most=500)}"]
    title, to = f"Undoing the newest word about {image[:12]}", f"/images/{image}"
    start_job(console.root, command, slot=f"undo {image[:12]}", title=title, by=person.name, back=to)
    return back(request, to, "The newest word is being taken back.")


@router.post("/images/{image}/forget")
def forget(request: Request, image: str, form: Posted = Depends(posted)) -> Response:
    """Erase the image everywhere; the start of its id must be typed."""
    person, console = need(request, "admin"), console_of(request)
    _found(console, image)
    if form.text("typed") != image[:8]:
        return back(request, f"/images/{image}", f"Type {image[:8]} to erase this image.", good=False)
    if not form.text("why"):
        return back(request, f"/images/{image}", "Say why: the erasure is recorded with its reason.", good=False)
    command = ["forget", image, f"--why={form.text('why', most=500)}", "--yes"]
    title = f"Erasing {image[:12]} everywhere"
    job = start_job(console.root, command, slot=f"forget {image[:12]}", title=title, by=person.name, back="/images")
    return back(request, f"/jobs/{job.id}", "The image is being erased everywhere. This can take minutes.")


# --- search


@router.get("/search")
def search_page(request: Request, q: str = "") -> Response:
    """Leads to the one thing that was found, or lists what there is."""
    console, text = console_of(request), q[:200]
    hits = search(_index(console), console.releases(), text)
    if request.query_params.get("format") == "csv":
        return csv_download("found", ("what", "name", "address"), ((hit.kind, hit.text, hit.url) for hit in hits))
    if len(hits) == 1:
        return RedirectResponse(hits[0].url, 303)
    return page(request, "images/search.html", title="Search", section="", text=text, hits=hits)
