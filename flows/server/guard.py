"""Who may talk to the project's Prefect server.

Prefect alone checks neither the Host nor the Origin of a request, and its documentation pages are open to everybody.
The guard stands in front of it in the same process. Each request must name this server (else a page elsewhere could
reach it by DNS rebinding). One that a browser sends must come from a page of this server. Everything that reads or
changes anything needs the checkout's secret or, if one is set, the password. Open to all are only Prefect's health
check and the static files of its UI, which hold no data.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tasks.common import sign_in
from tasks.common.access import Access, basic, is_foreign, sign_in_of
from tasks.common.sign_in import Message, Receive, Send, SignIn, adding, headers_of
from tasks.common.throttle import Throttle

App = Callable[[Message, Receive, Send], Awaitable[None]]

NAME = "prefect"  # what a ticket for this server opens
HEALTH = ("/api/health", "/api/ready")
CLOSED = ("/api", "/docs", "/redoc", "/openapi.json")  # with everything under them
# Prefect's UI keeps what it sends in the browser's storage of this address, which no other page can read
KEEP = sign_in.START + 'localStorage.setItem("prefect-password", btoa(kept)); location.replace(to);'
HEADERS = {  # keep pages of other servers from framing or loading an answer
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}
UI_POLICY = (  # Prefect's UI reports to a third party otherwise, and a poisoned artifact could call anywhere
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class Guard:
    """An ASGI app that passes to `app` what `access` lets in."""

    def __init__(self, app: App, access: Access, root: Path):
        self.app, self.access, self.throttle = app, access, Throttle()
        self.sign_in = SignIn(root, NAME, access.auth, KEEP)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, adding(send, HEADERS))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], headers_of(scope)
        if not self.access.knows(headers.get("host", "")):
            await sign_in.answer(send, 421, "this is not the address of this server")
        elif path == sign_in.PATH:
            await self.sign_in(scope, receive, send)
        elif path in HEALTH and scope["method"] == "GET":
            await self.app(scope, receive, send)
        elif not _under(path, CLOSED):
            if scope["method"] in ("GET", "HEAD"):
                await self.app(scope, receive, adding(send, {"Content-Security-Policy": UI_POLICY}))
            else:
                await sign_in.answer(send, 405, "only for reading")
        elif _foreign(headers):
            await sign_in.answer(send, 403, "refused: this request comes from a page of another server")
        elif (said := self._admitted(scope, sign_in_of(headers.get("authorization", "")))) != (True, 0):
            if said[1]:
                await sign_in.answer(send, 429, sign_in.WAIT, {"retry-after": str(said[1])})
            else:
                await sign_in.answer(send, 401, sign_in.REFUSED)
        else:
            await self.app({**scope, "headers": _authorized(scope, self.access.auth)}, receive, send)

    def _admitted(self, scope: Message, given: str) -> tuple[bool, int]:
        return sign_in.admitted(self.access, self.throttle, given, sign_in.address_of(scope))

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        if not self.access.knows(headers.get("host", "")) or _foreign(headers):
            await send({"type": "websocket.close", "code": 1008})
            return

        async def translated() -> Message:
            """Prefect expects the secret in its first message; the password stands for it."""
            message = await receive()
            text = message.get("text") if message["type"] == "websocket.receive" else None
            if text and '"auth"' in text[:4096]:
                about = _json(text)
                if about.get("type") == "auth" and self._admitted(scope, str(about.get("token")))[0]:
                    return {**message, "text": json.dumps({**about, "token": self.access.auth})}
            return message

        await self.app(scope, translated, send)


def _under(path: str, places: tuple[str, ...]) -> bool:
    if "//" in path or "/.." in path:  # no address of the UI; what it leads to depends on who reads it
        return True
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _foreign(headers: dict[str, str]) -> bool:
    return is_foreign(headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site"))


def _authorized(scope: Message, auth: str) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"authorization"]
    return [*kept, (b"authorization", basic(auth).encode())]


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
