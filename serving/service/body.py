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


def _too_large(limit: int, found: str) -> Problem:
    return Problem("body_too_large", f"the body holds {found}, {limit:,} bytes is the limit", CLOSE)
