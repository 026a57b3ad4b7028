"""Does any server that `evergreen up` starts answer a stranger: a web page, another user, another name?

    python -m benchmarks.foreign_requests     # every route of the three servers: foreign_requests_accepted is 0
    python -m benchmarks.foreign_requests --quick     # a sample of the routes of Prefect and of the pages

The routes come from the apps themselves: Prefect's, Evidently's, and the console with the webhook. Each is served as
`evergreen up` serves it, behind its guard, and asked with each method over a socket:

- without credentials, with wrong ones, with those of another checkout, as another user of the machine would;
- with the right credentials, which a browser may add by itself, but from a page of another origin or site;
- with cookies: of another secret, changed, of nobody, and the right one from a page elsewhere;
- under another host's name, as after DNS rebinding, also with two Host headers, or an absolute address;
- as a websocket, with a foreign origin or name, and with a wrong secret.

Health checks and data-free static files are open to all, and what they may answer is written out here.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import random
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.foreign_servers import (
    EVIL,
    RIGHT,
    Attempt,
    Served,
    evidently,
    pages,
    prefect_behind_guard,
    serving,
    with_cookies,
)
from benchmarks.record import Figure, report
from tasks.common.access import basic

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REFUSED = (400, 401, 403, 405, 408, 413, 415, 421, 426, 429)
# answered to all: no project's data is in them
OPEN = {"/health", "/api/health", "/api/ready", "/ui-settings", "/sign-in"}
NO_FILE = b'{"detail":"Not Found"}'  # of a server of static files
QUICK = 40  # routes of each server in a quick pass


def attempts() -> list[Attempt]:
    """Ways to ask, none of which may be answered."""
    right = {"Authorization": basic(RIGHT)}
    wrong = ["evergreen:wrong", "evergreen:", ":", "the-right-secret-of-this-checkout", f"{RIGHT}x", RIGHT[:-1]]
    found = [Attempt("no credentials", {})]
    found += [Attempt(f"wrong credentials {n}", {"Authorization": basic(text)}) for n, text in enumerate(wrong)]
    found += [
        Attempt("bearer", {"Authorization": f"Bearer {RIGHT.partition(':')[2]}"}),
        Attempt("not base64", {"Authorization": "Basic !!"}),
        Attempt("in a cookie", {"Cookie": f"auth={basic(RIGHT)}"}),
        Attempt("method override", {"X-HTTP-Method-Override": "GET", "X-Forwarded-For": "127.0.0.1"}),
    ]
    origins = [EVIL, "null", "http://127.0.0.1:1", "http://localhost", "https://127.0.0.1", "http://["]
    found += [Attempt(f"origin {origin}", right | {"Origin": origin}, writes_only=True) for origin in origins]
    for site in ("cross-site", "same-site"):
        found.append(Attempt(site, right | {"Sec-Fetch-Site": site, "Origin": EVIL}, writes_only=True))
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[", "127.0.0.1@evil.example"):
        found.append(Attempt(f"host {host!r}", right, host=host))
    found.append(Attempt("two hosts", right, host="evil.example", second_host="127.0.0.1"))
    found.append(Attempt("own and foreign host", {}, second_host="evil.example"))
    found.append(Attempt("absolute address", right, host="evil.example", absolute="evil.example"))
    return found


def accepted(served: Served, attempt: Attempt, method: str, path: str) -> str | None:
    """What was answered where nothing should have been; None if the request was refused."""
    read = method in ("GET", "HEAD")
    if attempt.writes_only and served.reads and (read or method == "OPTIONS"):
        return None
    status, body, headers = ask(served.port, attempt, method, path)
    if status in REFUSED or status == 0:
        return None
    if any(name.lower() == "access-control-allow-origin" for name in headers):
        return f"{status} with Access-Control-Allow-Origin"
    if read and (path in OPEN or hashlib.sha256(body).hexdigest() in served.static or (method == "HEAD" and not body)):
        return None
    if served.static and status == 404 and body == NO_FILE and not path.startswith("/api"):
        return None
    return f"{status} {body[:80]!r}"


def ask(port: int, attempt: Attempt, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of one request; status 0: the server closed the connection."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    target = f"http://{attempt.absolute}{path}" if attempt.absolute else path
    body = b'{"name": "attack"}' if method in ("POST", "PUT", "PATCH") else b""
    try:
        line.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        line.putheader("Host", f"127.0.0.1:{port}" if attempt.host is None else attempt.host)
        if attempt.second_host is not None:
            line.putheader("Host", attempt.second_host)
        for name, value in attempt.headers.items():
            line.putheader(name, value)
        if body:
            line.putheader("Content-Type", "text/plain")  # which a page may send without asking first
            line.putheader("Content-Length", str(len(body)))
        line.endheaders(body or None)
        reply = line.getresponse()
        return reply.status, reply.read(), dict(reply.headers)
    except (http.client.HTTPException, OSError):
        return 0, b"", {}
    finally:
        line.close()


def socket_accepted(served: Served, path: str) -> Iterator[tuple[str, str | None]]:
    """(attempt, what a websocket said to a stranger or None)."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    own = f"127.0.0.1:{served.port}"
    secret = json.dumps({"type": "auth", "token": RIGHT})
    tries = [
        ("wrong secret", {}, own, json.dumps({"type": "auth", "token": "evergreen:wrong"})),
        ("silent", {}, own, ""),
    ]
    tries += [("no auth message", {}, own, '{"type": "filter", "filter": {}}'), ("not JSON", {}, own, "[" * 10_000)]
    tries += [(f"origin {one}", {"Origin": one}, own, secret) for one in (EVIL, "null", "http://127.0.0.1:1")]
    tries += [("another name", {}, f"evil.example:{served.port}", secret)]
    for name, headers, host, first in tries:
        said = None
        try:
            plain = socket.create_connection(("127.0.0.1", served.port), timeout=10)
            with connect(
                f"ws://{host}{path}", sock=plain, additional_headers=headers, subprotocols=["prefect"], open_timeout=10
            ) as opened:
                if first:
                    opened.send(first)
                opened.send('{"type": "filter", "filter": {}}')
                said = str(opened.recv(timeout=2))
        except TimeoutError:
            said = None  # it says nothing
        except (WebSocketException, OSError):
            said = None
        yield name, said


def tried(served: Served, rng: random.Random, most: int | None) -> tuple[int, list[str]]:
    """(requests made, those that were answered) for one server."""
    paths = sorted({path for method, path in served.routes if method != "WS"} | {"/", "/nowhere", "/../api", "//api"})
    if most:
        paths = sorted(rng.sample(paths, min(most, len(paths))))
    count, wrong = 0, []
    declared = set(served.routes)
    for path in paths:
        for attempt in [*attempts(), *served.more]:
            for method in METHODS:
                usual = (method, path) in declared or method in ("GET", "POST")
                if not usual and attempt.name != "no credentials":
                    continue  # what the app does not know is tried once
                count += 1
                if said := accepted(served, attempt, method, path):
                    wrong.append(f"{served.name}: {method} {path} ({attempt.name}): {said}")
    for path in {path for method, path in served.routes if method == "WS"}:
        for name, said in socket_accepted(served, path):
            count += 1
            if said is not None and "auth_failure" not in said:
                wrong.append(f"{served.name}: websocket {path} ({name}): {said[:80]}")
    return count, wrong


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sample of the routes of two servers; records nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from tests.support.released_project import copy

    rng, counts, wrong = random.Random(options.seed), {}, []
    with tempfile.TemporaryDirectory(prefix="evergreen-foreign-") as folder, contextlib.ExitStack() as stack:
        root = copy(Path(folder))
        app, routes = pages(root)
        console = stack.enter_context(serving(app))
        servers = [Served("console", console, routes, reads=True, more=with_cookies(root))]
        app, routes, static = prefect_behind_guard(root)
        servers.append(Served("prefect", stack.enter_context(serving(app)), routes, static=static))
        if not options.quick:
            app, routes = evidently(root)
            servers.append(Served("evidently", stack.enter_context(serving(app)), routes, reads=True))
        for served in servers:
            counts[served.name], found = tried(served, rng, QUICK if options.quick else None)
            wrong += found
    for line in wrong[:50]:
        print(line, file=sys.stderr)
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    named = {served.name: len({path for _, path in served.routes}) for served in servers}
    routes = ", ".join(f"{name} {count}" for name, count in named.items())
    figure = Figure(
        name="foreign_requests_accepted",
        value=len(wrong),
        unit="",
        goal=0,
        better="lower",
        spread=f"requests: {shown}; paths: {routes}",
    )
    report("foreign_requests", "python -m benchmarks.foreign_requests", [figure], options.quick)


if __name__ == "__main__":
    main()
