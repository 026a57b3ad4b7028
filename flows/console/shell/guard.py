"""Who may see the pages and press their buttons.

Every address but those in `OPEN` needs a sign-in. A POST must also come from a page of this server and carry its token
(flows.console.shell.posted).
"""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

from flows.console.people.sign_in import TooManyFailures, person_of, refused, too_many
from flows.console.shell.console import console_of
from tasks.common import sign_in
from tasks.common.loopback import is_loopback
from tasks.common.sign_in import Message, Receive, Send

App = Callable[[Message, Receive, Send], Awaitable[None]]

# without data of the project; messages to /hooks/ are accepted by their signature, the others ask who it is
OPEN = ("/hooks/", "/sign-in/", "/join/")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would empty the Origin of these pages' forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI app that passes to `app` what `refusal` allows. HEAD is answered like GET, without the body."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = sign_in.adding(send, HEADERS)
        if (answer := refusal(Request(scope, receive))) is not None:
            await answer(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self.app({**scope, "method": "GET", "head": True}, receive, _without_body(send))
        else:
            await self.app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})  # at once: a stream of events has no end

    return sending


def refusal(request: Request) -> Response | None:
    """The error response for a request that is not allowed; None if it is, with `request.state.person` set."""
    access, path = console_of(request).access, request.url.path
    if path == "/health":
        return None
    host = sign_in.headers_of(request.scope).get("host", "")
    near = request.client is None or is_loopback(request.client.host)
    if not access.knows(host) or (is_loopback(access.host) and not near):
        # check the name too: otherwise any web page could read these pages through DNS rebinding
        return PlainTextResponse("this is not the address of this server", 421)
    if path.startswith(OPEN) or path == "/sign-in":
        return None
    try:
        person = person_of(request)
    except TooManyFailures as error:
        return too_many(request, error.seconds)
    if person is None:
        return refused(request)
    request.state.person = person
    if request.method not in ("GET", "HEAD"):
        origin = request.headers.get("origin", "")  # browsers send it with each POST
        if not access.own_origin(host, origin, request.headers.get("sec-fetch-site")):
            return PlainTextResponse("refused: this request does not come from a page of this server", 403)
    return None
