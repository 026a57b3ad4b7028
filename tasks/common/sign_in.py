"""The way into a page from `evergreen ui`: a form sends the secret, and the browser keeps it.

A link with the secret in its address would do without a script, but addresses stay in the browser's history.
"""

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from html import escape
from typing import Any
from urllib.parse import parse_qs

from tasks.common import request_body
from tasks.common.access import Access
from tasks.common.request_body import BodyRefused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATH = "/evergreen/sign-in"
FORM = 4096  # bytes of a sign-in
REFUSED = "a password is required: `evergreen ui` signs your browser in"
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Signing in</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    '<p id="kept" data-value="{kept}">Signing in. <a href="/">Continue</a><script>{script}</script></html>'
)
START = 'const kept = document.getElementById("kept").dataset.value; history.replaceState(null, "", "/");'
# basic authentication: the browser keeps what opened a page of this address until it is closed
BASIC = START + (
    'const colon = kept.indexOf(":"), request = new XMLHttpRequest();'
    'request.open("GET", "/", true, kept.slice(0, colon), kept.slice(colon + 1));'
    'request.onloadend = () => location.replace("/"); request.send();'
)


class SignIn:
    """The ASGI app at `PATH`."""

    def __init__(self, access: Access, script: str = BASIC):
        self.access, self.script = access, script

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await answer(send, 405, "run `evergreen ui` to sign in")
            return
        try:
            body = await request_body.read_body(_parts(receive), FORM)
        except BodyRefused as refused:
            await answer(send, refused.status, str(refused), {"connection": "close"})
            return
        given = parse_qs(body.decode("utf-8", "replace")).get("auth", [""])[0]
        if not self.access.opens(given):
            await answer(send, 401, "this sign-in is out of date: run `evergreen ui` again")
            return
        digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
        policy = f"default-src 'none'; script-src 'sha256-{digest}'; connect-src 'self'; base-uri 'none'"
        page = PAGE.format(kept=escape(given), script=self.script)
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
        await answer(send, 200, page, headers)


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message.get("body", b"")
        more = message.get("more_body", False)


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
    """The headers of a request by lower-case name; two Host headers count as none, for nobody can say which holds."""
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
