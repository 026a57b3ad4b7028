"""Who may talk to the project's Prefect server.

Prefect alone checks neither the Host nor the Origin of a request, and its documentation pages are open to everybody.
The guard stands in front of it in the same process. Each request must name this server (else a page elsewhere could
reach it by DNS rebinding). One that a browser sends must come from a page of this server. Everything that reads or
changes anything needs the checkout's secret or, if one is set, the password. Open to all are only Prefect's health
check and the static files of its UI, which hold no data.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from tasks.common.loopback import is_loopback

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SIGN_IN = "/evergreen/sign-in"
HEALTH = ("/api/health", "/api/ready")
CLOSED = ("/api", "/docs", "/redoc", "/openapi.json")  # with everything under them
FORM = 4096  # bytes of a sign-in
STORED = "prefect-password"  # where Prefect's UI keeps what it sends, in the browser's storage of this address
SCRIPT = (
    f'localStorage.setItem("{STORED}", document.getElementById("kept").dataset.value);'
    'history.replaceState(null, "", "/"); location.replace("/");'
)
SIGNED_IN = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Signed in</title>'
    '<p id="kept" data-value="{kept}">Signed in. <a href="/">Prefect</a><script>' + SCRIPT + "</script></html>"
)
UI_POLICY = (  # Prefect's UI reports to a third party otherwise, and a poisoned artifact could call anywhere
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
HEADERS = [  # keep pages of other servers from framing or loading an answer
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Access:
    """What the guard of one server lets in."""

    auth: str = field(repr=False)  # "user:password" of the checkout, which Prefect itself checks too
    host: str = "127.0.0.1"  # that the server listens on
    names: tuple[str, ...] = ()  # further names of this server
    password: str | None = field(default=None, repr=False)  # that people may use instead, with any user name

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server. A network address cannot be rebound, a name can."""
        name = (_split(f"//{host}").hostname or "").rstrip(".")
        if is_loopback(self.host) or not name:
            return is_loopback(name)
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            own = {"localhost", self.host, socket.gethostname(), socket.getfqdn(), *self.names}
            return name in {one.lower() for one in own}

    def opens(self, given: str) -> bool:
        """Whether "user:password" signs in; compared in constant time."""
        password = _bytes(given.partition(":")[2])
        right = hmac.compare_digest(_bytes(given), self.auth.encode())
        return right or (self.password is not None and hmac.compare_digest(password, self.password.encode()))


class Guard:
    """An ASGI app that passes to `app` what `access` lets in."""

    def __init__(self, app: App, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, _adding(send, HEADERS))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], _headers(scope)
        if not self.access.knows(headers.get("host", "")):
            await _answer(send, 421, "this is not the address of this server")
        elif path == SIGN_IN:
            await self._sign_in(scope, receive, send)
        elif path in HEALTH and scope["method"] == "GET":
            await self.app(scope, receive, send)
        elif not _under(path, CLOSED):
            read = scope["method"] in ("GET", "HEAD")
            with_policy = _adding(send, [(b"content-security-policy", UI_POLICY.encode())])
            await (self.app(scope, receive, with_policy) if read else _answer(send, 405, "only for reading"))
        elif _foreign(headers):
            await _answer(send, 403, "refused: this request comes from a page of another server")
        elif not self.access.opens(_given(headers)):
            await _answer(send, 401, "a password is required: `evergreen ui` signs your browser in")
        else:
            await self.app({**scope, "headers": _authorized(scope, self.access.auth)}, receive, send)

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        if not self.access.knows(headers.get("host", "")) or _foreign(headers):
            await send({"type": "websocket.close", "code": 1008})
            return

        async def translated() -> Message:
            """Prefect expects the secret in its first message; the password stands for it."""
            message = await receive()
            text = message.get("text") if message["type"] == "websocket.receive" else None
            if text and '"auth"' in text[:4096]:
                about = _json(text)
                if about.get("type") == "auth" and self.access.opens(str(about.get("token"))):
                    return {**message, "text": json.dumps({**about, "token": self.access.auth})}
            return message

        await self.app(scope, translated, send)

    async def _sign_in(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer the form of `evergreen ui` with a page that leaves the secret in the browser, as Prefect's UI does."""
        if scope["method"] != "POST":
            await _answer(send, 405, "run `evergreen ui` to sign in")
            return
        body, more = b"", True
        while more and len(body) <= FORM:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = parse_qs(body[:FORM].decode("utf-8", "replace")).get("auth", [""])[0]
        if not self.access.opens(given):
            await _answer(send, 401, "this sign-in is out of date: run `evergreen ui` again")
            return
        page = SIGNED_IN.format(kept=base64.b64encode(given.encode()).decode())
        policy = f"default-src 'none'; script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; frame-ancestors 'none'"
        await _answer(send, 200, page, "text/html; charset=utf-8", [(b"content-security-policy", policy.encode())])


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _under(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _foreign(headers: dict[str, str]) -> bool:
    """Whether a browser sent this from a page of another server; programs send neither header."""
    origin = headers.get("origin")
    if origin is not None and _split(origin).netloc != headers.get("host"):
        return True
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # an unclosed bracket
        return urlsplit("")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _given(headers: dict[str, str]) -> str:
    """ "user:password" of a basic authorization header; "" if there is none."""
    kind, _, encoded = headers.get("authorization", "").partition(" ")
    try:
        return base64.b64decode(encoded, validate=True).decode() if kind.lower() == "basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _authorized(scope: Message, auth: str) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"authorization"]
    return [*kept, (b"authorization", b"Basic " + base64.b64encode(auth.encode()))]


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _adding(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    """`send`, with `headers` added to the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str, kind: str = "text/plain; charset=utf-8", more=()) -> None:
    body = text.encode()
    sizes = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    headers = [*sizes, (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
