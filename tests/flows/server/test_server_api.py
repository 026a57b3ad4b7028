"""The client of Prefect's REST API over a real socket: it retries busy servers and reports other errors at once."""

import pytest

from flows.server import api
from flows.server.api import TRIES, post
from tasks.common.errors import EvergreenError
from tests.support.receiver import Receiver, receiver


def url(server: Receiver) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/api"


@pytest.mark.parametrize("asked", [None, "0", "Sun, 22 Nov 2026 07:28:00 GMT"])
def test_a_request_to_a_busy_server_is_retried_and_counts_once(asked, monkeypatch):
    monkeypatch.setattr(api, "LONGEST_WAIT", 0.01)
    with receiver() as server:
        server.before = [(503, asked), (429, asked)]
        assert post(f"{url(server)}/events", {"a": 1}) is None
        assert server.got == [{"a": 1}]
        assert server.before == []


def test_a_server_that_stays_busy_and_any_other_refusal_are_errors(monkeypatch):
    monkeypatch.setattr(api, "LONGEST_WAIT", 0.01)
    with receiver() as server:
        server.before = [(503, None)] * TRIES
        with pytest.raises(EvergreenError, match="answered 503"):
            post(f"{url(server)}/events", {})
        assert server.before == []
        server.before = [(404, None)]
        with pytest.raises(EvergreenError, match="answered 404"):
            post(f"{url(server)}/events", {})
        assert server.got == []


def test_the_client_waits_as_long_as_the_server_asks_within_a_limit():
    assert api._wait("2", 1) == 2
    assert api._wait("3600", 1) == api._wait(None, 30) == api.LONGEST_WAIT
    assert api._wait(None, 1) < api._wait(None, 2)
