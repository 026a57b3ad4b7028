"""Who may use the service: a token for every route but health, and a rate for each client.

The token comes in the header `Authorization: Bearer TOKEN`, or as the password of a basic sign-in, for tools that know
only that. It is never read from the address, which proxies log. The name of the client is then in the request's state:
`client_of(request)`.
"""

import base64
import binascii
import threading
from typing import NamedTuple, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.service.problems import Problem
from serving.service.rates import Rates
from tasks.common.throttle import Throttle

SCOPES = ("predict", "feedback", "metrics")
OPEN = frozenset({"/health", "/v2/health/live", "/v2/health/ready"})  # for GET and HEAD; they tell nothing but health
ANY = "any"
NEEDS = {"/feedback": "feedback", "/metrics": "metrics", "/ready": ANY, "/model": ANY}  # others: predict
FAILURES = 10  # wrong tokens of one address in a minute, of one process; then it has to wait
LONGEST = 512  # bytes of a token


class Client(NamedTuple):
    """A program that may use the service."""

    name: str
    scopes: tuple[str, ...]


class Tokens(Protocol):
    """Knows the tokens. Never waits for a store."""

    def client(self, token: str) -> Client | None:
        """The client that has `token`; None if it opens nothing."""
        ...


class Guard:
    """An ASGI middleware that lets clients in. Raises Problem for others, before their body is read."""

    def __init__(self, app: ASGIApp, tokens: Tokens, rates: Rates, per_minute: int = 0):
        """per_minute: requests of one client, over all processes that share `rates`; 0: no limit."""
        self._app, self._tokens, self._rates, self._per_minute = app, tokens, rates, per_minute
        self._throttle = Throttle(FAILURES)
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] == "http" and not (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            client = self._admitted(scope)
            scope.setdefault("state", {})["client"] = client.name
        return await self._app(scope, receive, send)

    def _admitted(self, scope: Scope) -> Client:
        client = self._tokens.client(token) if (token := token_of(scope)) else None
        if client is None:
            raise self._refusal(scope, token)
        needed = NEEDS.get(scope["path"], "predict")
        if needed != ANY and needed not in client.scopes:
            raise Problem("forbidden", f"the token {client.name} is not for {needed}: it is for {_listed(client)}")
        if self._per_minute and (wait := self._rates.take(f"requests {client.name}", 1, self._per_minute, 60.0)):
            raise too_many(f"{client.name} sends more than {self._per_minute} requests a minute", wait)
        return client

    def _refusal(self, scope: Scope, token: str) -> Problem:
        """Wrong tokens are slowed down; right ones never are, so that nobody can lock others out behind a proxy."""
        address = (scope.get("client") or ("",))[0]
        if token and (wait := self._throttle.begin(address)):
            return too_many("too many wrong tokens came from this address", wait)
        said = "this token opens nothing" if token else "no token came"
        return Problem(
            "unauthorized",
            f"{said}: send the header `Authorization: Bearer TOKEN`; `evergreen tokens create NAME` makes a token",
            {"www-authenticate": 'Bearer realm="evergreen"'},
        )


def token_of(scope: Scope) -> str:
    """The token in the headers of a request; "" if they hold none, two, or nonsense."""
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) != 1 or len(found[0]) > LONGEST:
        return ""
    kind, _, given = found[0].decode("latin-1").partition(" ")
    given = given.strip()
    if kind.lower() == "bearer":
        return given
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def too_many(what: str, wait: float) -> Problem:
    """The refusal of a client that sends too much, to be tried again after `wait` seconds."""
    seconds = max(1, int(wait + 0.999))
    return Problem("too_many_requests", f"{what}: send it again in {seconds} s", {"retry-after": str(seconds)})


def client_of(request: Request) -> str:
    """The name of the client whose token the guard checked."""
    return request.scope["state"]["client"]


def _listed(client: Client) -> str:
    return ", ".join(client.scopes) or "nothing"
