"""The console of a project, served to real clients.

with serving(root) as site:
    status, headers, text = site.get("/data")
    site.post("/runs/x/cancel", {"why": "..."}, page="/runs/x")   # with the token of that page
    visit(site.url + "/data", user=site.user)
"""

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from fastapi import APIRouter, FastAPI

from flows.console.app import create_app
from flows.console.jobs.store import Job, jobs, log_end, newest_job, read_job
from tasks.common.access import basic
from tasks.common.checkout import checkout


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@dataclass
class ServedConsole:
    """A running console, and its owner as a client."""

    url: str
    auth: str  # "user:password" of the checkout
    app: FastAPI

    @property
    def user(self) -> tuple[str, str]:
        """For `visit`."""
        name, _, password = self.auth.partition(":")
        return name, password

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str):
        """(status, headers, text), signed in unless `headers` say otherwise; redirects are not followed."""
        named = {"Authorization": basic(self.auth)} | {name.replace("_", "-"): text for name, text in headers.items()}
        request = urllib.request.Request(self.url + path, body, {name: text for name, text in named.items() if text})
        request.method = method
        try:
            answer: Any = urllib.request.build_opener(_Stay).open(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        return answer.status, answer.headers, answer.read().decode("utf-8", "replace")

    def get(self, path: str, **headers: str):
        """A page."""
        return self.ask(path, **headers)

    def post(self, path: str, fields: dict[str, Any], page: str = "/jobs-have-no-form", **headers: str):
        """Send a form with the token of a page, as a browser would."""
        found = re.search(r'name="token" value="([0-9a-f.]+)"', self.get(page, **headers)[2])
        body = urlencode({"token": found[1] if found else "", **fields}, doseq=True).encode()
        about = {"Content_Type": "application/x-www-form-urlencoded", "Origin": self.url} | headers
        return self.ask(path, "POST", body, **about)


@contextmanager
def serving(root: Path, evidently_port: int | None = None, *routers: APIRouter) -> Iterator[ServedConsole]:
    """Serve the console of the project at `root` on a port of its own, with further `routers`."""
    app = create_app(root, evidently_port)
    for router in routers:
        app.include_router(router)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=3, proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    limit = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < limit
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield ServedConsole(f"http://127.0.0.1:{port}", checkout(root).auth, app)
    finally:
        app.state.console.stopping.set()
        server.should_exit = True
        thread.join(60)


def job_ended(root: Path, slot: str, seconds: float = 180) -> Job:
    """The newest job of a slot, when it has ended; what it printed, if it does not end or died without a word."""
    limit = time.monotonic() + seconds
    while (job := newest_job(root, slot)) is None or job.runs:
        assert time.monotonic() < limit, f"{job or [one.slot for one in jobs(root)]}\n{job and log_end(root, job.id)}"
        time.sleep(0.1)
    job = read_job(root, job.id)  # it may have ended after it was read
    assert job.ended is not None, f"{job}\n{log_end(root, job.id)}"
    return job
