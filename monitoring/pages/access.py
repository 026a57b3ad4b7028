"""Who may see the pages and press their buttons.

Without a password, only this machine. With one, everybody who sends it (HTTP basic, any user name). A POST must also
come from a page of this server and carry its token.
"""

import hmac
from base64 import b64decode
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

from tasks.common.loopback import is_loopback


def refusal(password: str | None, request: Request) -> Response | None:
    """The error response for a request that is not allowed; None if it is allowed.

    password: None for loopback only.
    """
    if request.url.path == "/health":
        return None
    host = request.headers.get("host", "")
    near = request.client is None or is_loopback(request.client.host)
    if password is None and not (near and is_loopback(urlsplit(f"//{host}").hostname or "")):
        # check the name too: otherwise any web page could read these pages through DNS rebinding
        return PlainTextResponse("these pages are only available on this machine", 421)
    if password is not None and not signed_in(request.headers.get("authorization", ""), password):
        return PlainTextResponse(
            "a password is required", 401, {"WWW-Authenticate": 'Basic realm="Evergreen", charset="UTF-8"'}
        )
    if request.method not in ("GET", "HEAD"):
        origin = urlsplit(request.headers.get("origin", ""))
        fetched = request.headers.get("sec-fetch-site", "same-origin")
        if origin.netloc != host or fetched != "same-origin":
            return PlainTextResponse("refused: this request does not come from a page of this server", 403)
    return None


def signed_in(header: str, password: str) -> bool:
    """True if a basic authorization header contains the password; compared in constant time."""
    kind, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded, validate=True).partition(b":")[2] if kind.lower() == "basic" else b""
    except ValueError:
        given = b""
    return hmac.compare_digest(given, password.encode())


def action_token(key: bytes, action: str) -> str:
    """The token that a button for `action` must send."""
    return hmac.digest(key, action.encode(), "sha256").hex()
