"""Who acts in the console, and what each role may do."""

from dataclasses import dataclass

from fastapi import HTTPException, Request

ROLES = ("viewer", "labeller", "approver", "admin")  # each may do all that those before may
MAY = {
    "viewer": "see every page",
    "labeller": "label images",
    "approver": "decide about models and data",
    "admin": "manage people and services",
}


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether this person may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


def need(request: Request, role: str) -> Person:
    """Who asks, if they may do what `role` may. Raises HTTPException 403 otherwise."""
    person: Person = request.state.person
    if not person.may(role):
        raise HTTPException(
            403, f"You are signed in as {person.name}, {person.role}. To {MAY[role]} takes the role {role}."
        )
    return person
