"""Clients that send images over HTTP and take times.

Each client keeps one connection. `closed_loop` sends the next image when the last one was answered, `open_loop` at a
fixed rate, whatever the service does.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

VERSION = re.compile(rb'"version":"([^"]*)"')
TRIES = 2  # a request whose connection broke is sent once more, as HTTP libraries do for safe requests


@dataclass
class Times:
    """What one load gave."""

    seconds: float = 0.0
    taken: list[float] = field(default_factory=list)  # seconds of each request answered 200
    statuses: Counter = field(default_factory=Counter)  # status -> requests; 0: no answer
    versions: Counter = field(default_factory=Counter)  # version -> answers
    broken: int = 0  # connections that ended within a request, which was sent again
    retry_after: int = 0  # refusals that say when to come back

    @property
    def failed(self) -> int:
        """Requests without an answer 200."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    @property
    def rate(self) -> float:
        """Answers 200 per second."""
        return len(self.taken) / self.seconds

    def quantile(self, q: float) -> float:
        """Milliseconds."""
        return 1e3 * float(np.quantile(self.taken, q))


def raw(path: str, token: str | None, kind: str = "application/octet-stream"):
    """A function that makes the bytes of one request from an image."""
    named = f"Authorization: Bearer {token}\r\n" if token else ""

    def make(image: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{named}Content-Type: {kind}\r\n"
        return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image

    return make


def multipart(path: str, name: str):
    """As `raw`, for services that take files."""

    def make(image: bytes) -> bytes:
        before = f'--b0\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n'
        kind = b"png" if image.startswith(b"\x89PNG") else b"jpeg"
        body = before.encode() + b"Content-Type: image/" + kind + b"\r\n\r\n" + image + b"\r\n--b0--\r\n"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b0\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    return make


def closed_loop(url: str, requests: Sequence[bytes], clients: int, seconds: float, during=None) -> Times:
    """Let `clients` connections ask for `seconds`. during: a coroutine function that runs meanwhile."""

    async def run() -> Times:
        found, end, began = Times(), time.perf_counter() + seconds, time.perf_counter()

        async def client(number: int) -> None:
            connection, at = Connection(url), number
            while time.perf_counter() < end:
                await connection.ask(requests[at % len(requests)], found)
                at += clients
            connection.close()

        jobs = [client(number) for number in range(clients)]
        await asyncio.gather(*jobs, *([during()] if during else []))
        found.seconds = time.perf_counter() - began
        return found

    return asyncio.run(run())


def open_loop(url: str, requests: Sequence[bytes], rate: float, seconds: float, connections: int, during=None) -> Times:
    """Send `rate` requests a second over at most `connections`; what finds none free counts as status -1."""

    async def run() -> Times:
        found, free, tasks = Times(), [Connection(url) for _ in range(connections)], set()
        began = time.perf_counter()
        watch = asyncio.create_task(during()) if during else None

        async def one(connection: Connection, request: bytes) -> None:
            await connection.ask(request, found)
            free.append(connection)

        sent = 0
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * rate:
                if free:
                    task = asyncio.create_task(one(free.pop(), requests[sent % len(requests)]))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    found.statuses[-1] += 1
                sent += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        if watch:
            watch.cancel()
        found.seconds = time.perf_counter() - began
        return found

    return asyncio.run(run())


class Connection:
    """One kept connection."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._place = (parts.hostname, parts.port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, found: Times) -> None:
        """Send `request`, wait for the answer and note it in `found`."""
        began = time.perf_counter()
        status = 0
        for _ in range(TRIES):
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_connection(*self._place)
                reader, writer = self._streams
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                body = await reader.readexactly(length)
                status = int(head.split(" ", 2)[1])
                if version := VERSION.search(body):
                    found.versions[version[1].decode()] += 1
                found.retry_after += "\r\nretry-after:" in head
                if "\r\nconnection: close" in head:
                    self.close()
                break
            except (OSError, asyncio.IncompleteReadError):
                found.broken += 1
                self.close()
        found.statuses[status] += 1
        if status == 200:
            found.taken.append(time.perf_counter() - began)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
