"""Who may see the pages and press their buttons.

Every page needs a sign-in (HTTP basic, any user name): the checkout's secret, or the password of the environment. A
POST must also come from a page of this server and carry its token.
"""

import hmac

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

from tasks.common import sign_in
from tasks.common.access import Access, is_foreign, sign_in_of
from tasks.common.loopback import is_loopback

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Evergreen", charset="UTF-8"'}


def refusal(access: Access, request: Request) -> Response | None:
    """The error response for a request that is not allowed; None if it is allowed."""
    if request.url.path == "/health":
        return None
    host = sign_in.headers_of(request.scope).get("host", "")
    near = request.client is None or is_loopback(request.client.host)
    if not access.knows(host) or (is_loopback(access.host) and not near):
        # check the name too: otherwise any web page could read these pages through DNS rebinding
        return PlainTextResponse("this is not the address of this server", 421)
    if request.url.path == sign_in.PATH:
        return None  # it asks for the secret itself, from a page without an origin
    if not access.opens(sign_in_of(request.headers.get("authorization", ""))):
        return PlainTextResponse(sign_in.REFUSED, 401, CHALLENGE)
    if request.method not in ("GET", "HEAD"):
        origin = request.headers.get("origin", "")  # browsers send it with each POST
        if is_foreign(host, origin, request.headers.get("sec-fetch-site")):
            return PlainTextResponse("refused: this request does not come from a page of this server", 403)
    return None


def action_token(key: bytes, action: str) -> str:
    """The token that a button for `action` must send."""
    return hmac.digest(key, action.encode(), "sha256").hex()
