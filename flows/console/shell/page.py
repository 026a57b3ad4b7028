"""Render a page in the console's frame, or only its middle for a request of htmx.

Names come from outside: Jinja escapes them, and the filter `name` strips control and direction characters.
"""

import csv
import functools
import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from flows.console.jobs.store import newest_job, running_jobs
from flows.console.shell import facts
from flows.console.shell.console import console_of
from flows.console.shell.posted import toast_cookie, toast_of, token
from monitoring.pages import plots
from monitoring.pages.render import gist, name, percent

FIGURES = re.compile(r"; all figures are in .+?\.html")
FOLDER = Path(__file__).parents[1]
SECTIONS = {  # address -> (name, key after `g`)
    "/": ("Now", "n"),
    "/production": ("Production", "p"),
    "/label": ("Label", "l"),
    "/images": ("Images", "i"),
    "/releases": ("Releases", "r"),
    "/data": ("Data", "d"),
    "/runs": ("Runs", "u"),
}
FOOT = {"/services": ("Services", "s"), "/people": ("People", "e")}


def page(
    request: Request, template: str, *, title: str, section: str, status: int = 200, **values: Any
) -> HTMLResponse:
    """The page of `template` with `values`. section: which part of the console it is, as in its address."""
    console, toast = console_of(request), toast_of(request)
    person = getattr(request.state, "person", None)
    fragment = request.headers.get("hx-request") == "true" and request.headers.get("hx-boosted") != "true"
    key = token(console.key, person.name) if person else ""
    html = (
        environment()
        .get_template(template)
        .render(
            values,
            title=title,
            section=section,
            layout="shell/fragment.html" if fragment else "shell/base.html",
            person=person,
            token=Markup('<input type="hidden" name="token" value="{}">').format(key),
            toast=toast,
            request=request,
            here=f"{request.url.path}{'?' * bool(request.url.query)}{request.url.query}",
            project=facts.project_of(console),
            job=functools.partial(newest_job, console.root),
            running_jobs=functools.partial(running_jobs, console.root),
        )
    )
    answer = HTMLResponse(html, status, {"Vary": "HX-Request"})
    if toast:
        answer.delete_cookie(toast_cookie(request), httponly=True, samesite="lax")
    return answer


def message(request: Request, title: str, text: str, status: int) -> HTMLResponse:
    """A page that says one thing."""
    return page(request, "shell/message.html", title=title, section="", status=status, text=text)


def csv_download(name: str, columns: Sequence[str], rows: Iterable[Sequence]) -> Response:
    """A table as a file. A spreadsheet would run a text that begins like a formula: such a text gets an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response("\ufeff" + text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return "" if value is None else value


def moment(at: datetime | None) -> Markup:
    """A time in UTC; the page's script adds the reader's own time."""
    if at is None:
        return Markup("")
    at = at.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        at.isoformat(timespec="seconds"), f"{at.day} {at:%b %Y, %H:%M}"
    )


def ago(at: datetime | None, now: datetime | None = None) -> str:
    """ "5 minutes ago", "3 days ago"; "" for no time."""
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - at.astimezone(UTC)).total_seconds()
    future, seconds = seconds < -1, abs(seconds)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length * (2 if unit != "minute" else 1):
            count = int(seconds // length)
            text = f"{count} {unit}{'s' * (count != 1)}"
            return f"in {text}" if future else f"{text} ago"
    return "in a moment" if future else "just now"


def plain(code: str) -> Markup:
    """The plain name of a measure, with its code name on hover."""
    from monitoring.plain_names import plain_name

    return Markup('<span title="{}">{}</span>').format(name(code), plain_name(code))


def without_file(sentence: str) -> str:
    """Why data were refused, without the name of the file on the server that has the figures: a page shows them."""
    return FIGURES.sub("", sentence)


@functools.cache
def environment():
    """Jinja with the console's templates, filters and addresses."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"SECTIONS": SECTIONS, "FOOT": FOOT, "static": static_url}
    made.filters |= {
        "ago": ago,
        "figure": plots.figure,
        "gist": gist,
        "moment": moment,
        "name": name,
        "percent": percent,
        "plain": plain,
        "without_file": without_file,
    }
    return made


@functools.cache
def static_url(file: str) -> str:
    """The address of a static file, which changes with its content: browsers keep it."""
    from tasks.common.files import sha256_file

    return f"/static/{file}?{sha256_file(FOLDER / 'static' / file)[:12]}"
