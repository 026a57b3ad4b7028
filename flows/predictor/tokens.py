"""Named tokens of programs that use the predictor: `.evergreen/tokens.json`.

    create(root, "line-3", ("predict", "feedback"), by="Bea")   # returns the token: only its sha256 is stored

A token is 256 random bits, so its sha256 needs no salt and no slow function: nobody can try so many. The checkout's
own secret (tasks.common.checkout) opens the predictor, too, as the client `checkout`.
"""

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from serving.service.access import SCOPES, Client
from tasks.common.checkout import checkout
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import locked, sha256_bytes, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder

logger = logging.getLogger("evergreen.service")

SCHEMA = 1
FILE = "tokens.json"
LOCK_SECONDS = 20
LOOK_SECONDS = 0.5  # between two looks of a server at the file
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
OWN = "checkout"  # the client that has the checkout's secret
PREFIX = "evergreen_"  # by which scanners for leaked secrets know a token
DEFAULT = ("predict",)


class Token(Frozen):
    """One program's token."""

    digest: str  # sha256 of the token
    scopes: tuple[Literal["predict", "feedback", "metrics"], ...]
    since: datetime
    by: str  # who made it
    revoked: datetime | None = None
    revoked_by: str | None = None


def read_tokens(root: Path) -> dict[str, Token]:
    """Name -> token, revoked ones too. Raises EvergreenError if the file is damaged: nothing can rebuild it."""
    file = state_dir(root) / FILE
    try:
        about = json.loads(file.read_bytes())
        refuse_newer(about["schema"], SCHEMA, str(file))
        return {name: Token(**one) for name, one in about["tokens"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, ValidationError, AttributeError, KeyError, TypeError, OSError, RecursionError) as error:
        raise EvergreenError(
            f"{file} is damaged ({type(error).__name__}): take it from a backup (`evergreen restore`), or delete it "
            "and make new tokens (`evergreen tokens create`). Until then only the checkout's secret opens the predictor"
        ) from None


def create(root: Path, name: str, scopes: Sequence[str], by: str) -> str:
    """Make and return a token for the program `name`. Raises EvergreenError if the name was used before.

    A name is used once: feedback names it, so two programs must not share it.
    """
    if not NAME.fullmatch(name) or name == OWN:
        raise EvergreenError(
            f"{name!r} cannot name a token: expected 1 to 40 of a-z, 0-9, '.', '_', '-', and not {OWN!r}"
        )
    if unknown := [one for one in scopes if one not in SCOPES]:
        raise EvergreenError(f"{', '.join(map(repr, unknown))}: expected scopes of {', '.join(SCOPES)}")
    token = PREFIX + secrets.token_urlsafe(32)
    with _changing(root) as known:
        if name in known:
            state = "was revoked" if known[name].revoked else "is in use"
            raise EvergreenError(f"the name {name} {state}: take a new one, such as {name}-2, then revoke the old one")
        made = Token(digest=digest_of(token), scopes=tuple(sorted(set(scopes))), since=_now(), by=by)
        _save(root, known | {name: made})
    return token


def revoke(root: Path, name: str, by: str) -> None:
    """Make the token of `name` open nothing. Raises EvergreenError if it is not in use."""
    with _changing(root) as known:
        if name not in known or known[name].revoked:
            there = ", ".join(one for one, token in known.items() if not token.revoked) or "none"
            raise EvergreenError(f"the token {name!r} is not in use; those in use: {there}")
        gone = {"revoked": _now(), "revoked_by": by}
        _save(root, known | {name: known[name].model_copy(update=gone)})


class TokenBook:
    """`serving.service.access.Tokens` of a project, for a server. Follows changes of the files."""

    def __init__(self, root: Path):
        self._root, self._lock = root, threading.Lock()
        self._own = {digest_of(checkout(root).secret): Client(OWN, SCOPES)}
        self._stamp, self._looked = self._stamps(), time.monotonic()
        self._clients = self._read()

    def client(self, token: str) -> Client | None:
        """The client that has `token`; None if it opens nothing."""
        digest = digest_of(token)
        if digest not in self._clients or time.monotonic() - self._looked > LOOK_SECONDS:  # a new one works at once
            with self._lock:
                self._follow()
        return self._clients.get(digest)

    def _follow(self) -> None:
        self._looked = time.monotonic()
        if (stamp := self._stamps()) == self._stamp:
            return
        self._clients, self._stamp = self._read(), stamp

    def _read(self) -> dict[str, Client]:
        try:
            known = read_tokens(self._root)
        except EvergreenError as error:  # a token that was revoked must not live on
            logger.error("%s", error)
            return self._own
        return self._own | {one.digest: Client(name, one.scopes) for name, one in known.items() if one.revoked is None}

    def _stamps(self) -> tuple[int, int, int] | None:
        try:
            status = (state_dir(self._root) / FILE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def digest_of(token: str) -> str:
    """What is stored of a token."""
    return sha256_bytes(token.encode("utf-8", "surrogatepass"))


@contextmanager
def _changing(root: Path) -> Iterator[dict[str, Token]]:
    make_folder(state_dir(root))
    with locked(state_dir(root) / "tokens.lock", LOCK_SECONDS, "the list of tokens"):
        yield read_tokens(root)


def _save(root: Path, known: dict[str, Token]) -> None:
    about: dict[str, Any] = {"schema": SCHEMA}
    about["tokens"] = {name: one.model_dump(mode="json") for name, one in known.items()}
    write_json(state_dir(root) / FILE, about)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
