"""Sign in and out: by a link of `evergreen open`, by a passphrase, by an invitation.

Nobody is signed in on these pages, so no token can be in their forms: a POST must come from a page of this server.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from flows.console.people import passphrase, session, store
from flows.console.people.sign_in import (
    PATH,
    TooManyFailures,
    address_of,
    form_page,
    known_of,
    plain_page,
    serve_of,
    too_many,
)
from flows.console.shell.console import console_of
from flows.console.shell.posted import Posted, back, local, posted
from flows.services.sign_in import CONSOLE
from tasks.common import request_body
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.person import owner_name
from tasks.common.request_body import BodyRefused
from tasks.common.tickets import take_ticket

BODY = 8192  # bytes of a form
WRONG = "This name and this passphrase do not belong together."  # the same for a name that nobody has
LATE = "This link was used already, or it is too old. `evergreen open` makes a new one."
GONE = "This link was used already, was replaced, or is too old. Ask for a new one."

router = APIRouter()


@dataclass(frozen=True)
class Stranger:
    """The form of somebody who has not signed in."""

    fields: dict[str, list[str]]

    def text(self, name: str) -> str:
        """A field as it was typed."""
        return self.fields.get(name, [""])[0]


async def stranger(request: Request) -> Stranger:
    """The fields of a form from a page of this server. Raises HTTPException otherwise."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
    if not console_of(request).access.own_origin(host, origin, request.headers.get("sec-fetch-site")):
        raise HTTPException(403, "This request does not come from a page of this server.")
    try:
        body = await request_body.read_body(request.stream(), BODY)
        return Stranger(parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20))
    except BodyRefused as refused:
        raise HTTPException(refused.status, str(refused), {"Connection": "close"}) from None
    except ValueError:
        raise HTTPException(413, "too many fields") from None


@router.get(PATH)
def sign_in_form(request: Request, next: str = "/") -> Response:
    """The page."""
    try:
        if known_of(request):
            return RedirectResponse(local(next), 303)
    except TooManyFailures as error:
        return too_many(request, error.seconds)
    return form_page(request, next=local(next))


@router.get(PATH + "/{ticket}")
def by_ticket(request: Request, ticket: str, next: str = "/") -> Response:
    """Sign in the owner, who has the link from `evergreen up` or `evergreen open`."""
    if request.headers.get("sec-purpose", request.headers.get("purpose", "")).startswith("prefetch"):
        return PlainTextResponse("a link that works once is not loaded before it is opened", 403)
    root = console_of(request).root
    if request.scope.get("head") or not take_ticket(root, CONSOLE, ticket):
        return form_page(request, 401, next=local(next), said=LATE)
    return _signed_in(request, local(next), session.OWNER, owner_name(root))


@router.post(PATH)
def by_passphrase(request: Request, form: Stranger = Depends(stranger)) -> Response:
    """Sign in a person. A name that nobody has takes as long, and gets the same answer."""
    console, name = console_of(request), form.text("name").strip()
    keys = (f"name {name[:100]}", f"address {address_of(request, serve_of(console))}")
    if seconds := request.app.state.throttle.begin(*keys):
        return too_many(request, seconds)
    try:
        known = store.read_people(console.root).active(store.checked_name(name))
    except EvergreenError:
        known = None
    with request.app.state.comparing:  # each takes 32 MiB
        right = passphrase.matches(form.text("passphrase"), known.passphrase if known else None)
    if not right:
        return form_page(request, 401, next=local(form.text("next")), name=name, said=WRONG)
    request.app.state.throttle.succeeded(*keys)
    return _signed_in(request, local(form.text("next")), session.PERSON, name, known.session)


@router.get("/join/{token}")
def join_form(request: Request, token: str) -> Response:
    """Where a new person chooses a passphrase."""
    name = store.invited(console_of(request).root, token)
    return _join_page(request, name) if name else form_page(request, 401, said=GONE)


@router.post("/join/{token}")
def join(request: Request, token: str, form: Stranger = Depends(stranger)) -> Response:
    """Keep the passphrase and sign the person in."""
    root = console_of(request).root
    try:
        name = store.join(root, token, form.text("passphrase"), form.text("again"))
    except EvergreenError as error:
        return _join_page(request, store.invited(root, token) or "", str(error), 409)
    if name is None:
        return form_page(request, 401, said=GONE)
    return _signed_in(request, "/", session.PERSON, name, store.read_people(root).people[name].session)


@router.post("/sign-out")
def sign_out(request: Request, form: Posted = Depends(posted)) -> Response:
    """End this sign-in, also for copies of its cookie."""
    console, known = console_of(request), known_of(request)
    if known is None or known.session is None:
        said = "This browser sends a password with each request, or a proxy signs you in: sign out there."
        return back(request, form.text("back", "/"), said, good=False)
    session.end_session(console.root, known.session)
    answer = RedirectResponse(PATH, 303)
    answer.delete_cookie(session.cookie_name(checkout(console.root)), **_kept(request))
    return answer


def _join_page(request: Request, name: str, said: str = "", status: int = 200) -> Response:
    return plain_page("people/join.html", status, name=name, said=said, shortest=passphrase.SHORTEST)


def _signed_in(request: Request, to: str, kind: str, name: str, mark: str = "") -> Response:
    own = checkout(console_of(request).root)
    answer = RedirectResponse(to, 303)
    cookie = session.new_cookie(own, kind, name, mark)
    answer.set_cookie(session.cookie_name(own), cookie, max_age=session.DAYS * 86_400, **_kept(request))
    return answer


def _kept(request: Request) -> dict[str, Any]:
    """How browsers keep the cookie: hidden from scripts, not sent with other sites' forms, over TLS if there is any."""
    public = serve_of(console_of(request)).public_url or ""
    secure = public == f"https://{request.headers.get('host', '')}"
    return {"path": "/", "httponly": True, "samesite": "lax", "secure": secure}
