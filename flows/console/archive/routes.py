"""Reports as the self-contained files that they are, Evidently's renderings, and old addresses.

Evidently's HTML needs its own scripts, so it is shown in a sandboxed frame without an origin; the frame can reach
neither these pages nor any network.
"""

from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from flows.console.shell.console import console_of
from flows.console.shell.page import page
from flows.publishing.recorded_run import RUN_ID
from monitoring.pages import evidently
from monitoring.pages.live import read, reports_dir, with_week
from monitoring.pages.render import check_window_id
from tasks.common.errors import EvergreenError

FILE_POLICY = (  # a file has its own style; the policy inside it names its hash
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
FRAME_POLICY = (  # for Evidently's scripts: no origin, no network, no forms, no access to the parent page
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

router = APIRouter()


@router.get("/production/{window}/archive")
def window_file(request: Request, window: str) -> Response:
    """The report of a window as one file."""
    reports = reports_dir(console_of(request).root)
    file = reports / f"{_window(window)}.html"
    if not file.is_file():
        raise HTTPException(404, "There is no report for this window: it was pruned or never written.")
    content = file.read_text(encoding="utf-8").replace('<a href="index.html">', '<a href="/production">')
    content = with_week(content, read(reports).periods)
    return HTMLResponse(content, headers={"Content-Security-Policy": FILE_POLICY})


@router.get("/releases/{run}/archive")
def release_file(request: Request, run: str) -> Response:
    """The report of a run as one file."""
    if not RUN_ID.fullmatch(run):
        raise HTTPException(404, "There is no such run.")
    found = console_of(request).releases().store.read(f"runs/{run}/report.html")
    if found is None:
        raise HTTPException(404, "This run has no report.")
    return HTMLResponse(found[0], headers={"Content-Security-Policy": FILE_POLICY})


@router.get("/production/{window}/evidently")
def frame(request: Request, window: str) -> Response:
    """Evidently's report of a window, in a frame."""
    _snapshot(request, evidently.ui_path, _window(window))
    about = {"window": window, "ui": console_of(request).evidently_port is not None}
    return page(request, "archive/evidently.html", title="Evidently", section="/production", **about)


@router.get("/production/{window}/evidently/raw")
def raw(request: Request, window: str) -> Response:
    """Evidently's own HTML, for the frame."""
    found = _snapshot(request, evidently.html, _window(window))
    return HTMLResponse(found, headers={"Content-Security-Policy": FRAME_POLICY})


@router.get("/production/{window}/evidently/ui")
def ui(request: Request, window: str) -> Response:
    """Lead to the window in Evidently's own UI."""
    if console_of(request).evidently_port is None:
        raise HTTPException(404, "Evidently's UI is not running: `evergreen up` starts it.")
    to = quote(_snapshot(request, evidently.ui_path, _window(window)), safe="")
    return RedirectResponse(f"/services/open/evidently?to={to}")


@router.get("/reports/index.html")
def old_index() -> Response:
    """The address of the list of reports until 0.4."""
    return RedirectResponse("/production", 301)


@router.get("/reports/{window}.html")
def old_report(window: str) -> Response:
    """The address of a report until 0.4."""
    return RedirectResponse(f"/production/{_window(window)}", 301)


@router.get("/evidently/{window}")
def old_evidently(window: str) -> Response:
    """The address of Evidently's report until 0.4."""
    return RedirectResponse(f"/production/{_window(window)}/evidently", 301)


@router.get("/review")
def old_review() -> Response:
    """The address of the review queue until 0.4."""
    return RedirectResponse("/label/production", 301)


def _window(window: str) -> str:
    try:
        return check_window_id(window)
    except ValueError:
        raise HTTPException(404, "There is no such window.") from None


def _snapshot(request: Request, get, window: str) -> str:
    try:
        return get(evidently.workspace_dir(console_of(request).root), window)
    except EvergreenError as error:
        raise HTTPException(404, str(error)) from None
