"""Read the body of a request within bounds of size and time.

A client that announces a body and sends half of it would hold the connection, and a worker behind it, forever.
"""

import asyncio
from collections.abc import AsyncIterator

SECONDS = 10.0  # for a whole body of a few kilobytes


class BodyRefused(Exception):
    """The body is too large (status 413) or did not come in time (408)."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


async def read_body(parts: AsyncIterator[bytes], largest: int, seconds: float | None = None) -> bytes:
    """The body that comes in `parts`. Raises BodyRefused beyond `largest` bytes, or `seconds` (default: SECONDS)."""
    seconds, body = SECONDS if seconds is None else seconds, b""
    try:
        async with asyncio.timeout(seconds):
            async for part in parts:
                body += part
                if len(body) > largest:
                    raise BodyRefused(413, f"more than {largest} bytes")
    except TimeoutError:
        raise BodyRefused(408, f"the body did not come within {seconds:g} s") from None
    return body
