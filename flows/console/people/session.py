"""The cookie of somebody who is signed in, and sign-ins that have ended.

The cookie holds a name and when it was made, signed with a key that the checkout's secret makes: another checkout, and
this one after `evergreen down`, takes it for nothing. Cookies ignore ports, so its name has the checkout's id. It holds
no role: that is looked up for each request.

    .evergreen/sessions.json    ids of sign-ins that were ended, until they would have expired
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.common.checkout import Checkout
from tasks.common.files import locked, write_json
from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect_dict, read_rebuildable

DAYS = 14  # a sign-in lasts
LOCK_SECONDS = 20
OWNER = "owner"  # kind of a sign-in by a link of `evergreen open`
PERSON = "person"  # kind of a sign-in by a passphrase


@dataclass(frozen=True)
class Session:
    """One sign-in."""

    kind: str
    name: str
    mark: str  # of a person: as people.json had it
    id: str
    at: int  # seconds since 1970, signed in


def cookie_name(own: Checkout) -> str:
    """The name of this checkout's cookie."""
    return f"evergreen-{own.id}"


def new_cookie(own: Checkout, kind: str, name: str, mark: str = "") -> str:
    """The value of a cookie for somebody who has just signed in."""
    return _signer(own).dumps([kind, name, mark, secrets.token_hex(8)])


def session_of(root: Path, own: Checkout, cookie: str) -> Session | None:
    """The sign-in that `cookie` stands for; None if it is forged, too old or was ended."""
    from itsdangerous import BadData

    try:
        (kind, name, mark, id_), at = _signer(own).loads(cookie, max_age=DAYS * 86_400, return_timestamp=True)
    except (BadData, ValueError, TypeError):
        return None
    if id_ in _ended(root):
        return None
    return Session(kind, name, mark, id_, int(at.timestamp()))


def end_session(root: Path, session: Session) -> None:
    """End a sign-in, also for copies of its cookie."""
    with locked(state_dir(root) / "sessions.lock", LOCK_SECONDS, "the list of sign-ins that have ended"):
        now = int(time.time())
        kept = {id_: until for id_, until in _ended(root).items() if until > now}
        write_json(_file(root), kept | {session.id: session.at + DAYS * 86_400})


def _ended(root: Path) -> dict[str, int]:
    return (
        read_rebuildable(
            _file(root), lambda about: expect_dict(about, int), "sign-ins that were ended last until `evergreen down`"
        )
        or {}
    )


def _file(root: Path) -> Path:
    return state_dir(root) / "sessions.json"


def _signer(own: Checkout):
    from itsdangerous import URLSafeTimedSerializer

    key = hmac.digest(own.secret.encode(), b"sign-ins at the console", "sha256")
    return URLSafeTimedSerializer(key, salt="evergreen", signer_kwargs={"digest_method": hashlib.sha256})
