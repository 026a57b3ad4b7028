"""The page of people and their roles, for admins."""

import time

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from flows.console.people import store
from flows.console.people.roles import MAY, ROLES, need
from flows.console.shell.console import console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from monitoring.console_link import console_link

SHOWN = 20  # changes of the list
LINK_SECONDS = 300  # in which a new link is shown, once, to the admin who made it

router = APIRouter()


@router.get("/people")
def people(request: Request, format: str = "") -> Response:
    """Everybody, and what each may do."""
    person, root = need(request, "admin"), console_of(request).root
    found = store.read_people(root)
    rows = sorted(found.people.items(), key=lambda pair: (pair[1].revoked is not None, pair[0].casefold()))
    if format == "csv":
        columns = ("name", "role", "since", "added by", "has a passphrase", "revoked")
        return csv_download(
            "people",
            columns,
            [(name, one.role, one.since, one.by, one.passphrase is not None, one.revoked) for name, one in rows],
        )
    name, link, made = request.app.state.new_links.pop(person.name, ("", "", 0.0))
    return page(
        request,
        "people/people.html",
        title="People",
        section="/people",
        rows=rows,
        roles=ROLES,
        may=MAY,
        days=store.LINK_DAYS,
        history=found.history[: -SHOWN - 1 : -1],
        new_name=name,
        new_link=link if time.monotonic() - made < LINK_SECONDS else "",
    )


@router.post("/people/add")
def add(request: Request, form: Posted = Depends(posted)) -> Response:
    """Add a person, and show the link once."""
    person, root, name = need(request, "admin"), console_of(request).root, form.text("name", most=100)
    _show_link(request, name, store.add(root, name, form.text("role"), person.name))
    return back(request, "/people", f"{name} was added: send them the link below.")


@router.post("/people/link")
def link(request: Request, form: Posted = Depends(posted)) -> Response:
    """Make a new link for somebody, and show it once."""
    person, root, name = need(request, "admin"), console_of(request).root, form.text("name", most=100)
    _show_link(request, name, store.new_link(root, name, person.name))
    return back(request, "/people", f"A new link for {name} is below.")


@router.post("/people/role")
def role(request: Request, form: Posted = Depends(posted)) -> Response:
    """Change what somebody may do."""
    person, name = need(request, "admin"), form.text("name", most=100)
    store.set_role(console_of(request).root, name, form.text("role"), person.name)
    return back(request, "/people", f"{name} is now {form.text('role')}.")


@router.post("/people/revoke")
def revoke(request: Request, form: Posted = Depends(posted)) -> Response:
    """End somebody's sign-ins."""
    person, name = need(request, "admin"), form.text("name", most=100)
    store.revoke(console_of(request).root, name, person.name)
    return back(request, "/people", f"{name} can no longer sign in.")


def _show_link(request: Request, name: str, token: str) -> None:
    """Keep the link in this process until the admin's next look at the page: a cookie or an address would leak it."""
    shown = console_link(console_of(request).root, f"/join/{token}")
    request.app.state.new_links[request.state.person.name] = (name, shown, time.monotonic())
