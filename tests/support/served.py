"""A real `evergreen serve` in a process of its own, and a client of it."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.common.checkout import checkout
from tests.support.checkout import ROOT
from tests.support.waiting import until


class Served:
    """A running service."""

    def __init__(self, root: Path, process: subprocess.Popen, at: tuple[str, int], log: Path):
        self.root, self.process, self.at, self.log = root, process, at, log
        self.headers = {"Authorization": f"Bearer {checkout(root).secret}"}

    def about(self) -> dict[str, Any]:
        """What service.json says."""
        return json.loads((self.root / ".evergreen/predictor/service.json").read_text())

    def pids(self) -> list[int]:
        """The workers that are ready."""
        return [worker["pid"] for worker in self.about()["workers"] if worker["ready"]]

    def get(self, path: str, method: str = "GET", body: bytes | None = None, **headers) -> tuple[int, Any]:
        """(status, JSON) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.at, timeout=60)
        try:
            return ask(connection, path, method, body, self.headers | headers)
        finally:
            connection.close()

    def predict(self, image: bytes, key: str = "") -> dict[str, Any]:
        """The answer to one image."""
        status, found = self.get(f"/predict?key={key}", "POST", image, **{"Content-Type": "image/png"})
        assert status == 200, found
        return found

    @contextmanager
    def traffic(self, image: bytes, clients: int = 3) -> Iterator[list[tuple[int, Any]]]:
        """Clients that ask on connections that stay open; their answers, and their errors as 0.

        The first asks without a pause, so that a request is always on its way. The others leave the machine to what is
        tested meanwhile.
        """
        stop, got = threading.Event(), []

        def run(pause: float) -> None:
            connection = http.client.HTTPConnection(*self.at, timeout=60)
            headers = self.headers | {"Content-Type": "image/png"}
            while not stop.is_set():
                try:
                    got.append(ask(connection, "/predict", "POST", image, headers))
                except (OSError, http.client.HTTPException) as error:
                    got.append((0, repr(error)))
                    connection.close()
                stop.wait(pause)

        threads = [threading.Thread(target=run, args=(0.05 if number else 0,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(got) > 5)
            yield got
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def ask(connection, path: str, method: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
    """(status, JSON) of a request."""
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    return reply.status, json.loads(content)


@contextmanager
def served(root: Path, *options: str, where: tuple[str, ...] = ("--port", "0")) -> Iterator[Served]:
    """`evergreen serve` on a free port; where=(): on the one of params.yaml."""
    log = root.parent / "serve.log"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", *where, *options],
            cwd=root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:

        def address() -> re.Match | None:
            assert process.poll() is None, log.read_text()
            return re.search(r"answers at http://([\d.]+):(\d+)/", log.read_text())

        host, port = until(address).groups()
        yield Served(root, process, (host, int(port)), log)
    finally:
        process.terminate()
        process.wait(60)
