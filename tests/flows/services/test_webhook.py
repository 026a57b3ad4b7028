"""The signed webhook: each message signed with the key starts one retraining, and nothing else starts any."""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import webhooks

from flows.services import webhook
from tasks.common.checkout import known_checkout
from tasks.common.errors import EvergreenError
from tests.support.checkout import ROOT

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
BODY = json.dumps({"reason": "camera 3 was replaced"}).encode()


class Events(ThreadingHTTPServer):
    """Takes what is sent to /api/events, as Prefect's server does; test_services.py uses the real one."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got, self.status = [], 204


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status == 204:
            self.server.got += body
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def events(monkeypatch):
    server = Events()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_address[1]}/api")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(tmp_path, monkeypatch, events) -> TestClient:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv("EVERGREEN_WEBHOOK_SECRET", SECRET)
    app = FastAPI()
    app.include_router(webhook.router(tmp_path))
    return TestClient(app)


class At(datetime):
    """datetime whose now() is fixed."""

    def __new__(cls, seconds):
        return type("Fixed", (datetime,), {"now": classmethod(lambda _, tz=None: datetime.fromtimestamp(seconds, tz))})


def signed(id_: str = "msg-1", body: bytes = BODY, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """Headers as the Standard Webhooks specification has them, made without the code under test."""
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{id_}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": id_,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def send(client: TestClient, headers: dict[str, str], body: bytes = BODY) -> int:
    return client.post("/hooks/retrain", content=body, headers=headers).status_code


def test_a_signed_message_starts_one_retraining_with_its_reason(client, events, tmp_path):
    assert send(client, signed()) == 200
    (event,) = events.got
    assert event["event"] == "evergreen.webhook.retrain"
    assert event["resource"] == {"prefect.resource.id": f"evergreen.{known_checkout(tmp_path).id}"}
    assert event["payload"]["reason"] == "webhook: camera 3 was replaced"


def test_the_specifications_own_example_verifies(monkeypatch):
    """Example of the Standard Webhooks specification's reference libraries."""
    monkeypatch.setattr(webhooks, "datetime", At(1614265330))
    key = webhook.secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert webhook.verified(key, headers, b'{"test": 2432232314}') == headers["webhook-id"]


def test_a_secret_without_prefix_is_the_key_itself():
    """Secrets that were set before the specification's format was known keep working."""
    key, stamp = b"an old secret", str(int(time.time()))
    mac = base64.b64encode(hmac.new(key, b"m." + stamp.encode() + b"." + BODY, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "m", "webhook-timestamp": stamp, "webhook-signature": f"v1,{mac}"}
    assert webhook.verified(webhook.secret_key("an old secret"), headers, BODY) == "m"


def test_a_message_can_be_used_once_even_after_a_restart(client, events, tmp_path):
    headers = signed()
    assert send(client, headers) == 200
    assert send(client, headers) == 409
    app = FastAPI()
    app.include_router(webhook.router(tmp_path))
    assert send(TestClient(app), headers) == 409
    assert len(events.got) == 1


def test_one_of_many_concurrent_copies_is_accepted(client, events):
    headers = signed()
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: send(client, headers), range(16)))
    assert sorted(codes) == [200] + [409] * 15
    assert len(events.got) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg-2"},
        {"webhook-timestamp": str(int(time.time()) + 7)},
        {"webhook-signature": "v1," + base64.b64encode(b"0" * 32).decode()},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-id": ""},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "-5"},
        {"webhook-id": "a.b"},
        {"webhook-id": "x" * 300},
        {"webhook-timestamp": "nan"},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,?"},
    ],
)
def test_a_tampered_message_is_refused(client, events, change):
    assert send(client, signed() | change) == 401
    assert events.got == []


def test_another_body_or_another_key_is_refused(client, events):
    assert send(client, signed(), body=BODY + b" ") == 401
    assert send(client, signed(secret="whsec_" + base64.b64encode(b"x" * 32).decode())) == 401
    assert events.got == []


@pytest.mark.parametrize(("seconds", "code"), [(-290, 200), (-310, 401), (290, 200), (310, 401)])
def test_five_minutes_of_clock_difference_are_fine_and_no_more(client, seconds, code):
    assert send(client, signed(at=time.time() + seconds)) == code


def test_either_signature_is_enough_while_a_key_is_replaced(client):
    good = signed()
    old = signed(secret="whsec_" + base64.b64encode(b"x" * 32).decode())["webhook-signature"]
    assert send(client, good | {"webhook-signature": f"{old} {good['webhook-signature']}"}) == 200


def test_the_message_may_be_sent_again_if_prefect_did_not_answer(client, events):
    headers = signed()
    events.status = 500
    assert send(client, headers) == 503
    events.status = 204
    assert send(client, headers) == 200
    assert send(client, headers) == 409


def test_the_webhook_is_off_without_a_key(client, monkeypatch):
    monkeypatch.delenv("EVERGREEN_WEBHOOK_SECRET")
    assert send(client, signed()) == 503


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"reason": 3}', b'{"reason": "  "}', b"[" * 50_000])
def test_a_signed_message_without_a_reason_is_refused(client, events, body):
    assert send(client, signed(body=body), body) == 422
    assert events.got == []


def test_a_signed_body_that_is_not_utf_8_is_refused(client, events):
    assert send(client, signed(body=b"\xff"), b"\xff") == 401
    assert events.got == []


def test_a_large_body_is_refused_before_it_is_read_completely(client):
    body = b"x" * (webhook.LARGEST + 1)
    assert send(client, signed(body=body), body) == 413


def test_used_messages_are_forgotten_once_they_are_too_old(tmp_path):
    now = time.time()
    first = webhook.claim(tmp_path, "a", now)
    assert webhook.claim(tmp_path, "a", now) is None
    os.utime(first, (now - 1201, now - 1201))
    assert webhook.claim(tmp_path, "b", now) is not None
    assert not first.exists()


@given(st.text(max_size=700))
def test_a_reason_is_one_short_line_without_template_syntax(text):
    body = json.dumps({"reason": text}).encode()
    try:
        reason = webhook.reason_of(body)
    except ValueError:
        assert not text.strip()
        return
    assert len(reason) <= 500
    assert reason.isprintable()
    assert "{{" not in reason
    assert "{%" not in reason


def test_a_broken_secret_says_what_is_wrong_and_not_what_it_is():
    with pytest.raises(EvergreenError, match="not base64") as error:
        webhook.secret_key("whsec_***hush***")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_***hush***"])
def test_an_unusable_secret_turns_the_webhook_off(client, events, monkeypatch, secret):
    monkeypatch.setenv("EVERGREEN_WEBHOOK_SECRET", secret)
    answer = client.post("/hooks/retrain", content=BODY, headers=signed())
    assert answer.status_code == 503
    assert "the webhook is off" in answer.json()["detail"]
    assert "hush" not in answer.text
    assert events.got == []
