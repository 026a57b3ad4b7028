"""Read a request's body within limits, before anything is made of it."""

import asyncio
from contextlib import AbstractContextManager

from starlette.datastructures import Headers
from starlette.types import Receive

from serving.service.limits import Admission
from serving.service.problems import Problem
from serving.service.settings import Settings

CLOSE = {"connection": "close"}  # the rest of the body is not read


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


def reserve(headers: Headers, admission: Admission, limit: int) -> AbstractContextManager[None]:
    """Room for the body that `headers` announce. Raises Problem if it is over `limit` bytes or is encoded."""
    if (encoding := headers.get("content-encoding", "identity")).lower() != "identity":
        raise Problem("unsupported_media_type", f"Content-Encoding {encoding}: send the bytes as they are", CLOSE)
    length = headers.get("content-length")
    if length is None:
        return admission.body(limit if "transfer-encoding" in headers else 0)
    if not length.isdecimal():
        raise Problem("bad_request", f"Content-Length {length!r}: expected a number of bytes", CLOSE)
    if int(length) > limit:
        raise _too_large(limit, f"{int(length):,} bytes")
    return admission.body(int(length))


async def read_body(receive: Receive, limit: int, settings: Settings) -> bytes:
    """The whole body. Raises Problem if it is over `limit` bytes or takes too long, ClientGone."""
    message = await _next(receive, settings.body_seconds)
    if not message.get("more_body"):
        body = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit, f"{len(body):,} bytes")
        return body
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    try:
        async with asyncio.timeout(settings.body_seconds):
            while message.get("more_body"):
                message = await _next(receive, None)
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit, "more")
    except TimeoutError:
        raise _slow(settings) from None
    return b"".join(parts)


async def _next(receive: Receive, seconds: float | None) -> dict:
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
    except TimeoutError:
        raise Problem("slow_body", f"nothing of the body came within {seconds:g} s", CLOSE) from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _slow(settings: Settings) -> Problem:
    return Problem("slow_body", f"the body did not come within {settings.body_seconds:g} s", CLOSE)


def _too_large(limit: int, found: str) -> Problem:
    return Problem("body_too_large", f"the body holds {found}, {limit:,} bytes is the limit", CLOSE)
