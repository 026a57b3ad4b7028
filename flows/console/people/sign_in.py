"""Who sends a request, and the answer to those who have not signed in.

A person is known by, in this order:

1. the header of a proxy that params.yaml trusts (`serve.user_header`, `serve.proxies`): the name must be in the list
   of people, and the header counts from these addresses only;
2. the cookie of a sign-in by a link of `evergreen open` (the owner, an admin) or by a passphrase. The list of people is
   read for each request: a change of role or a revocation counts at once;
3. basic authentication of a program: the checkout's secret, or the password of the environment. Both open Prefect's
   server, which runs commands, so both are admins here.
"""

import base64
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from flows.console.people import session
from flows.console.people.roles import Person
from flows.console.people.session import Session, session_of
from flows.console.people.store import People, read_people
from flows.console.shell.console import Console, console_of
from flows.console.shell.facts import recent
from flows.console.shell.page import environment
from tasks.common.access import sign_in_of
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.params import ServeParams
from tasks.common.person import owner_name
from tasks.common.throttle import Throttle

PATH = "/sign-in"
OWNER_SECONDS = 60.0  # in which git is asked once for its user.name
SHARED = "the shared password"  # who acts with the password of the environment
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Evergreen", charset="UTF-8"'}
REFUSED = "Sign in first: `evergreen open` signs your browser in, programs send the checkout's secret."
WAIT = "Too many failed sign-ins: wait a minute, then try again."
STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.6 system-ui,sans-serif}"
    "body{margin:3em auto;max-width:30em;padding:0 1em}"
    "label{display:block;margin:1em 0}input{font:inherit;display:block;width:100%;box-sizing:border-box;padding:.5em}"
    "button{font:inherit;padding:.5em 1.2em;cursor:pointer}.bad{border-left:4px solid #c62f2f;padding-left:.8em}"
    "h1{font-size:1.4em}code{overflow-wrap:anywhere}"
)
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class TooManyFailures(Exception):
    """A password was guessed too often; `seconds` until the next try."""

    def __init__(self, seconds: int):
        super().__init__(WAIT)
        self.seconds = seconds


@dataclass(frozen=True)
class Known:
    """Who sends a request, and how we know."""

    person: Person
    session: Session | None = None  # None: each request signs in by itself


def person_of(request: Request) -> Person | None:
    """Who is signed in; None if nobody is. Raises TooManyFailures while passwords are guessed from this address."""
    found = known_of(request)
    return found.person if found else None


def known_of(request: Request) -> Known | None:
    """Who sends `request`, and by which sign-in."""
    console = console_of(request)
    serve = serve_of(console)
    named = proxied_names(request, serve)
    if named:
        person = _listed(console, named[0]) if len(named) == 1 else None
        return Known(person) if person else None
    own = checkout(console.root)
    if cookie := request.cookies.get(session.cookie_name(own)):
        found = session_of(console.root, own, cookie)
        person = _signed_in(console, found) if found else None
        if person:
            return Known(person, found)
    return _by_password(request, console, serve)


def serve_of(console: Console) -> ServeParams:
    """The settings of sign-ins; while params.yaml has a mistake no proxy is trusted."""
    try:
        return console.params().serve
    except EvergreenError:
        return ServeParams()


def proxied_names(request: Request, serve: ServeParams) -> list[str]:
    """What a trusted proxy says who asks; more than one name counts as none: which one holds is not known."""
    if not serve.user_header or not _trusted(request, serve):
        return []
    found = [value.encode("latin-1").decode("utf-8", "replace") for value in request.headers.getlist(serve.user_header)]
    return [name.strip() for name in found]


def address_of(request: Request, serve: ServeParams) -> str:
    """The address that asks; behind a trusted proxy the one that the proxy saw."""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if forwarded and _trusted(request, serve):
        return forwarded
    return request.client.host if request.client else ""


def _trusted(request: Request, serve: ServeParams) -> bool:
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(one, strict=False) for one in serve.proxies)


def _signed_in(console: Console, found: Session) -> Person | None:
    if found.kind == session.OWNER:
        return Person(found.name, "admin")
    known = _people(console).active(found.name)
    if known is None or not hmac.compare_digest(known.session, found.mark):
        return None
    return Person(found.name, known.role)


def _listed(console: Console, name: str) -> Person | None:
    known = _people(console).active(name)
    return Person(name, known.role) if known else None


def _people(console: Console) -> People:
    """Everybody; nobody if the list is damaged."""
    try:
        return read_people(console.root)
    except EvergreenError:
        return People()


def _by_password(request: Request, console: Console, serve: ServeParams) -> Known | None:
    given, access = sign_in_of(request.headers.get("authorization", "")), console.access
    if not given:
        return None
    if access.is_secret(given):  # which cannot be guessed, so it is always compared
        name = recent(("owner", console.root), lambda: owner_name(console.root), OWNER_SECONDS)
        return Known(Person(name, "admin"))
    key = f"address {address_of(request, serve)}"
    throttle: Throttle = request.app.state.throttle
    if seconds := throttle.begin(key):
        raise TooManyFailures(seconds)
    if not access.opens(given):
        return None
    throttle.succeeded(key)
    return Known(Person(SHARED, "admin"))


# --- the answer to those who have not signed in


def refused(request: Request) -> Response:
    """The answer 401, with what to do: a page for people, one line for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(REFUSED, 401, CHALLENGE)
    here = f"{request.url.path}{'?' * bool(request.url.query)}{request.url.query}"
    named = proxied_names(request, serve_of(console_of(request)))
    said = (
        f"The proxy says that you are {named[0]!r}, and no person of this name may use this console." if named else ""
    )
    return form_page(request, 401, next=here if request.method == "GET" else "/", said=said)


def too_many(request: Request, seconds: int) -> Response:
    """The answer 429."""
    headers = {"Retry-After": str(seconds)}
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(WAIT, 429, headers)
    answer = form_page(request, 429, said=WAIT)
    answer.headers["Retry-After"] = headers["Retry-After"]
    return answer


def form_page(request: Request, status: int = 200, **values: str) -> HTMLResponse:
    """The page on which people sign in. It says nothing of the project: everybody may see it."""
    values = {"next": "/", "said": "", "name": ""} | values
    return plain_page("people/sign_in.html", status, anyone=_people(console_of(request)).anyone(), **values)


def plain_page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page outside the console's frame, with its own style: those who see it may load nothing else."""
    html = environment().get_template(template).render(values, style=STYLE)
    return HTMLResponse(html, status, {"Content-Security-Policy": POLICY})
