"""Bytes on the wire that no honest client sends: two lengths, endless heads, requests inside of bodies."""

import json
import socket
from contextlib import suppress

import pytest

from serving.service import protocol, reading
from serving.service.app import create_app
from serving.service.limits import Admission
from serving.service.problems import Problem
from serving.service.settings import Settings
from tests.support.service import Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, image_bytes

SETTINGS = Settings(max_bytes=200_000, max_request_bytes=1 << 20, queue_bytes=1 << 20)
(PHOTO,) = image_bytes(CLASSES[0], 1)


@pytest.fixture(scope="module")
def client():
    with served(create_app(OneModel(small_model()), Kept(), SETTINGS)) as client:
        yield client


def raw(client, *parts: bytes) -> bytes:
    """All that the service sends to a client that sends `parts` and then waits for the end of the connection."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as wire:
        got = b""
        with suppress(ConnectionError):  # it was closed before everything was read
            for part in parts:
                wire.sendall(part)
            while data := wire.recv(1 << 16):
                got += data
        return got


def post(body: bytes, *headers: str, query: str = "") -> bytes:
    head = "\r\n".join([f"POST /predict{query} HTTP/1.1", "Host: a", "Content-Type: image/png", *headers])
    return f"{head}\r\n\r\n".encode() + body


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PHOTO), PHOTO)
INSIDE = b"GET /model HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        post(CHUNKED, f"Content-Length: {len(CHUNKED)}", "Transfer-Encoding: chunked"),
        post(CHUNKED, "Transfer-Encoding: chunked", "Content-Length: 3"),
        post(PHOTO, f"Content-Length: {len(PHOTO)}", "Content-Length: 3"),
        post(PHOTO, f"Content-Length: {len(PHOTO)}, 3"),
        post(PHOTO, f"Content-Length: +{len(PHOTO)}"),
        post(CHUNKED, "Transfer-Encoding: xchunked"),
        post(CHUNKED, "Transfer-Encoding: chunked, identity"),
        post(b"0x3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post(PHOTO, f"Content-Length : {len(PHOTO)}"),
        post(PHOTO, f"X: 1\r\n Content-Length: {len(PHOTO)}"),
    ],
)
def test_a_request_whose_length_can_be_read_in_two_ways_gets_one_refusal_and_no_more(client, sent):
    got = raw(client, sent + INSIDE)
    assert got.startswith(b"HTTP/1.1 400"), got[:200]
    assert got.count(b"HTTP/1.1") == 1
    assert b"connection: close" in got


def test_requests_sent_at_once_are_answered_in_their_order(client):
    length = f"Content-Length: {len(PHOTO)}"
    asked = [post(PHOTO, length, query=f"?key={key}") for key in range(4)]
    got = raw(client, b"".join(asked[:3]) + asked[3].replace(b"Host: a", b"Host: a\r\nConnection: close"))
    answers = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert [one["key"] for one in answers] == ["0", "1", "2", "3"]


def test_a_request_inside_of_a_body_that_was_refused_is_not_one(client):
    got = raw(client, post(INSIDE * 10, "Content-Length: 640000"))
    assert got.startswith(b"HTTP/1.1 413")
    assert got.count(b"HTTP/1.1") == 1


def test_a_head_or_trailers_without_end_are_refused(client, monkeypatch):
    assert raw(client, b"GET /health HTTP/1.1\r\nX: ", b"a" * 66_000).startswith(b"HTTP/1.1 431")
    assert raw(client, b"GET /health HTTP/1.1\r\n", b"X: a\r\n" * 11_000).startswith(b"HTTP/1.1 431")
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    endless = post(b"5\r\nhello\r\n0\r\n", "Transfer-Encoding: chunked")
    assert b"HTTP/1.1 200" not in raw(client, endless, *[b"X: a\r\n" * 11_000] * 2)
    assert client.get("/health", headers={"x-long": "a" * 50_000}).status_code == 200


def test_a_head_that_comes_too_slowly_ends_the_connection(client, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert raw(client, b"GET /health HTTP/1.1\r\nX: ").startswith(b"HTTP/1.1 408")
    assert raw(client) == b""


def test_the_rest_of_a_body_that_was_refused_does_not_keep_the_connection(client, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as wire:
        wire.sendall(post(b"a", "Content-Length: 1000", query="?nothing=1"))
        assert wire.recv(1 << 16).startswith(b"HTTP/1.1 400")
        with suppress(ConnectionError):
            wire.sendall(b"a")
            assert wire.recv(1 << 16) == b""


def test_json_in_a_field_of_a_form_has_a_limit_of_its_own(client, monkeypatch):
    monkeypatch.setattr(reading, "FIELD_BYTES", 1000)
    for count, status in ((1, 400), (2000, 413)):
        about = "[" + "[]," * count + "[]]"
        sent = client.post("/predict", files=[("images", PHOTO)], data={"about": about})
        assert sent.status_code == status, sent.json()


def test_json_that_is_read_keeps_no_other_request_out():
    admission = Admission(SETTINGS)
    with admission.body(10), admission.parsed(SETTINGS.queue_bytes), admission.body(1000):
        with pytest.raises(Problem, match="is read, and 1 are needed"), admission.parsed(1):
            pass
        assert admission.bytes == 1010
    assert (admission.bytes, admission.parsing) == (0, 0)


def test_json_that_becomes_much_larger_in_memory_is_refused_before_it_is_read(client):
    for body in (b"[" + b"[]," * 200_000 + b"[]]", b"[" + b"1," * 300_000 + b"1]"):
        sent = client.post("/predict", content=body, headers={"content-type": "application/json"})
        assert (sent.status_code, sent.json()["reason"]) == (413, "body_too_large")
        assert "so many values" in sent.json()["detail"]
