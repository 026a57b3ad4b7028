"""The benchmark of foreign requests notices an open server, and a quick pass finds none."""

from fastapi import FastAPI

from benchmarks import foreign_requests, record
from benchmarks.foreign_requests import Served, accepted, attempts, routes_of, serving


def test_an_open_server_is_noticed_at_every_attempt():
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/secrets/{name}", lambda name: name, methods=["GET", "POST"])
    assert sorted(routes_of(app)) == [(method, f"/secrets/{foreign_requests._ID}") for method in ("GET", "POST")]
    with serving(app) as port:
        served = Served("open", port, [])
        found = [accepted(served, attempt, "POST", "/secrets/a") for attempt in attempts()]
    assert None not in found


def test_a_quick_pass_of_foreign_requests(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    foreign_requests.main(["--quick"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "foreign_requests_accepted" in line)
    assert "yes" in line
    assert not (tmp_path / "kept").exists()
