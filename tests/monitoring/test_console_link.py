"""Links to the console lead to where people reach it, from every alert."""

import platform
from pathlib import Path
from typing import get_args

import pytest

from monitoring import alerts
from monitoring.console_link import console_link, console_started
from tasks.common.checkout import checkout
from tasks.common.errors import ParamsError
from tasks.common.files import write_json
from tasks.common.params import AlertsParams, load_params
from tests.support.checkout import ROOT
from tests.support.receiver import receiver

EVENTS = get_args(get_args(AlertsParams.model_fields["events"].annotation)[0])


def project(root: Path, **serve: str) -> Path:
    text = (ROOT / "params.yaml").read_text()
    for key, value in serve.items():
        before = next(line for line in text.splitlines() if line.startswith(f"  {key}:"))
        text = text.replace(before, f"  {key}: {value}")
    (root / "params.yaml").write_text(text)
    return root


def started(root: Path, port: int, checkout_id: str) -> None:
    pages = {"pid": 1, "created": "x", "url": f"http://127.0.0.1:{port}", "restarts": 0}
    about = {"pid": 1, "since": "2026-11-20T00:00:00+00:00", "checkout": checkout_id, "services": {"pages": pages}}
    write_json(root / ".evergreen/services.json", about)


@pytest.mark.parametrize(
    ("serve", "address"),
    [
        ({}, "http://127.0.0.1:4280"),
        ({"host": "0.0.0.0", "port": "8000"}, f"http://{platform.node()}:8000"),
        ({"host": "'::'"}, f"http://{platform.node()}:4280"),
        ({"host": "192.0.2.7"}, "http://192.0.2.7:4280"),
        ({"host": "'2001:db8::1'"}, "http://[2001:db8::1]:4280"),
        ({"public_url": "https://evergreen.example.com/", "host": "0.0.0.0"}, "https://evergreen.example.com"),
    ],
)
def test_links_name_the_address_at_which_people_reach_the_console(serve, address, tmp_path):
    assert console_link(project(tmp_path, **serve), "/releases/r-1") == f"{address}/releases/r-1"


def test_a_link_has_the_port_that_was_free_and_not_that_of_the_project_it_was_copied_from(tmp_path):
    root = project(tmp_path)
    assert not console_started(root)
    started(root, 4999, checkout(root).id)
    assert console_started(root)
    assert console_link(root) == "http://127.0.0.1:4999/"
    started(root, 4998, "0123456789abcdef")
    assert console_link(root) == "http://127.0.0.1:4280/"


@pytest.mark.parametrize(
    "url",
    [
        "evergreen.example.com",
        "ftp://x",
        "http://x:port",
        "http://a@x",
        "http://x/y",
        "http://x?y",
        "http://",
        "'http://x y'",
    ],
)
def test_a_public_url_that_is_no_address_is_refused(url, tmp_path):
    with pytest.raises(ParamsError, match="public_url"):
        load_params(project(tmp_path, public_url=url) / "params.yaml")


def test_each_event_has_a_link_to_the_page_with_its_action(tmp_path, monkeypatch):
    root = project(tmp_path, public_url="https://evergreen.example.com")
    (root / "dvc.yaml").write_text("stages: {}\n")
    with receiver() as other_end:
        monkeypatch.setenv("EVERGREEN_ALERTS", other_end.address)
        for event in EVENTS:
            alerts.alert(root, event, "Something happened.")
        alerts.alert(root, "held", "A run waits.", page="/releases/r-1")
        said = [alert["message"].splitlines()[-1] for alert in other_end.got]
    shown = [event for event in EVENTS if event in AlertsParams().events]
    assert said == [
        *(f"Open: https://evergreen.example.com{alerts.PAGES[event]}" for event in shown),
        "Open: https://evergreen.example.com/releases/r-1",
    ]
