"""The client of Prefect's REST API over a real socket: it retries busy servers and reports other errors at once."""

import pytest

from flows.server import api
from flows.server.api import TRIES, Api
from tasks.common.errors import EvergreenError
from tests.support.receiver import Receiver, receiver


def api_at(server: Receiver) -> Api:
    return Api(f"http://127.0.0.1:{server.server_address[1]}/api", "someone:hush")


@pytest.mark.parametrize("asked", [None, "0", "Sun, 22 Nov 2026 07:28:00 GMT"])
def test_a_request_to_a_busy_server_is_retried_and_counts_once(asked, monkeypatch):
    monkeypatch.setattr(api, "LONGEST_WAIT", 0.01)
    with receiver() as server:
        server.before = [(503, asked), (429, asked)]
        assert api_at(server).post("/events", {"a": 1}) is None
        assert server.got == [{"a": 1}]
        assert server.before == []


def test_a_server_that_stays_busy_and_any_other_refusal_are_errors(monkeypatch):
    monkeypatch.setattr(api, "LONGEST_WAIT", 0.01)
    with receiver() as server:
        server.before = [(503, None)] * TRIES
        with pytest.raises(EvergreenError, match="answered 503"):
            api_at(server).post("/events", {})
        assert server.before == []
        server.before = [(404, None)]
        with pytest.raises(EvergreenError, match="answered 404"):
            api_at(server).post("/events", {})
        assert server.got == []


def test_the_client_waits_as_long_as_the_server_asks_within_a_limit():
    assert api._wait("2", 1) == 2
    assert api._wait("3600", 1) == api._wait(None, 30) == api.LONGEST_WAIT
    assert api._wait(None, 1) < api._wait(None, 2)


def test_this_machine_is_asked_directly_whatever_the_environment_says_of_proxies(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with receiver() as server:
        api_at(server).post("/events", {"a": 1})
        assert server.got == [{"a": 1}]


def test_a_secret_is_not_in_what_an_api_says_of_itself():
    assert "hush" not in repr(Api("http://127.0.0.1:1/api", "someone:hush"))
