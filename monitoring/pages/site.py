"""Serve drift reports, Evidently's renderings, release reports and the review queue.

    app = create_app(site_of(root))      # an ASGI app: `evergreen up` serves it

Every route except /health answers 401 without the checkout's secret or the password of the environment (HTTP basic,
any user name). Beyond this machine, put TLS in front of the server.

Pages run no scripts. Evidently's HTML needs its own scripts, so it is shown in a sandboxed frame without an origin; the
frame can reach neither these pages nor any network. Buttons are POSTs with a token and must come from these pages.
"""

import functools
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from monitoring.pages import evidently, report
from monitoring.pages.access import action_token, refusal
from monitoring.pages.live import FILE, read, reports_dir, with_week
from monitoring.pages.render import check_window_id, render
from monitoring.pages.window_page import HIDDEN_ACTIONS
from tasks.common import request_body, sign_in
from tasks.common.access import Access, access_of
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.common.request_body import BodyRefused
from tasks.common.sign_in import SignIn
from tasks.storage.blobs import Store

Actions = Mapping[str, tuple[str, Callable[[], str]]]  # name -> (button text, action that returns a message)
RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
BODY = 4096  # bytes of a POST
PAGE_POLICY = (  # an older page has another style; the policy inside that page names its hash
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
REVIEW_POLICY = PAGE_POLICY + "; script-src 'unsafe-inline'"  # the policy inside the page allows its one script by hash
FRAME_POLICY = (  # for Evidently's scripts: no origin, no network, no forms, no access to the parent page
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would empty the Origin of these pages' forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Site:
    """What the server shows, and to whom."""

    reports: Path  # folder that monitoring.pages.report writes
    workspace: Path  # that monitoring.pages.evidently writes
    access: Access
    releases: Store | None = None  # release store, for its reports
    evidently_port: int | None = None  # of a running Evidently UI on this machine
    actions: Actions = field(default_factory=dict)
    review: Callable[[], str] | None = None  # HTML of the review queue


def create_app(site: Site) -> FastAPI:
    """An ASGI app with the pages of `site`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    key = secrets.token_bytes(32)  # of this process: buttons of older pages stop working after a restart

    @app.middleware("http")
    async def guard(request: Request, call_next):
        response = refusal(site.access, request) or await call_next(request)
        for name, value in {"Content-Security-Policy": PAGE_POLICY, **HEADERS}.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException):
        return _message(f"{error.status_code}", str(error.detail), error.status_code)

    @app.exception_handler(404)
    async def missing(request: Request, error: Exception):
        return _message("Not found", str(getattr(error, "detail", "")) or "There is no such page.", 404)

    app.add_route(sign_in.PATH, SignIn(site.access))

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok"}

    @app.get("/")
    def home() -> HTMLResponse:
        return HTMLResponse(_index(site.reports, _links(site), _forms(site, key), _live(site.releases)))

    @app.get("/reports/index.html")
    def back() -> RedirectResponse:
        return RedirectResponse("/")

    @app.get("/reports/{window_id}.html")
    def window(window_id: str) -> HTMLResponse:
        page = site.reports / f"{_window(window_id)}.html"
        if not page.is_file():
            raise HTTPException(404, "There is no report for this window: it was pruned or never written.")
        content = page.read_text(encoding="utf-8").replace(HIDDEN_ACTIONS, _forms(site, key), 1)
        return HTMLResponse(with_week(content, read(site.reports).periods))

    @app.get("/evidently/{window_id}")
    def frame(window_id: str) -> HTMLResponse:
        _snapshot(evidently.ui_path, site.workspace, _window(window_id))
        return HTMLResponse(render("evidently.html", window_id=window_id, ui=site.evidently_port is not None))

    @app.get("/evidently/{window_id}/raw")
    def raw(window_id: str) -> HTMLResponse:
        page = _snapshot(evidently.html, site.workspace, _window(window_id))
        return HTMLResponse(page, headers={"Content-Security-Policy": FRAME_POLICY})

    @app.get("/evidently-ui/{window_id}")
    def ui(window_id: str) -> RedirectResponse:
        if site.evidently_port is None:
            raise HTTPException(404, "Evidently's UI is not running: `evergreen up` starts it.")
        path = _snapshot(evidently.ui_path, site.workspace, _window(window_id))
        return RedirectResponse(f"http://127.0.0.1:{site.evidently_port}{path}")

    @app.get("/releases")
    def releases() -> HTMLResponse:
        return HTMLResponse(render("releases.html", rows=_releases(site.releases)))

    @app.get("/releases/{run_id}")
    def release(run_id: str) -> HTMLResponse:
        if site.releases is None or not RUN_ID.fullmatch(run_id):
            raise HTTPException(404, "There is no such run.")
        found = site.releases.read(f"runs/{run_id}/report.html")
        if found is None:
            raise HTTPException(404, "This run has no report.")
        return HTMLResponse(found[0])

    @app.get("/review")
    def review() -> HTMLResponse:
        if site.review is None:
            raise HTTPException(404, "This server has no review queue.")
        return HTMLResponse(site.review(), headers={"Content-Security-Policy": REVIEW_POLICY})

    @app.post("/actions/{name}")
    async def act(name: str, request: Request) -> HTMLResponse:
        try:
            body = await request_body.read_body(request.stream(), BODY)
        except BodyRefused as refused:
            raise HTTPException(refused.status, str(refused), {"Connection": "close"}) from None
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if name not in site.actions or not hmac.compare_digest(given.encode(), action_token(key, name).encode()):
            raise HTTPException(403, "This button is out of date: reload the page and press the button again.")
        from fastapi.concurrency import run_in_threadpool

        text, action = site.actions[name]
        try:
            return _message(text, await run_in_threadpool(action))
        except EvergreenError as error:
            return _message(text, str(error), 409)

    return app


def site_of(root: Path, *, evidently_port: int | None = None, actions: Actions | None = None, **more: Any) -> Site:
    """The site of the project at `root`, from its params.yaml."""
    from tasks.releases.store import open_store

    params = load_params(root / "params.yaml")
    return Site(
        reports=reports_dir(root),
        workspace=workspace_dir(root),
        access=access_of(root, params.serve),
        releases=open_store(params.store, root).store,
        evidently_port=evidently_port,
        actions=actions or {},
        **more,
    )


def workspace_dir(root: Path) -> Path:
    """The folder of the project's Evidently workspace."""
    return state_dir(root) / "evidently"


# --- what is shown ----------------------------------------------------------------------------------------------------


def _window(window_id: str) -> str:
    try:
        return check_window_id(window_id)
    except ValueError:
        raise HTTPException(404, "There is no such window.") from None


def _snapshot(get: Callable[[Path, str], str], workspace: Path, window_id: str) -> str:
    try:
        return get(workspace, window_id)
    except EvergreenError as error:
        raise HTTPException(404, str(error)) from None


def _links(site: Site) -> tuple[tuple[str, str], ...]:
    links = [("Releases", "/releases")] if site.releases is not None else []
    links += [("Review queue", "/review")] if site.review is not None else []
    links += (
        [("Evidently", f"http://127.0.0.1:{site.evidently_port}/projects/{evidently.PROJECT}")]
        if site.evidently_port
        else []
    )
    return tuple(links)


def _forms(site: Site, key: bytes) -> str:
    """HTML of the buttons; "" if there are none."""
    made = Markup("").join(
        Markup(
            '<form method="post" action="/actions/{}"><input type="hidden" name="token" value="{}">'
            "<button>{}</button></form>"
        ).format(name, action_token(key, name), text)
        for name, (text, _) in site.actions.items()
    )
    return f'<div class="actions">{made}</div>' if made else ""


def _live(store: Store | None) -> str:
    """What is live, and whether it is provisional; or why nothing is live."""
    if store is None:
        return ""
    from tasks.releases.nothing_live import nothing_live
    from tasks.releases.store import Releases

    releases = Releases(store)
    try:
        if (live := releases.live()) is None:
            return nothing_live(releases)
        why = releases.provisional(live.bundle)
    except EvergreenError as error:  # the reports are there all the same
        return str(error)
    return f"{live.version} is live since {live.at:%Y-%m-%d %H:%M} UTC" + (f"; provisional: {why}" if why else "")


def _index(folder: Path, links: tuple, forms: str, live: str) -> str:
    paths = [folder / name for name in ("index.json", FILE)]
    stamp = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths)
    return _index_of(folder, stamp, links, forms, live)


@functools.lru_cache(maxsize=1)
def _index_of(folder: Path, stamp: tuple, links: tuple, forms: str, live: str) -> str:
    """The index page, cached until `stamp` changes: with thousands of reports, rendering takes a moment."""
    return report.index_page(report.read_index(folder), "/reports/", links, forms, live, read(folder).periods)


def _releases(store: Store | None) -> list[dict]:
    """Releases, newest first, then runs that were not promoted; with whether each has a report."""
    if store is None:
        return []
    from tasks.releases.store import Releases

    reports = {key.split("/")[1] for key in store.list("runs/") if key.endswith("/report.html")}
    pointers = Releases(store).history()
    promoted = [pointer.model_dump() | {"report": pointer.run_id in reports} for pointer in pointers[::-1]]
    other = sorted(reports - {pointer.run_id for pointer in pointers}, reverse=True)
    return promoted + [{"version": None, "run_id": run, "report": True, "at": None, "why": ""} for run in other]


def _message(title: str, text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(render("message.html", title=title, text=text), status)
