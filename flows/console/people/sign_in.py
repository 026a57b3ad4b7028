"""Who sends a request."""

from fastapi import Request

from flows.console.people.roles import Person
from flows.console.shell.console import console_of
from tasks.common.access import sign_in_of
from tasks.common.person import owner_name


def person_of(request: Request) -> Person | None:
    """Who is signed in; None if nobody is."""
    console = console_of(request)
    if console.access.opens(sign_in_of(request.headers.get("authorization", ""))):
        return Person(owner_name(console.root), "admin")
    return None
