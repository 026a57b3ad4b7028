"""The servers that benchmarks.foreign_requests asks, and their routes."""

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.common.access import Access
from tasks.common.params import load_params
from tasks.common.throttle import Throttle

EVIL = "http://evil.example"
SOME_ID = "5f0e7c1a-3b52-5d0c-9a51-0e0e9d0f8a11"
WINDOW = "v0.1.0-20261121T080000Z"
RIGHT = "evergreen:the-right-secret-of-this-checkout"


@dataclass(frozen=True)
class Served:
    """One running server and what it can be asked."""

    name: str
    port: int
    routes: list[tuple[str, str]]  # (method, path)
    sockets: list[str] = field(default_factory=list)  # paths of websockets
    static: frozenset[str] = frozenset()  # sha256 of files that anybody may load
    more: tuple["Attempt", ...] = ()  # further ways to ask this server
    reads: bool = (
        False  # a page elsewhere may link to its pages: a browser signs in by itself, and shows them to no page
    )


@dataclass(frozen=True)
class Attempt:
    """How a stranger asks."""

    name: str
    headers: dict[str, str]
    host: str | None = None  # None: the server's own
    second_host: str | None = None
    absolute: str | None = None  # the host of an absolute address in the request line
    writes_only: bool = False  # a link from elsewhere may open a page that the browser signs in to


def routes_of(app: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route of `app` and of the apps mounted in it; "WS" for a websocket."""
    for route in getattr(app, "routes", None) or []:
        yield from _routes_of(route, before)


def _routes_of(route: Any, before: str) -> Iterator[tuple[str, str]]:
    if hasattr(route, "effective_candidates"):  # a router that FastAPI includes
        for one in route.effective_candidates():
            yield from _routes_of(one, before)
        return
    own = getattr(route, "path", "") or getattr(getattr(route, "starlette_route", None), "path", "")
    path = before + re.sub(r"\{[^}]*\}", _filled, own)
    kind = type(getattr(route, "original_route", route)).__name__
    if kind in ("APIWebSocketRoute", "WebSocketRoute"):
        yield "WS", path
    elif getattr(route, "methods", None):
        yield from ((method, path) for method in route.methods)
    else:  # a mounted app
        yield "GET", path or "/"
        yield from routes_of(route.app, path.rstrip("/"))


def _filled(found: re.Match) -> str:
    if "window" in found[0]:
        return WINDOW
    return "index.html" if "path" in found[0] else SOME_ID


@contextlib.contextmanager
def serving(app: Any) -> Iterator[int]:
    """The port of `app`, served by uvicorn as `evergreen up` does; without start-up, so it changes no database."""
    import uvicorn

    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", server_header=False, lifespan="off", proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def pages(root: Path) -> tuple[Any, list[tuple[str, str]]]:
    """The console with the webhook, of the project at `root`."""
    from flows.console.app import create_app

    os.environ["EVERGREEN_WEBHOOK_SECRET"] = "whsec_c2VjcmV0IG9mIHRoZSBob29r"
    made = create_app(root)
    made.state.console.access = Access(RIGHT)
    made.state.throttle = Throttle(failures=10**9)  # else 429 would hide what is not refused by itself
    return made, list(routes_of(made))


def with_cookies(root: Path) -> tuple[Attempt, ...]:
    """Ways to ask the console with cookies: the right one from elsewhere, others, and as a proxy would."""
    from flows.console.people import session
    from tasks.common.checkout import Checkout, checkout

    own = checkout(root)
    name, right = session.cookie_name(own), session.new_cookie(own, session.OWNER, "Ann")
    other = session.new_cookie(Checkout(own.id, "another secret"), session.OWNER, "Ann")
    tail = other.partition(".")[2]
    wrong = {"of another secret": other, "another's signature": f"{right.partition('.')[0]}.{tail}", "cut": right[:-3]}
    found = [Attempt(f"cookie {what}", {"Cookie": f"{name}={value}"}) for what, value in wrong.items()]
    found += [
        Attempt(
            "cookie of a person who is not there", {"Cookie": f"{name}={session.new_cookie(own, 'person', 'Ann')}"}
        ),
        Attempt("cookie under another name", {"Cookie": f"evergreen-0123456789abcdef={right}"}),
        Attempt("as a proxy", {"X-Forwarded-User": "Ann", "X-User": "Ann", "X-Forwarded-For": "127.0.0.1"}),
    ]
    for origin in (EVIL, "null", "http://127.0.0.1:1", ""):
        found.append(
            Attempt(f"cookie from {origin}", {"Cookie": f"{name}={right}", "Origin": origin}, writes_only=True)
        )
    for site in ("cross-site", "same-site"):
        headers = {"Cookie": f"{name}={right}", "Origin": EVIL, "Sec-Fetch-Site": site}
        found.append(Attempt(f"cookie {site}", headers, writes_only=True))
    found.append(Attempt("cookie, another host", {"Cookie": f"{name}={right}"}, host="evil.example"))
    return tuple(found)


def prefect_behind_guard(root: Path) -> tuple[Any, list[tuple[str, str]], frozenset[str]]:
    """Prefect's app behind the guard, its routes, and the digests of its UI's files."""
    from flows.server.environment import server_environment
    from flows.server.guard import Guard
    from tasks.common.checkout import Checkout

    url = "http://127.0.0.1:4200/api"
    secret = Checkout("an id", RIGHT.partition(":")[2])
    os.environ |= server_environment(load_params(root / "params.yaml").serve, secret, url)
    os.environ |= {"PREFECT_HOME": str(root / ".evergreen/prefect"), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    import prefect
    from prefect.server.api.server import create_app

    app = create_app(final=True)
    folders = [Path(place) for place in (prefect.__ui_static_subpath__, prefect.__ui_v2_static_subpath__)]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    static = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return Guard(app, Access(RIGHT), root), list(routes_of(app)), frozenset(static)


def evidently(root: Path) -> tuple[Any, list[tuple[str, str]]]:
    """Evidently's app behind its guard, and its routes."""
    from monitoring.pages.evidently import evidently_ui_command
    from monitoring.pages.evidently_server import guarded

    workspace = root / ".evergreen/evidently"
    evidently_ui_command(workspace, 1)
    app = guarded(root, str(workspace), 1)
    app.access = app.sign_in.access = Access(RIGHT)
    found = [
        (method, re.sub(r"\{[^}]*\}", _filled, route.path)) for route in app.app.routes for method in route.methods
    ]
    return app, found
