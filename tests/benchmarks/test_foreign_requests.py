"""The benchmark of foreign requests notices an open server, and a quick pass finds none."""

import subprocess
import sys

from fastapi import FastAPI

from benchmarks.foreign_requests import accepted, attempts
from benchmarks.foreign_servers import SOME_ID, Served, routes_of, serving
from benchmarks.scratch import ROOT


def test_an_open_server_is_noticed_at_every_attempt():
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/secrets/{name}", lambda name: name, methods=["GET", "POST"])
    assert sorted(routes_of(app)) == [(method, f"/secrets/{SOME_ID}") for method in ("GET", "POST")]
    with serving(app) as port:
        served = Served("open", port, [])
        found = [accepted(served, attempt, "POST", "/secrets/a") for attempt in attempts()]
    assert None not in found


def test_a_quick_pass_of_foreign_requests():
    # in a process of its own: Prefect reads its settings once, when it is imported
    command = [sys.executable, "-m", "benchmarks.foreign_requests", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    (line,) = (line for line in done.stdout.splitlines() if "foreign_requests_accepted" in line)
    assert "yes" in line, done.stderr[-2000:]
    assert "not recorded" in done.stdout
