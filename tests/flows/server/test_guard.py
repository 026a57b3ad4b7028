"""Who the guard in front of the Prefect server lets in; test_services.py tries the same on a real server."""

import base64
import json
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from fastapi.websockets import WebSocketDisconnect

from flows.server.guard import Guard
from tasks.common.access import Access
from tasks.common.tickets import make_ticket

AUTH, HERE = "evergreen:s3cret", "127.0.0.1:4200"
NETWORK = Access(AUTH, "0.0.0.0", ("prefect.example.org",), "people's")


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def behind(access: Access, host: str = HERE, root: Path = Path("nowhere")) -> TestClient:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
    async def everything(path: str, request: Request) -> dict:
        return {"path": path, "authorization": request.headers.get("authorization")}

    @app.websocket("/api/events/in")
    async def events(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(await websocket.receive_json())

    return TestClient(Guard(app, access, root), base_url=f"http://{host}", headers={"host": host})


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/api/health", {}, 200),
        ("GET", "/", {}, 200),
        ("GET", "/assets/index.js", {"sec-fetch-site": "cross-site"}, 200),
        ("POST", "/", basic(AUTH), 405),
        ("POST", "/api/health", {}, 401),
        ("GET", "/api/version", {}, 401),
        ("GET", "/api", {}, 401),
        ("GET", "/docs", {}, 401),
        ("GET", "/docs/oauth2-redirect", {}, 401),
        ("GET", "/openapi.json", {}, 401),
        ("POST", "/api/deployments/", basic("evergreen:wrong"), 401),
        ("POST", "/api/deployments/", basic("s3cret"), 401),
        ("POST", "/api/deployments/", {"authorization": "Basic !"}, 401),
        ("POST", "/api/deployments/", {"authorization": "Bearer s3cret"}, 401),
        ("POST", "/api/deployments/", basic(AUTH), 200),
        ("POST", "/api/deployments/", basic(AUTH) | {"origin": f"http://{HERE}"}, 200),
        ("POST", "/api/deployments/", basic(AUTH) | {"origin": "https://evil.example"}, 403),
        ("POST", "/api/deployments/", basic(AUTH) | {"origin": "http://127.0.0.1:4280"}, 403),
        ("POST", "/api/deployments/", basic(AUTH) | {"origin": "null"}, 403),
        ("POST", "/api/deployments/", basic(AUTH) | {"origin": "http://["}, 403),
        ("GET", "/api/version", basic(AUTH) | {"sec-fetch-site": "cross-site"}, 403),
        ("GET", "/api/version", basic(AUTH) | {"sec-fetch-site": "same-site"}, 403),
        ("DELETE", "/api/deployments/1", basic(AUTH) | {"sec-fetch-site": "same-origin"}, 200),
        ("GET", "/api/version", basic(AUTH) | {"host": "evil.example:4200"}, 421),
        ("GET", "/api/health", {"host": "evil.example"}, 421),
        ("GET", "/", {"host": "127.0.0.1.evil.example"}, 421),
        ("GET", "/", {"host": "["}, 421),
        ("GET", "/", {"host": "10.0.0.1:4200"}, 421),
        ("GET", "/api/version", basic(AUTH) | {"host": "localhost:4200"}, 200),
        ("GET", "/api/version", basic(AUTH) | {"host": "[::1]:4200"}, 200),
    ],
)
def test_on_loopback(method, path, headers, status):
    assert behind(Access(AUTH)).request(method, path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.0.2.7:4200", 200),
        ("[2001:db8::1]:4200", 200),
        ("prefect.example.org", 200),
        ("Prefect.Example.org.", 200),
        ("localhost", 200),
        ("evil.example", 421),
        ("prefect.example.org.evil.example", 421),
    ],
)
def test_on_a_network_addresses_and_named_hosts_are_known(host, status):
    client = behind(NETWORK, host)
    assert client.get("/api/version", headers=basic(AUTH)).status_code == status
    assert client.get("/").status_code == status


@pytest.mark.parametrize("sent", [AUTH, "anyone:people's"])
def test_people_may_use_the_password_and_prefect_always_gets_the_secret(sent):
    client = behind(NETWORK)
    assert client.get("/api/version", headers=basic(sent)).json()["authorization"] == basic(AUTH)["authorization"]
    with client.websocket_connect("/api/events/in") as socket:
        socket.send_text(json.dumps({"type": "auth", "token": sent}))
        assert socket.receive_json() == {"type": "auth", "token": AUTH}


def test_without_a_password_an_empty_one_opens_nothing():
    assert behind(Access(AUTH)).get("/api/version", headers=basic("anyone:")).status_code == 401
    assert not Access(AUTH, password=None).opens("")


def test_a_socket_with_a_wrong_token_is_left_to_prefect_and_one_from_another_page_is_closed():
    client = behind(NETWORK)
    with client.websocket_connect("/api/events/in") as socket:
        socket.send_text('{"type": "auth", "token": "anyone:\\ud800"}')
        assert socket.receive_json()["token"] == "anyone:\ud800"
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/events/in", headers=headers):
            pass


def test_a_ticket_of_the_console_signs_in_once_and_another_does_not(tmp_path):
    client = behind(Access(AUTH), root=tmp_path)
    ticket = make_ticket(tmp_path, "prefect")
    page = client.get(f"/evergreen/sign-in?ticket={ticket}&to=/runs?a=1")
    assert 'data-to="/runs?a=1"' in page.text
    assert page.status_code == 200
    assert f'data-value="{AUTH}"' in page.text
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    for elsewhere in ("//evil.example", "http://evil.example", "/\\evil.example", "javascript:x"):
        page = client.get(f"/evergreen/sign-in?ticket={make_ticket(tmp_path, 'prefect')}&to={elsewhere}")
        assert 'data-to="/"' in page.text
    for bad in (ticket, make_ticket(tmp_path, "evidently"), "x", ""):
        again = client.get(f"/evergreen/sign-in?ticket={bad}")
        assert again.status_code == 401
        assert AUTH not in again.text
    assert client.post("/evergreen/sign-in", data={"auth": AUTH}).status_code == 405


def test_passwords_cannot_be_guessed_quickly_at_prefect_either():
    client = behind(NETWORK, "192.0.2.7:4200")
    guesses = [client.get("/api/version", headers=basic(f"x:guess{n}")).status_code for n in range(30)]
    assert guesses == [401] * 5 + [429] * 25
    assert client.get("/api/version", headers=basic("x:people's")).status_code == 429
    assert client.get("/api/version", headers=basic(AUTH)).status_code == 200, "the secret can not be guessed"
    with (
        client.websocket_connect("/api/events/in", headers={"host": "192.0.2.7:4200"}) as socket,
    ):
        socket.send_json({"type": "auth", "token": "x:people's"})
        assert socket.receive_json()["token"] == "x:people's", "it is not translated into the secret"


def test_no_answer_can_be_framed_or_loaded_by_another_page_and_the_ui_calls_only_this_server():
    client = behind(Access(AUTH))
    for path in ("/", "/api/version", "/evergreen/sign-in"):
        headers = client.get(path).headers
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "connect-src 'self'" in client.get("/").headers["content-security-policy"]


def test_two_host_headers_are_as_good_as_none():
    client = behind(Access(AUTH))
    headers = [("host", "evil.example"), ("host", HERE), *basic(AUTH).items()]
    assert client.get("/api/version", headers=headers).status_code == 421
