"""The pages of images: the grid with facets, one image, its file and thumbnail, the map, search."""

import random

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from flows.console.images import actions, heat, map, one, view
from flows.console.images.named import found_rows, fresh_index
from flows.console.images.neighbours import neighbours
from flows.console.images.pictures import ID, SIDES, pictures_of
from flows.console.images.search import search
from flows.console.images.words import caption, described, shown_value, under
from flows.console.index.facets import FACETS, SORTS
from flows.console.shell.console import console_of
from flows.console.shell.page import csv_download, page
from flows.labels.samples import data_classes
from flows.production.queue_export import label_classes
from tasks.dataset.hard_set import never_again

MOST = 50  # images a page
CSV_ROWS = 200_000
KEEP = "private, max-age=31536000, immutable"  # an image is named by its content
GONE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128"><rect width="128" height="128" fill="#8791a1"/>'
    b'<path d="M40 40l48 48m0-48l-48 48" stroke="#fff" stroke-width="6"/></svg>'
)

router = APIRouter()


@router.get("/images")
def images(request: Request) -> Response:
    """The grid, or the map, of the images that fit the filters."""
    console, now = console_of(request), view.read_view(request.url.query)
    index = fresh_index(console)
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
    found = map.points(console.root, console.params(), fresh_index(console), view.read_view(request.url.query))
    return Response(map.as_json(found), media_type="application/json")


# --- one image


@router.get("/images/{image}")
def image(request: Request, image: str) -> Response:
    """The page of one image."""
    console = console_of(request)
    found_rows(console, image)
    about = one.read_one(
        console.root, fresh_index(console), pictures_of(console.root), console.log(), console.releases(), image
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
        alt=described(about.first), never=image in never_again(console.root / "data"),
    )  # fmt: skip


@router.get("/images/{image}/file")
def file(request: Request, image: str) -> Response:
    """The image's own bytes, or the same pixels as PNG where browsers do not show its format."""
    console = console_of(request)
    found_rows(console, image)
    tag = f'"{image}"'
    headers = {"ETag": tag, "Cache-Control": KEEP}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    found = pictures_of(console.root).whole(image)
    if found is None:
        return Response(GONE, media_type="image/svg+xml")
    return Response(found.content, media_type=found.media_type, headers=headers if found.whole else None)


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
        found_rows(console, image)
        return Response(GONE, media_type="image/svg+xml")
    return Response(content, media_type="image/webp", headers={"ETag": tag, "Cache-Control": KEEP})


@router.get("/images/{image}/like")
def like(request: Request, image: str) -> Response:
    """The images most like it, by stored features."""
    console = console_of(request)
    rows = found_rows(console, image)
    near = neighbours(console.root, console.params(), fresh_index(console), rows[0])
    return page(
        request, "images/like.html", title="Images like this one", section="/images", id=image, near=near,
        alt=described, caption=caption, logged=rows[0].logged,
    )  # fmt: skip


@router.get("/images/{image}/why")
def why(request: Request, image: str) -> Response:
    """Where the image came from and how it got its label, hop by hop."""
    console = console_of(request)
    rows = found_rows(console, image)
    lines = [] if rows[0].logged else one.label_hops(console.root, rows[0])
    return page(
        request, "images/why.html", title="Where it came from", section="/images", id=image, lines=lines, rows=rows
    )


@router.get("/images/{image}/models")
def models(request: Request, image: str) -> Response:
    """What each version made of the image."""
    console = console_of(request)
    rows = found_rows(console, image)
    lines = [] if rows[0].logged else one.model_hops(console.root, console.releases(), image)
    return page(request, "images/models.html", title="What models made of it", section="/images", id=image, lines=lines)


@router.get("/images/{image}/heat")
def heat_page(request: Request, image: str) -> Response:
    """Where the live model looked; a fragment that asks again while it is computed."""
    console = console_of(request)
    found_rows(console, image)
    found = heat.heat_of(console.root).look(image, console.releases().live())
    return page(
        request, "images/heat.html", title="Where the model looked", section="/images", id=image, heat=found,
        nonce=random.randrange(1 << 30),
    )  # fmt: skip


@router.get("/images/{image}/heat.webp")
def heat_picture(request: Request, image: str) -> Response:
    """The picture of where the model looked."""
    console = console_of(request)
    found_rows(console, image)
    live = console.releases().live()
    content = heat.picture(console.root, live, image) if live else None
    if content is None:
        raise HTTPException(404, "It was not computed yet.")
    return Response(content, media_type="image/webp")


# --- search


@router.get("/search")
def search_page(request: Request, q: str = "") -> Response:
    """Leads to the one thing that was found, or lists what there is."""
    console, text = console_of(request), q[:200]
    hits = search(fresh_index(console), console.releases(), text)
    if request.query_params.get("format") == "csv":
        return csv_download("found", ("what", "name", "address"), ((hit.kind, hit.text, hit.url) for hit in hits))
    if len(hits) == 1:
        return RedirectResponse(hits[0].url, 303)
    return page(request, "images/search.html", title="Search", section="", text=text, hits=hits)
