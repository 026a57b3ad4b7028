"""Who may use the console: `.evergreen/people.json`, readable by its owner only.

    add(root, "Anna", "approver", by="Bea")     # returns the token of a link that works once
    join(root, token, passphrase)               # Anna opens it and chooses a passphrase

Only the sha256 of a link's token and what scrypt makes of a passphrase are stored. Each change is noted with who made
it. A person's `session` is new whenever older sign-ins must end.
"""

import json
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from flows.console.people.passphrase import Derived, check_passphrase, derive
from flows.console.people.roles import ROLES
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import locked, sha256_bytes, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder

SCHEMA = 1
FILE = "people.json"
LOCK_SECONDS = 20
LINK_DAYS = 7  # in which a new person may choose a passphrase
LONGEST_NAME = 60
HISTORY = 1000  # changes kept

Role = Literal["viewer", "labeller", "approver", "admin"]


class Link(Frozen):
    """A link with which somebody may choose a passphrase, once."""

    digest: str  # sha256 of its token
    until: datetime


class Known(Frozen):
    """One person."""

    role: Role
    since: datetime
    by: str  # who added them
    session: str  # a sign-in with another one has ended
    passphrase: Derived | None = None
    link: Link | None = None
    revoked: datetime | None = None


class Change(Frozen):
    """What somebody changed about people."""

    at: datetime
    by: str
    what: str


class People(Frozen):
    """The file's content."""

    schema_: int = SCHEMA
    people: dict[str, Known] = {}
    history: list[Change] = []

    def active(self, name: str) -> Known | None:
        """The person `name`, unless they were revoked."""
        known = self.people.get(name)
        return known if known and known.revoked is None else None

    def anyone(self) -> bool:
        """Whether somebody may sign in or choose a passphrase."""
        return any(known.revoked is None for known in self.people.values())


def read_people(root: Path) -> People:
    """Everybody. Raises EvergreenError if the file is damaged: nothing can rebuild it."""
    file = state_dir(root) / FILE
    try:
        about = json.loads(file.read_bytes())
        refuse_newer(about.pop("schema"), SCHEMA, str(file))
        return People(**about)
    except FileNotFoundError:
        return People()
    except (ValueError, ValidationError, AttributeError, KeyError, TypeError, OSError, RecursionError) as error:
        raise EvergreenError(
            f"{file} is damaged ({type(error).__name__}): take it from a backup (`evergreen restore`), or delete "
            "it and add people again (`evergreen people add`). Until then only `evergreen open` signs in"
        ) from None


def add(root: Path, name: str, role: str, by: str) -> str:
    """Add a person; returns the token of the link to their passphrase. Raises EvergreenError if they are there."""
    name, role = checked_name(name), checked_role(role)
    with _changing(root) as people:
        if people.active(name):
            raise EvergreenError(
                f"{name} is there already, as {people.people[name].role}: `evergreen people link` makes a new link, "
                "`evergreen people role` changes the role"
            )
        if twin := next((one for one in people.people if _same(one, name) and people.active(one)), None):
            raise EvergreenError(
                f"{name} looks like {twin}, who is there already: take a name that people can tell apart"
            )
        token, link = _new_link()
        known = Known(role=role, since=_now(), by=by, session=_session(), link=link)
        _save(root, people, {name: known}, by, f"added {name} as {role}")
    return token


def new_link(root: Path, name: str, by: str) -> str:
    """The token of a new link for a person who lost the first one or forgot the passphrase, which stays until then."""
    with _changing(root) as people:
        known = _existing(people, name)
        token, link = _new_link()
        _save(root, people, {name: known.model_copy(update={"link": link})}, by, f"made a link for {name}")
    return token


def set_role(root: Path, name: str, role: str, by: str) -> None:
    """Change what a person may do; it counts at once."""
    role = checked_role(role)
    with _changing(root) as people:
        known = _existing(people, name)
        _save(root, people, {name: known.model_copy(update={"role": role})}, by, f"made {name} {role}")


def revoke(root: Path, name: str, by: str) -> None:
    """End a person's sign-ins and take the passphrase away. The name stays known: records name it."""
    with _changing(root) as people:
        known = _existing(people, name)
        gone = {"passphrase": None, "link": None, "session": _session(), "revoked": _now()}
        _save(root, people, {name: known.model_copy(update=gone)}, by, f"revoked {name}")


def invited(root: Path, token: str) -> str | None:
    """The name of whom the link with `token` is for; None if it was used, replaced or is too old."""
    return _invited(read_people(root), token)


def join(root: Path, token: str, passphrase: str, again: str) -> str | None:
    """Use up the link with `token` and keep what scrypt makes of `passphrase`; returns the person's name.

    None if the link does not work any more. Raises EvergreenError for an unfit passphrase; then it still works. Older
    sign-ins of the person end.
    """
    name = invited(root, token)
    if name is None:
        return None
    check_passphrase(passphrase, again, name)
    made = derive(passphrase)  # it takes a moment: not under the lock
    with _changing(root) as people:
        if _invited(people, token) != name:
            return None
        changed = {"passphrase": made, "link": None, "session": _session()}
        known = people.people[name].model_copy(update=changed)
        _save(root, people, {name: known}, name, "chose a passphrase")
    return name


def checked_name(name: str) -> str:
    """`name` as it is stored. Raises EvergreenError for one that pages and records could not show."""
    name = unicodedata.normalize("NFC", name.strip())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise EvergreenError(
            f"{name!r} is not a person's name: expected 1 to {LONGEST_NAME} letters that can be printed"
        )
    return name


def checked_role(role: str) -> Role:
    """`role`. Raises EvergreenError if there is no such role."""
    if role not in ROLES:
        raise EvergreenError(f"{role!r} is not a role: expected one of {', '.join(ROLES)}")
    return role  # type: ignore[return-value]


def _same(one: str, other: str) -> bool:
    return unicodedata.normalize("NFKC", one).casefold() == unicodedata.normalize("NFKC", other).casefold()


def _invited(people: People, token: str) -> str | None:
    digest = _digest(token)
    for name, known in people.people.items():
        if known.revoked is None and known.link and known.link.digest == digest and known.link.until > _now():
            return name
    return None


def _existing(people: People, name: str) -> Known:
    if known := people.active(name):
        return known
    there = ", ".join(one for one in people.people if people.active(one)) or "nobody"
    raise EvergreenError(f"no person {name!r} here; known: {there}")


@contextmanager
def _changing(root: Path) -> Iterator[People]:
    make_folder(state_dir(root))
    with locked(state_dir(root) / "people.lock", LOCK_SECONDS, "the list of people"):
        yield read_people(root)


def _save(root: Path, people: People, changed: dict[str, Known], by: str, what: str) -> None:
    history = [*people.history, Change(at=_now(), by=by, what=what)][-HISTORY:]
    about: dict[str, Any] = {"schema": SCHEMA}
    about |= People(people=people.people | changed, history=history).model_dump(mode="json", exclude={"schema_"})
    write_json(state_dir(root) / FILE, about)


def _new_link() -> tuple[str, Link]:
    token = secrets.token_urlsafe(32)
    return token, Link(digest=_digest(token), until=_now() + timedelta(days=LINK_DAYS))


def _digest(token: str) -> str:
    return sha256_bytes(token.encode("utf-8", "surrogatepass"))


def _session() -> str:
    return secrets.token_hex(8)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
