"""Evidently's own UI behind a guard: a sign-in, its own address only, nothing can be changed.

    python -m monitoring.pages.evidently_server WORKSPACE PORT        (in the project's folder; `evergreen up` does it)

Alone, Evidently's UI takes a POST from a page of any origin and shows everything to everybody on the machine.
"""

import hmac
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tasks.common import sign_in
from tasks.common.access import Access, access_of, is_foreign, sign_in_of
from tasks.common.params import load_params
from tasks.common.paths import project_root
from tasks.common.sign_in import Message, Receive, Send, SignIn, adding, headers_of
from tasks.common.throttle import Throttle

App = Callable[[Message, Receive, Send], Awaitable[None]]

NAME = "evidently"  # what a ticket for this server opens
# the one POST that reads: the values that a dashboard plots
READS = re.compile(r"/api/v2/snapshots/[0-9a-f-]{36}/data_series_batch")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Evergreen", charset="UTF-8"'}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # its pages run scripts of the library, which may reach this server only
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
}


class ReadOnly:
    """An ASGI app that passes to `app` what `access` lets in and what changes nothing."""

    def __init__(self, app: App, access: Access, root: Path):
        self.app, self.access, self.throttle, self.reader = app, access, Throttle(), reader_of(access.auth)
        self.sign_in = SignIn(root, NAME, self.reader)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, adding(send, HEADERS))
        else:  # Evidently's UI has no sockets
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        host, method, path = headers.get("host", ""), scope["method"], scope["path"]
        if not self.access.knows(host):
            await sign_in.answer(send, 421, "this is not the address of this server")
        elif path == sign_in.PATH:
            await self.sign_in(scope, receive, send)
        elif not (said := self._admitted(scope, headers))[0]:
            if said[1]:
                await sign_in.answer(send, 429, sign_in.WAIT, {"retry-after": str(said[1])})
            else:
                await sign_in.answer(send, 401, sign_in.REFUSED, CHALLENGE)
        elif method in ("GET", "HEAD"):
            await self.app(scope, receive, send)
        elif method != "POST" or not READS.fullmatch(path):
            await sign_in.answer(send, 405, "Evidently's pages are only for reading here")
        elif is_foreign(host, headers.get("origin", ""), headers.get("sec-fetch-site")):
            await sign_in.answer(send, 403, "refused: this request does not come from a page of this server")
        else:
            await self.app(scope, receive, send)

    def _admitted(self, scope: Message, headers: dict[str, str]) -> tuple[bool, int]:
        given = sign_in_of(headers.get("authorization", ""))
        if hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.reader.encode()):
            return True, 0
        return sign_in.admitted(self.access, self.throttle, given, sign_in.address_of(scope))


def reader_of(auth: str) -> str:
    """What a browser keeps that comes from the console: it opens these pages, and not Prefect as the secret does."""
    return f"reader:{hmac.digest(auth.encode(), b'read Evidently', 'sha256').hex()}"


def guarded(root: Path, workspace: str, port: int) -> ReadOnly:
    """Evidently's app behind its guard, for the project at `root`."""
    from evidently.ui.service.app import create_app, get_config

    serve = load_params(root / "params.yaml").serve.model_copy(update={"host": "127.0.0.1"})
    return ReadOnly(create_app(get_config(port=port, workspace=workspace)), access_of(root, serve), root)


def main(workspace: str, port: int) -> None:
    """Serve on loopback until SIGTERM."""
    import uvicorn

    app = guarded(project_root(), workspace, port)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", server_header=False, proxy_headers=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
