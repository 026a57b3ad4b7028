"""`evergreen up` for real: server, runner, pages, Evidently, automations, the webhook; kills, restarts, and `down`.

One project serves the whole module; the tests build on each other, as a day of operation does.
"""

import base64
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flows.doctor import servers
from flows.server import process
from flows.server.api import Api, emit
from flows.server.events import EVENTS, request_retrain
from flows.server.process import created
from flows.services import logs, overview, runner, up
from flows.services.sign_in import sign_in_page
from tasks.common.access import basic
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tests.support.checkout import ROOT
from tests.support.children import command
from tests.support.live_project import make
from tests.support.receiver import receiver
from tests.support.waiting import until

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
ALL = (*up.SERVICES, "predictor")
HOUR = timedelta(hours=1)
PREDICTOR = {"with_up: false": "with_up: true", "workers: 2": "workers: 1"}
PREDICTOR |= {"port: 4290": f"port: {process.free_port(0)}"}
CANARIES = {name: f"canary{name}0123456789" for name in ("alerts", "key", "s3", "password")}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """(project, the alerts it sent) with everything up."""
    port = process.free_port(0)
    root = make(tmp_path_factory.mktemp("serve"), replace=PREDICTOR | {"prefect_port: 4200": f"prefect_port: {port}"})
    with receiver() as other_end, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_ALERTS", other_end.address.replace("s3cret", CANARIES["alerts"]))
        patch.setenv("AWS_ACCESS_KEY_ID", CANARIES["key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", CANARIES["s3"])
        patch.setenv("EVERGREEN_PASSWORD", CANARIES["password"])
        patch.setenv("EVERGREEN_WEBHOOK_SECRET", SECRET)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
        try:
            up.up(root, print)
            yield root, other_end.got
        finally:
            up.down(root)


def about(root: Path) -> dict:
    return read_json(root / ".evergreen" / "services.json")


def api(root: Path) -> Api:
    return process.own_api(root)


def runs(root: Path, **where) -> list[dict]:
    return api(root).post("/flow_runs/filter", {"flow_runs": where, "limit": 200})


def because(root: Path, reason: str) -> dict | None:
    """The run of a deployment that was started with `reason`, once it ran."""
    found = [run for run in runs(root) if run["parameters"].get("reason") == reason and run["start_time"]]
    return found[0] if found else None


def test_everything_answers_and_doing_it_twice_changes_nothing(running):
    root, _ = running
    before = about(root)
    up.up(root, print)
    assert about(root)["pid"] == before["pid"]
    assert about(root)["services"] == before["services"]
    assert [(name, well) for name, _, well in up.services(root)] == [(name, True) for name in ALL]
    signed_in = {"Authorization": basic(checkout(root).auth)}
    for name in ("pages", "evidently"):
        url = before["services"][name]["url"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=60)
        with urllib.request.urlopen(urllib.request.Request(url, headers=signed_in), timeout=60) as reply:
            assert reply.status == 200
    for connection in (c for p in up.members(root) for c in p.net_connections("tcp") if c.status == "LISTEN"):
        assert connection.laddr.ip == "127.0.0.1", "loopback only"


def test_another_projects_server_at_the_same_address_is_recognised(running, tmp_path):
    """As after a restart of the machine: this project's server is gone, another's has its port."""
    root, _ = running
    theirs = read_json(root / ".evergreen" / "server.json")
    gone = subprocess.Popen(["true"])
    gone.wait()
    mine = tmp_path / ".evergreen" / "server.json"
    write_json(mine, theirs | {"pid": gone.pid, "checkout": checkout(tmp_path).id})
    assert process.running(root) == theirs
    assert process.running(tmp_path) is None
    assert process.stop_server(tmp_path) is False
    assert process.running(root) == theirs
    earlier = {name: value for name, value in theirs.items() if name != "checkout"}
    write_json(root / ".evergreen" / "server.json", earlier)  # as a version without a secret wrote it
    assert process.running(root) is process.own_api(root) is None, "`evergreen up` replaces it"
    write_json(root / ".evergreen" / "server.json", theirs)
    port = int(theirs["ui"].rpartition(":")[2])
    assert process._listens(theirs["pid"], port)
    assert not process._listens(gone.pid, port)


def test_services_that_were_never_started_are_not_said_to_be_silent(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    lines = up.status_lines(tmp_path)
    assert lines[0] == "services:    not started: `evergreen up` starts them"
    assert not any("does not answer" in line for line in lines)


def test_a_service_that_keeps_ending_is_said_to_be_restarted_and_its_message_has_no_class_path(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    started = datetime.now(UTC)
    services = {"runner": {"pid": None, "created": None, "url": None, "restarts": 5}}
    wrote = {"pid": os.getpid(), "created": "1", "checkout": checkout(tmp_path).id, "since": started.isoformat()}
    write_json(tmp_path / ".evergreen/services.json", wrote | {"services": services})
    (tmp_path / ".evergreen/runner.log").write_text("Traceback\ntasks.common.errors.EvergreenError: no pool 'x'\n")
    assert logs.keeps_ending(tmp_path, "runner").startswith(
        "runner keeps ending: no pool 'x' (in runner.log). The other"
    )
    assert "runner:      not started" in "\n".join(up.status_lines(tmp_path)), "no supervisor would restart it"
    with open(tmp_path / ".evergreen/services.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the supervisor does
        assert "runner:      is being restarted (restarts so far: 5); see runner.log" in up.status_lines(tmp_path)
        (found,) = servers.services(tmp_path)
        assert "runner (.evergreen/runner.log: no pool 'x')" in found.text
    assert logs.said_last(tmp_path, "runner", None) == "no pool 'x'"
    assert logs.said_last(tmp_path, "runner", datetime.now(UTC) + HOUR) == "", "a process before this one printed it"


def test_the_prefect_server_listens_where_params_yaml_says(running):
    root, _ = running
    assert (
        f":{load_params(root / 'params.yaml').serve.prefect_port}/" in read_json(root / ".evergreen/server.json")["url"]
    )


def test_status_shows_the_services_and_what_comes_next(running):
    root, _ = running

    def planned() -> set[str]:
        lines = up.status_lines(root)
        assert f"console:     {about(root)['services']['pages']['url']}" in lines
        assert sum("http" in line for line in lines) == 2, "console and predictor: other pages open from the console"
        return {line.split()[1] for line in lines if line.startswith("next:")}

    wanted = {"retrain-when-needed", "monitor", "reevaluate", "housekeeping"}
    until(lambda: planned() == wanted, 90, "Prefect's scheduler plans nothing: which SQLAlchemy is installed?")


def test_an_event_starts_a_retraining_with_its_window_as_the_reason_within_seconds(running):
    root, alerts = running
    reason = "window 20261121T120000Z-20261121T121500Z: {{ 7 * 7 }} <b>brightness</b> fell."
    began = time.monotonic()
    request_retrain(root, "drift", reason, "20261121T120000Z-20261121T121500Z")
    run = until(lambda: because(root, reason))
    print(f"event to running: {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 60
    # the project's HEAD has no pipeline code, so the run ends with an error, which is an alert
    ended = until(lambda: [r for r in runs(root, id={"any_": [run["id"]]}) if r["end_time"]])[0]
    assert ended["state"]["type"] == "FAILED"
    assert "HEAD lacks" in ended["state"]["message"]
    assert until(lambda: [a for a in alerts if "HEAD lacks" in a["message"]])
    (automation,) = [a for a in api(root).post("/automations/filter", {}) if "evergreen.drift.retrain" in a["name"]]
    assert automation["enabled"]


def test_an_event_of_another_checkout_or_of_the_models_name_starts_nothing(running):
    root, _ = running
    for other in ("evergreen.other", f"evergreen.{load_params(root / 'params.yaml').bundle.name}"):
        emit(api(root), "evergreen.drift.retrain", other, {"reason": "not ours"})
    request_retrain(root, "drift", "ours, sent later")
    until(lambda: because(root, "ours, sent later"))
    assert because(root, "not ours") is None


def test_a_signed_webhook_over_the_pages_address_starts_one(running):
    root, _ = running
    body, stamp = json.dumps({"reason": "a camera was replaced"}).encode(), str(int(time.time()))
    mac = base64.b64encode(hmac.new(b"k" * 32, b"m1." + stamp.encode() + b"." + body, hashlib.sha256).digest())
    headers = {
        "webhook-id": "m1",
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{mac.decode()}",
        "content-type": "application/json",
    }
    request = urllib.request.Request(f"{about(root)['services']['pages']['url']}/hooks/retrain", body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.status == 200
    with pytest.raises(urllib.error.HTTPError, match="409"):
        urllib.request.urlopen(request, timeout=60)
    assert until(lambda: because(root, "webhook: a camera was replaced"))


def test_the_monitor_runs_as_a_deployment_and_status_shows_what_it_found(running):
    root, _ = running
    (deployment,) = api(root).post("/deployments/filter", {"flows": {"name": {"any_": ["monitor"]}}})
    run = api(root).post(f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    ended = until(lambda: [r for r in runs(root, id={"any_": [run["id"]]}) if r["end_time"]])[0]
    assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
    assert any("monitor:" in line and "waiting" in line for line in up.status_lines(root))


def test_killed_services_are_restarted_and_a_run_that_died_with_them_is_marked(running):
    root, _ = running
    before = about(root)["services"]
    (deployment,) = api(root).post("/deployments/filter", {"flows": {"name": {"any_": ["housekeeping"]}}})
    later = (datetime.now(UTC) + HOUR).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": later}}
    died = api(root).post(f"/deployments/{deployment['id']}/create_flow_run", {"state": state})["id"]
    api(root).post(f"/flow_runs/{died}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    for name in ("runner", "pages", "predictor"):
        os.kill(before[name]["pid"], signal.SIGKILL)
    for name in ("runner", "pages", "predictor"):
        until(lambda name=name: about(root)["services"][name]["pid"] not in (before[name]["pid"], None))
        until(lambda name=name: {n: well for n, _, well in up.services(root)}[name])
        assert about(root)["services"][name]["restarts"] >= 1
    (run,) = runs(root, id={"any_": [died]})
    assert (run["state"]["type"], run["state"]["message"]) == ("CRASHED", "its process died")


def test_up_after_the_supervisor_was_killed_brings_everything_back_once(running):
    root, _ = running
    before = about(root)
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: not up.supervised(root))
    up.up(root, print)
    after = about(root)
    assert after["pid"] != before["pid"]
    assert after["services"]["prefect"] == before["services"]["prefect"], "the server and its runs went on"
    for name in ("runner", "pages", "evidently"):
        assert created(before["services"][name]["pid"]) is None, f"two of {name} would do everything twice"


ATTACK = """async (api) => {
  const shell = {'prefect.deployments.steps.run_shell_script': {script: 'touch /tmp/owned'}};
  const said = [];
  const send = async (path, body, more) => {
    try {
      const reply = await fetch(api + path, {method: 'POST', body: JSON.stringify(body), ...more});
      said.push(reply.type === 'opaque' ? 'opaque' : reply.status);
      return reply.type === 'opaque' ? {} : await reply.json();
    } catch (error) { said.push('refused'); return {}; }
  };
  for (const more of [{headers: {'Content-Type': 'application/json'}}, {mode: 'no-cors', credentials: 'include'},
                      {mode: 'no-cors', headers: {'Content-Type': 'text/plain'}}]) {
    const flow = await send('/flows/', {name: 'attack'}, more);
    await send('/deployments/', {name: 'attack', flow_id: flow.id, entrypoint: 'x.py:x', pull_steps: [shell]}, more);
  }
  return said;
}"""


FORM = """(url) => new Promise(done => {
  const made = (kind, about) => Object.assign(document.createElement(kind), about);
  const form = made('form', {method: 'POST', action: url, target: 'there', enctype: 'text/plain'});
  form.append(made('input', {name: '{"name": "attack", "x": "', value: '"}'}));
  document.body.append(made('iframe', {name: 'there', onload: done}), form);
  form.submit();
})"""


def test_a_page_of_another_origin_registers_nothing(running, visit):
    """Each way that a browser has: JSON with a preflight, and without one as text that Prefect reads as JSON."""
    root, _ = running
    with receiver() as elsewhere:
        opened = visit(f"http://localhost:{elsewhere.server_address[1]}/")
        assert not [status for status in opened.page.evaluate(ATTACK, api(root).url) if isinstance(status, int)]
        opened.page.evaluate(FORM, f"{api(root).url}/flows/")
        assert len([url for url in opened.requests if url.startswith(api(root).url)]) >= 6, "they were sent"
    assert [flow for flow in api(root).post("/flows/filter", {}) if flow["name"] == "attack"] == []
    assert [one for one in api(root).post("/deployments/filter", {}) if one["name"] == "attack"] == []


def test_a_browser_that_is_signed_in_shows_everything_and_still_nothing_for_other_pages(running, visit):
    root, _ = running
    page = visit(f"{about(root)['services']['pages']['url']}/sign-in").page
    page.goto(sign_in_page(root).as_uri(), wait_until="commit")  # it leads to the console by itself
    page.wait_for_url(f"{about(root)['services']['pages']['url']}/")
    for link, name, expected in (
        ("Evidently", "evidently", "Production windows compared"),
        ("Prefect", "prefect", "Flow Runs"),
    ):
        page = visit(f"{about(root)['services']['pages']['url']}/services").page
        page.locator("tr", has_text=f"{link}:").get_by_role("link", name="Open, signed in").click()
        page.get_by_text(expected).first.wait_for(timeout=120_000)
        assert checkout(root).secret not in str(page.context.cookies())
        assert page.url.startswith(f"{about(root)['services'][name]['url']}/")
        assert "ticket" not in page.url
        assert checkout(root).secret not in page.url
    with receiver() as elsewhere:
        # 127.0.0.1 on another port: the same site, so a cookie would be sent
        page = visit(f"http://127.0.0.1:{elsewhere.server_address[1]}/").page
        assert not [status for status in page.evaluate(ATTACK, api(root).url) if isinstance(status, int)]
    assert [flow for flow in api(root).post("/flows/filter", {}) if flow["name"] == "attack"] == []


def socket_status(netloc: str, path: str) -> int:
    """The status with which a server answers a WebSocket that brings no sign-in."""
    host, _, port = netloc.partition(":")
    lines = [f"GET {path} HTTP/1.1", f"Host: {netloc}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall("\r\n".join(lines).encode())
        return int(line.recv(100).split()[1])


def test_another_user_of_this_machine_reads_and_changes_nothing(running):
    """Every route that the server has, asked without the secret, with a wrong one, and under a foreign name."""
    root, _ = running
    routes = Api(process.running(root)["ui"], api(root).auth).call("GET", "/openapi.json")["paths"]
    asked = [(method.upper(), path) for path, methods in routes.items() for method in methods]
    asked = [(method, path) for method, path in asked if path not in ("/health", "/ready")]
    assert len(asked) > 150
    at = urlsplit(api(root).url)
    line = http.client.HTTPConnection(at.hostname, at.port, timeout=60)

    def status(method: str, path: str, **headers: str) -> int:
        line.request(method, path, body="{}", headers={"Content-Type": "application/json"} | headers)
        reply = line.getresponse()
        reply.read()
        return reply.status

    answers = {status(method, f"/api{path}") for method, path in asked}
    assert answers == {401}
    assert {status("GET", path) for path in ("/docs", "/openapi.json", "/redoc")} == {401}
    for path in ("/api/events/out", "/api/events/in", "/api/logs/out"):
        assert socket_status(at.netloc, path) == 403
    assert status("POST", "/api/flows/filter", Authorization="Basic ZXZlcmdyZWVuOndyb25n") == 401
    assert status("POST", "/api/flows/filter", Authorization=basic(checkout(root).auth)) == 200
    assert status("POST", "/api/flows/filter", Authorization=basic(checkout(root).auth), Host="evil.example") == 421


def test_the_secret_is_in_no_log_no_command_line_and_no_page(running):
    root, _ = running
    up.status_lines(root)
    secret = checkout(root).secret
    logs = {path.name: path.read_text(errors="replace") for path in (root / ".evergreen").glob("*.log")}
    assert {"server.log", "runner.log", "pages.log", "services.log"} <= logs.keys()
    assert [name for name, text in logs.items() if secret in text] == []
    assert [p.cmdline() for p in up.members(root) if secret in " ".join(p.cmdline())] == []
    for name in ("pages", "evidently", "prefect"):
        request = urllib.request.Request(about(root)["services"][name]["url"])
        request.add_header("Authorization", basic(checkout(root).auth))
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert secret not in reply.read().decode()


def test_no_secret_of_the_environment_is_in_a_file_a_log_or_the_database(running):
    root, _ = running
    done = [command(words, root, os.environ) for words in (("status",), ("monitor",), ("queue",), ("score", "nowhere"))]
    printed = "".join(one.stdout + one.stderr for one in done)
    secrets = [SECRET, checkout(root).secret, *CANARIES.values()]
    assert [one for one in secrets if one in printed] == []
    own = {root / ".evergreen/checkout.json", root / ".evergreen/sign-in.html"}
    files = [path for path in root.rglob("*") if path.is_file() and path not in own and ".git" not in path.parts]
    assert any(path.name == "prefect.db" for path in files)
    found = {
        path.relative_to(root).as_posix(): one
        for path in files
        for content in [path.read_bytes()]
        for one in secrets
        if one.encode() in content
    }
    assert found == {}


def test_the_page_of_services_restarts_one_and_runs_a_schedule_now(running):
    root, _ = running
    before = {one.name: one for one in overview.overview(root)}
    assert all(one.well and one.since for one in before.values())
    pid = about(root)["services"]["pages"]["pid"]
    overview.restart(root, "pages")
    until(lambda: about(root)["services"]["pages"]["pid"] not in (pid, None))
    until(lambda: all(one.well for one in overview.overview(root)))
    after = {one.name: one for one in overview.overview(root)}
    assert after["pages"].restarts == before["pages"].restarts + 1
    assert after["runner"].since == before["runner"].since
    overview.run_now(root, "retrain-when-needed", "Ann")
    assert until(lambda: because(root, "Ann asked for it on the page of services"))


def test_a_copied_project_neither_finds_nor_starts_nor_stops_anything_of_the_original(running, tmp_path):
    root, _ = running
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("cache", "prefect", "artifacts", "*.tmp"))
    before = about(root)
    assert process.running(copy) is None
    assert [(name, well) for name, _, well in up.services(copy)] == [(name, False) for name in up.SERVICES]
    with pytest.raises(EvergreenError, match="no Prefect server runs here"):
        request_retrain(copy, "person", "the copy's button")
    with pytest.MonkeyPatch.context() as patch:  # both on one server of the user's
        for name, value in api(root).environment().items():
            patch.setenv(name, value)
        request_retrain(copy, "person", "the copy's button")
    request_retrain(root, "person", "the original's button")
    until(lambda: because(root, "the original's button"))
    assert because(root, "the copy's button") is None
    assert up.down(copy) == 0
    assert about(root) == before
    assert [(name, well) for name, _, well in up.services(root)] == [(name, True) for name in ALL]


def test_deployments_and_automations_of_the_models_name_are_removed_and_others_stay(running):
    """An earlier version named them after the model; a copied folder's database holds those of the original."""
    root, _ = running
    params = load_params(root / "params.yaml")
    (own,) = api(root).post("/deployments/filter", {"flows": {"name": {"any_": ["monitor"]}}})
    for name, tags in ((params.bundle.name, ["evergreen"]), ("0123456789abcdef", ["evergreen"]), ("theirs", [])):
        api(root).post("/deployments/", {"name": name, "flow_id": own["flow_id"], "tags": tags, "entrypoint": "x:y"})
    trigger = {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1, "within": 0}
    for name in (runner.automation_name(params.bundle.name, EVENTS[0]), "theirs: x starts a retraining"):
        action = {"type": "do-nothing"}
        api(root).post("/automations/", {"name": name, "trigger": trigger, "actions": [action]})
    assert runner.remove_old(api(root), root, params, checkout(root).id) == 3

    def names(kind: str) -> set[str]:
        return {one["name"] for one in api(root).post(f"/{kind}/filter", {})}

    assert names("deployments") == {checkout(root).id, "theirs"}
    assert names("automations") == {
        "theirs: x starts a retraining",
        *(runner.automation_name(checkout(root).id, event) for event in EVENTS),
    }


def test_down_leaves_no_process_and_up_finds_none(running):
    root, _ = running
    pids = [process.pid for process in up.members(root)]
    assert len(pids) >= 5
    assert up.down(root) >= 5
    until(lambda: not any(psutil.pid_exists(pid) and created(pid) for pid in pids))
    assert list(up.members(root)) == []
    assert not (root / ".evergreen" / "services.json").exists()
    assert up.down(root) == 0
