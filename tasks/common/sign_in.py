"""The way from the console into Prefect's and Evidently's pages: a ticket opens them once.

An address with the secret in it would do without a script, but addresses stay in the browser's history.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tasks.common.access import Access
from tasks.common.throttle import Throttle
from tasks.common.tickets import take_ticket

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATH = "/evergreen/sign-in"
REFUSED = "a password is required: the console's page Services signs your browser in (`evergreen open`)"
WAIT = "too many wrong passwords: wait a minute"
LATE = "this link was used already or is too old: open it again from the console's page Services"
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Signing in</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    '<p id="kept" data-value="{kept}" data-to="{to}">Signing in. <a href="{to}">Continue</a>'
    "<script>{script}</script></html>"
)
START = 'const {value: kept, to} = document.getElementById("kept").dataset; history.replaceState(null, "", "/");'
# basic authentication: the browser keeps what opened a page of this address until it is closed
BASIC = START + (
    'const colon = kept.indexOf(":"), request = new XMLHttpRequest();'
    'request.open("GET", "/", true, kept.slice(0, colon), kept.slice(colon + 1));'
    "request.onloadend = () => location.replace(to); request.send();"
)


class SignIn:
    """The ASGI app at `PATH` of the server called `opens`, of the project at `root`.

    kept: "user:password" that the browser keeps. script: how it does.
    """

    def __init__(self, root: Path, opens: str, kept: str, script: str = BASIC):
        self.root, self.opens, self.kept, self.script = root, opens, kept, script

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await answer(send, 405, LATE)
            return
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        ticket, to = asked.get("ticket", [""])[0], local_path(asked.get("to", ["/"])[0])
        if not ticket or not await asyncio.to_thread(take_ticket, self.root, self.opens, ticket):
            await answer(send, 401, LATE)
            return
        digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
        policy = f"default-src 'none'; script-src 'sha256-{digest}'; connect-src 'self'; base-uri 'none'"
        page = PAGE.format(kept=escape(self.kept), to=escape(to), script=self.script)
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
        await answer(send, 200, page, headers)


def admitted(access: Access, throttle: Throttle, given: str, address: str) -> tuple[bool, int]:
    """(whether "user:password" signs in, seconds to wait until a password is compared again).

    The secret cannot be guessed, so it is always compared.
    """
    if access.is_secret(given):
        return True, 0
    if not given or not access.password:
        return False, 0
    if seconds := throttle.begin(address):
        return False, seconds
    if access.opens(given):
        throttle.succeeded(address)
        return True, 0
    return False, 0


def local_path(url: str) -> str:
    """`url` if it is a path of the server that answers, else "/": nobody is sent elsewhere."""
    fine = url.startswith("/") and not url.startswith(("//", "/\\")) and url.isprintable()
    return url if fine else "/"


def address_of(scope: Message) -> str:
    """The address that sent a request."""
    return (scope.get("client") or ("",))[0]


async def answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    """Send one whole reply, plain text unless `headers` say otherwise; no cache keeps it."""
    body = text.encode()
    named = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), "cache-control": "no-store"}
    await send({"type": "http.response.start", "status": status, "headers": encoded(named | (headers or {}))})
    await send({"type": "http.response.body", "body": body})


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """`headers` as ASGI wants them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def headers_of(scope: Message) -> dict[str, str]:
    """The headers of a request by lower-case name; two Host headers count as none: which one holds is not known."""
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    found = dict(pairs)
    if sum(name == "host" for name, _ in pairs) > 1:
        found["host"] = ""
    return found


def adding(send: Send, headers: dict[str, str]) -> Send:
    """`send`, with `headers` added to the reply where it lacks them."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {bytes(name).lower() for name, _ in message.get("headers", [])}
            new = [(name, value) for name, value in encoded(headers) if name not in there]
            message = {**message, "headers": [*message.get("headers", []), *new]}
        await send(message)

    return sending
