"""The report pages over HTTP: drift reports, Evidently's rendering of each, release reports, the review queue.

    app = create_app(site_of(root))      # an ASGI app: `evergreen up` serves it

Without a password it answers this machine alone. With one (HTTP basic, any user name) every route but /health answers
401 to those who do not give it; put TLS in front of it.

Pages run no scripts. Evidently's HTML needs its own: it is shown in a
sandboxed frame of no origin, from which it reaches neither these pages nor any network. Buttons are POSTs that carry a
token and must come from a page of this server.
"""

import functools
import hmac
import ipaddress
import os
import re
import secrets
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from markupsafe import Markup

from monitoring.pages import evidently, report
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.storage.blobs import Store

Actions = Mapping[str, tuple[str, Callable[[], str]]]  # name -> (text of the button, what it does and then says)
evidently_ui_command = evidently.evidently_ui_command  # whoever starts these pages starts it too
RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
BODY = 4096  # bytes of a POST
PAGE_POLICY = (  # a page of an older version has another style: its own policy names that style's hash
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
REVIEW_POLICY = PAGE_POLICY + "; script-src 'unsafe-inline'"  # the page's own policy allows its one script by hash
FRAME_POLICY = (  # for scripts that are not ours: no origin, no network, no forms, no way up
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would blank the Origin of our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Site:
    """What is shown, and to whom."""

    reports: Path  # folder of monitoring.pages.report
    workspace: Path  # of monitoring.pages.evidently
    releases: Store | None = None  # release store: its reports
    evidently_port: int | None = None  # of a running Evidently UI on this machine
    password: str | None = field(default=None, repr=False)  # None: for loopback only
    actions: Actions = field(default_factory=dict)
    review: Callable[[], str] | None = None  # HTML of the review queue


def create_app(site: Site) -> FastAPI:
    """The pages of `site`. Without a password it answers only requests of and to this very machine."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    key = secrets.token_bytes(32)  # of this process: a restart makes old pages' buttons void

    @app.middleware("http")
    async def guard(request: Request, call_next):
        response = _refusal(site, request) or await call_next(request)
        for name, value in {"Content-Security-Policy": PAGE_POLICY, **HEADERS}.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException):
        return _message(f"{error.status_code}", str(error.detail), error.status_code)

    @app.exception_handler(404)
    async def missing(request: Request, error: Exception):
        return _message("Not found", str(getattr(error, "detail", "")) or "There is no such page.", 404)

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok"}

    @app.get("/")
    def home() -> HTMLResponse:
        return HTMLResponse(_index(site.reports, _links(site), _forms(site, key)))

    @app.get("/reports/index.html")
    def back() -> RedirectResponse:
        return RedirectResponse("/")

    @app.get("/reports/{window_id}.html")
    def window(window_id: str) -> HTMLResponse:
        page = site.reports / f"{_window(window_id)}.html"
        if not page.is_file():
            raise HTTPException(404, "There is no report of this window: it was pruned or never written.")
        return HTMLResponse(page.read_text(encoding="utf-8").replace(report.HIDDEN_ACTIONS, _forms(site, key), 1))

    @app.get("/evidently/{window_id}")
    def frame(window_id: str) -> HTMLResponse:
        _snapshot(evidently.ui_path, site.workspace, _window(window_id))
        return HTMLResponse(report.render("evidently.html", window_id=window_id, ui=site.evidently_port is not None))

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
        return HTMLResponse(report.render("releases.html", rows=_releases(site.releases)))

    @app.get("/releases/{run_id}")
    def release(run_id: str) -> HTMLResponse:
        if site.releases is None or not RUN_ID.fullmatch(run_id):
            raise HTTPException(404, "There is no report of such a run.")
        found = site.releases.read(f"runs/{run_id}/report.html")
        if found is None:
            raise HTTPException(404, "This run left no report.")
        return HTMLResponse(found[0])

    @app.get("/review")
    def review() -> HTMLResponse:
        if site.review is None:
            raise HTTPException(404, "There is no review queue here.")
        return HTMLResponse(site.review(), headers={"Content-Security-Policy": REVIEW_POLICY})

    @app.post("/actions/{name}")
    async def act(name: str, request: Request) -> HTMLResponse:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > BODY:
                raise HTTPException(413, "The request is too large.")
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if name not in site.actions or not hmac.compare_digest(given.encode(), _token(key, name).encode()):
            raise HTTPException(403, "This button is out of date: reload the page and press it again.")
        from fastapi.concurrency import run_in_threadpool

        text, action = site.actions[name]
        try:
            return _message(text, await run_in_threadpool(action))
        except EvergreenError as error:
            return _message(text, str(error), 409)

    return app


def site_of(root: Path, *, evidently_port: int | None = None, actions: Actions | None = None, **more: Any) -> Site:
    """The site of the project at `root`, as its params.yaml says."""
    from tasks.releases.store import open_store

    params = load_params(root / "params.yaml")
    return Site(
        reports=reports_dir(root),
        workspace=workspace_dir(root),
        releases=open_store(params.store, root).store,
        evidently_port=evidently_port,
        password=os.environ.get(params.serve.password_env) or None,
        actions=actions or {},
        **more,
    )


def reports_dir(root: Path) -> Path:
    """Where the project's drift reports are kept."""
    return state_dir(root) / "reports"


def workspace_dir(root: Path) -> Path:
    """Where the project's Evidently workspace is kept."""
    return state_dir(root) / "evidently"


def is_loopback(host: str) -> bool:
    """Only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


# --- who may ----------------------------------------------------------------------------------------------------------


def _refusal(site: Site, request: Request) -> Response | None:
    """The answer to a request that may not pass; None for one that may."""
    if request.url.path == "/health":
        return None
    host = request.headers.get("host", "")
    near = request.client is None or is_loopback(request.client.host)
    if site.password is None and not (near and is_loopback(urlsplit(f"//{host}").hostname or "")):
        # by name too, else any web page could read these through a host name that points here (DNS rebinding)
        return PlainTextResponse("these pages are for this machine only", 421)
    if site.password is not None and not _signed_in(request.headers.get("authorization", ""), site.password):
        return PlainTextResponse(
            "a password is needed", 401, {"WWW-Authenticate": 'Basic realm="Evergreen", charset="UTF-8"'}
        )
    if request.method not in ("GET", "HEAD"):
        origin = urlsplit(request.headers.get("origin", ""))
        fetched = request.headers.get("sec-fetch-site", "same-origin")
        if origin.netloc != host or fetched != "same-origin":
            return PlainTextResponse("refused: this request does not come from a page of this server", 403)
    return None


def _signed_in(header: str, password: str) -> bool:
    """Whether a basic authorization header carries the password; the time it takes does not tell how much was right."""
    kind, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded, validate=True).partition(b":")[2] if kind.lower() == "basic" else b""
    except ValueError:
        given = b""
    return hmac.compare_digest(given, password.encode())


def _token(key: bytes, action: str) -> str:
    return hmac.digest(key, action.encode(), "sha256").hex()


# --- what is shown ----------------------------------------------------------------------------------------------------


def _window(window_id: str) -> str:
    try:
        return report.checked(window_id)
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
    """The buttons; "" without any."""
    made = Markup("").join(
        Markup(
            '<form method="post" action="/actions/{}"><input type="hidden" name="token" value="{}">'
            "<button>{}</button></form>"
        ).format(name, _token(key, name), text)
        for name, (text, _) in site.actions.items()
    )
    return f'<div class="actions">{made}</div>' if made else ""


def _index(folder: Path, links: tuple, forms: str) -> str:
    path = folder / "index.json"
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _index_of(folder, stamp, links, forms)


@functools.lru_cache(maxsize=1)
def _index_of(folder: Path, stamp: int, links: tuple, forms: str) -> str:
    """The index page as of `stamp`: with thousands of reports it takes a moment to make."""
    return report.index_page(report.read_index(folder), "/reports/", links, forms)


def _releases(store: Store | None) -> list[dict]:
    """What was live when, newest first, and whether the run left a report."""
    if store is None:
        return []
    from tasks.releases.store import Releases

    reports = {key.split("/")[1] for key in store.list("runs/") if key.endswith("/report.html")}
    pointers = Releases(store).history()
    promoted = [pointer.model_dump() | {"report": pointer.run_id in reports} for pointer in pointers[::-1]]
    other = sorted(reports - {pointer.run_id for pointer in pointers}, reverse=True)
    return promoted + [{"version": None, "run_id": run, "report": True, "at": None, "why": ""} for run in other]


def _message(title: str, text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(report.render("message.html", title=title, text=text), status)
