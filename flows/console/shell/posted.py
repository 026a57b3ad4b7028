"""What a form sent, and the answer to it.

    @router.post("/runs/{run}/cancel")
    def cancel(request: Request, run: str, form: Posted = Depends(posted)):
        ...
        return back(request, f"/runs/{run}", "The run is being cancelled.")

Every answer is a redirect with a short message (toast), so a reload of the page repeats nothing.
"""

import hmac
import json
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from fastapi import HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from flows.console.shell.console import console_of
from tasks.common import request_body
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.request_body import BodyRefused
from tasks.common.text import one_line

BODY = 64 << 10  # bytes of a form
FIELDS = 2000  # of a form
TOAST = 600  # letters of a message
COOKIE = "evergreen-toast"
COOKIE_LETTERS = 3500  # browsers drop a cookie of more than 4096, with its name


@dataclass(frozen=True)
class Posted:
    """The fields of a form."""

    fields: dict[str, list[str]]

    def text(self, name: str, default: str = "", most: int = 2000) -> str:
        """A field, without blanks around it. Raises EvergreenError beyond `most` letters, and for a NUL character."""
        found = self.fields.get(name, [default])[0].strip()
        if "\0" in found:  # no command takes it as an argument
            raise EvergreenError(f"{name} holds a NUL character: no text has one")
        if len(found) > most:
            raise EvergreenError(f"{name} has {len(found)} letters: at most {most} are kept")
        return found

    def all(self, name: str) -> list[str]:
        """All values of a field that may come more than once."""
        return self.fields.get(name, [])

    def flag(self, name: str) -> bool:
        """Whether a box is ticked."""
        return bool(self.text(name))


def token(key: bytes, person: str) -> str:
    """What a form on a page of `person` must send back; never the same twice."""
    nonce = secrets.token_hex(8)  # a compressed page would leak a text that repeats
    return f"{nonce}.{_digest(key, person, nonce)}"


def check_token(request: Request, given: str) -> None:
    """Raise HTTPException 403 unless `given` came with a page of this person."""
    nonce, _, digest = given.partition(".")
    right = _digest(console_of(request).key, request.state.person.name, nonce)
    if not hmac.compare_digest(_bytes(digest), right.encode()):
        raise HTTPException(403, "This page is out of date: reload it and press the button again.")


def _digest(key: bytes, person: str, nonce: str) -> str:
    return hmac.digest(key, _bytes(f"form {nonce} of {person}"), "sha256").hex()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


async def posted(request: Request) -> Posted:
    """The fields of the form in the body. Raises HTTPException for a body that no page of ours sent."""
    try:
        body = await request_body.read_body(request.stream(), BODY)
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS)
    except BodyRefused as refused:
        raise HTTPException(refused.status, str(refused), {"Connection": "close"}) from None
    except ValueError:
        raise HTTPException(413, f"more than {FIELDS} fields") from None
    check_token(request, fields.pop("token", [""])[0])
    request.state.form = Posted(fields)
    return request.state.form


def back(request: Request, url: str, text: str = "", good: bool = True) -> Response:
    """Lead to the page `url`, which shows `text` once."""
    answer = RedirectResponse(local(url), 303)
    if text:
        answer.set_cookie(toast_cookie(request), _kept(text[:TOAST], good), max_age=60, httponly=True, samesite="lax")
    return answer


def _kept(text: str, good: bool) -> str:
    """The message as a cookie; cut where other scripts than Latin make it larger than browsers keep."""
    while True:
        said = quote(json.dumps({"text": text, "good": good}, ensure_ascii=False), errors="replace")
        if len(said) <= COOKIE_LETTERS:
            return said
        text = text[: len(text) * 4 // 5].removesuffix("…") + "…"


def toast_cookie(request: Request) -> str:
    """The name of the cookie with the message. Cookies ignore ports, so each checkout on a host has its own."""
    return f"{COOKIE}-{checkout(console_of(request).root).id}"


def toast_of(request: Request) -> dict | None:
    """The message that the last POST left for this page."""
    try:
        found = json.loads(unquote(request.cookies.get(toast_cookie(request), "")))
        return {"text": one_line(str(found["text"]), TOAST), "good": bool(found["good"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def local(url: str) -> str:
    """`url` if it is a path of this server, else the first page: nobody is sent elsewhere."""
    try:
        parts = urlsplit(url)
    except ValueError:  # "//[": no address at all
        return "/"
    if parts.scheme or parts.netloc or not url.startswith("/") or url.startswith(("//", "/\\")):
        return "/"
    return url if url.isprintable() else "/"
