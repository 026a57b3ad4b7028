"""Read a request's body within limits, before anything is made of it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive

from serving.service.limits import Admission
from serving.service.problems import Problem
from serving.service.settings import Settings

CLOSE = {"connection": "close"}  # the rest of the body is not read
LARGE = 1 << 18  # bytes of a body that is parsed outside the event loop
VALUE, CONTAINER = 32, 64  # bytes of memory that a value, and a list or object of JSON takes

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


def reserve(headers: Headers, admission: Admission, limit: int) -> AbstractContextManager[None]:
    """Room for the body that `headers` announce. Raises Problem if it is over `limit` bytes or is encoded."""
    if (encoding := headers.get("content-encoding", "identity")).lower() != "identity":
        raise Problem("unsupported_media_type", f"Content-Encoding {encoding}: send the bytes as they are", CLOSE)
    length = headers.get("content-length")
    if length is not None and "transfer-encoding" in headers:  # a proxy may have believed the other one
        raise Problem("bad_request", "Content-Length and Transfer-Encoding: expected one of them", CLOSE)
    if length is None:
        return admission.body(limit if "transfer-encoding" in headers else 0)
    if not length.isdecimal():
        raise Problem("bad_request", f"Content-Length {length!r}: expected a number of bytes", CLOSE)
    if int(length) > limit:
        raise _too_large(limit, f"{int(length):,} bytes")
    return admission.body(int(length))


async def read_body(receive: Receive, limit: int, settings: Settings) -> bytes:
    """The whole body. Raises Problem if it is over `limit` bytes or takes too long, ClientGone."""
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(settings.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                size, more = size + len(parts[-1]), message.get("more_body", False)
                if size > limit:
                    raise _too_large(limit, "more")
    except TimeoutError:
        raise Problem("slow_body", f"the body did not come within {settings.body_seconds:g} s", CLOSE) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def parse_json_body(body: bytes, admission: Admission, parse: Callable[[], T]) -> T:
    """`parse()`, which reads `body` as JSON; a large one outside the event loop, and within the limit of memory.

    Twenty bytes of memory for each byte of JSON are easy to ask for: "[],[],[],...". Raises Problem, and what `parse`
    raises.
    """
    if len(body) <= LARGE:
        return parse()
    with admission.parsed(await asyncio.to_thread(parsed_size, body)):
        return await asyncio.to_thread(parse)


def parsed_size(body: bytes) -> int:
    """About how many bytes of memory the JSON in `body` takes once it is parsed."""
    return len(body) + VALUE * body.count(b",") + CONTAINER * (body.count(b"[") + body.count(b"{"))


def _too_large(limit: int, found: str) -> Problem:
    return Problem("body_too_large", f"the body holds {found}, {limit:,} bytes is the limit", CLOSE)
