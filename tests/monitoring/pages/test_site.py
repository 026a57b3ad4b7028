"""The served pages: in a real browser, and the requests they refuse."""

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import uvicorn

from monitoring.pages import evidently, report
from monitoring.pages import site as pages_site
from monitoring.pages.columns import MeasuredWindow
from tasks.common import request_body
from tasks.common.access import Access, basic
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.params import StoreParams
from tasks.releases.bundle import write_manifest
from tasks.releases.pointer import successor
from tasks.releases.store import Releases, open_store
from tasks.storage.local import LocalStore
from tests.support import drift_windows
from tests.support.checkout import ROOT

WINDOW = drift_windows.times(7)[2]
ACCESS = Access("evergreen:s3cret")
RELEASE = '<!doctype html><html lang="en"><title>release</title><style>p{color:#123456}</style><p>verdict: promote'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two windows with their snapshots, and a release with its report."""
    root = tmp_path_factory.mktemp("site")
    window, reference = drift_windows.window_table(7), drift_windows.reference_table()
    past = drift_windows.history(8)
    for number in (6, 7):
        shown = MeasuredWindow(window, reference, *past[number], drift_windows.CLASSES)
        report.write(root / "reports", shown, past[:number])
        evidently.add(root / "evidently", shown)
    releases = open_store(StoreParams(url=str(root / "releases")), root)
    releases.promote(
        successor(
            None, version="v0.1.0", run_id="20261121-080000-ab12", git_rev="0" * 40, bundle="1" * 64, by="a", why="b"
        )
    )
    releases.store.create("runs/20261121-080000-ab12/report.html", RELEASE.encode())
    releases.store.create("runs/20261121-090000-cd34/report.html", RELEASE.encode())
    return pages_site.Site(root / "reports", root / "evidently", ACCESS, releases.store, evidently_port=9)


@contextmanager
def serving(site):
    """The address of the served site."""
    server = uvicorn.Server(uvicorn.Config(pages_site.create_app(site), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    limit = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < limit
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def visit(visit):
    """A browser that is signed in."""
    return lambda target, user=("anyone", "s3cret"): visit(target, user=user)


@pytest.fixture(scope="module")
def address(site):
    with serving(site) as found:
        yield found


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def ask(url, method="GET", body=None, **headers):
    """(status, headers, text), signed in unless `headers` say otherwise; redirects are not followed."""
    headers = {"Authorization": basic(ACCESS.auth)} | headers
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    request.method = method
    try:
        answer = urllib.request.build_opener(_Stay).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers, answer.read().decode("utf-8", "replace")


def test_from_the_list_to_a_report_and_back(visit, address):
    page = visit(address)
    assert page.problems == []
    assert (page.small_targets, page.faint_texts) == ([], [])
    assert page.page.locator(".block").count() == 0, "only later hundreds get room before they are drawn"
    page.page.get_by_role("link", name="Open the newest report").click()
    assert page.page.url == f"{address}/reports/{WINDOW}.html"
    assert drift_windows.SENTENCES["retrain"] in page.text
    assert page.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    page.page.get_by_role("link", name="All reports").click()
    assert page.page.url == f"{address}/"
    assert page.problems == []


def test_evidently_is_rendered_in_a_frame_that_reaches_nothing(visit, address):
    page = visit(f"{address}/evidently/{WINDOW}")
    frame = page.page.frame_locator("iframe")
    frame.get_by_text("Data Drift Summary").wait_for()
    frame.get_by_text("brightness").first.wait_for()
    assert page.problems == []
    assert page.requests == [f"{address}/evidently/{WINDOW}/raw"]
    inside = page.page.frames[1]
    assert inside.evaluate("window.origin") == "null"
    with pytest.raises(Exception, match=r"Blocked|cross-origin|SecurityError"):
        inside.evaluate("window.parent.document.title")
    assert inside.evaluate("fetch('/').then(() => 'reached', () => 'refused')") == "refused"


def test_release_reports_come_from_the_release_store(visit, address):
    page = visit(f"{address}/releases")
    assert "v0.1.0" in page.text
    assert "not promoted" in page.text
    assert "20261121-080000-ab12" in page.text, "`evergreen approve` asks for it"
    page.page.get_by_role("link", name="v0.1.0").click()
    assert "verdict: promote" in page.text
    assert page.page.evaluate("getComputedStyle(document.querySelector('p')).color") == "rgb(18, 52, 86)"
    assert page.problems == []
    assert ask(f"{address}/releases/20261121-100000-ffff")[0] == 404


def test_the_link_to_evidentlys_ui_leads_to_the_snapshot(address):
    status, headers, _ = ask(f"{address}/evidently-ui/{WINDOW}")
    assert status == 307
    path = f"/projects/{evidently.PROJECT}/reports/{evidently.snapshot_id(WINDOW)}"
    assert headers["location"] == f"http://127.0.0.1:9{path}"


@pytest.mark.parametrize("path", ["/", f"/reports/{WINDOW}.html", f"/evidently/{WINDOW}/raw", "/releases", "/nothing"])
def test_each_response_has_its_policy(address, path):
    _, headers, _ = ask(address + path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "base-uri 'none'" in policy
    if path.endswith("/raw"):
        assert policy.startswith("sandbox allow-scripts;")
        assert "allow-same-origin" not in policy
    else:
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/reports/../reports/index.json", "/reports/index.json", "/reports/.index.lock", "/reports/", "/reports",
        "/reports/..%2f..%2fetc%2fpasswd.html", "/reports/%2e%2e%2findex.html", "/reports/20261121T120000Z-2026.html",
        f"/reports/{WINDOW}%00.html", f"/reports/{WINDOW}%0a.html", "/evidently/..%2f..%2f/raw", "/evidently/x",
        "/evidently-ui/x", "/releases/..", "/releases/..%2fchampion", "/releases/a%2fb", "/releases/.", "/docs",
        "/openapi.json", "/review", f"/reports/{drift_windows.times(0)[2]}.html",
        f"/evidently/{drift_windows.times(0)[2]}", "/reports/%3Cscript%3Ealert(1)%3C/script%3E.html",
    ],
)  # fmt: skip
def test_unknown_paths_are_not_found_and_nothing_is_listed(address, path):
    status, _, text = ask(address + path)
    assert status == 404
    assert "root:" not in text
    assert "<script>alert" not in text


def test_other_host_names_are_refused(address):
    assert ask(address, Host="evil.example")[0] == 421
    assert ask(address, Host="127.0.0.1.evil.example")[0] == 421
    assert ask(f"{address}/health", Host="evil.example")[0] == 200
    assert ask(address, Host="localhost:1")[0] == 200


def test_each_route_except_health_needs_the_secret_or_the_password(site, visit):
    password = "pass:wörd"
    access = Access(ACCESS.auth, "0.0.0.0", ("reports.example",), password)
    locked = replace(site, access=access, actions={"retrain": ("Retrain", lambda: "ok")})
    assert password not in repr(locked)
    assert "s3cret" not in repr(locked)
    paths = {route.path for route in pages_site.create_app(locked).routes}
    assert len(paths) >= 10
    paths -= {"/evergreen/sign-in"}  # which asks for the secret itself
    with serving(locked) as address:
        for path in [*paths, "/nothing", "/reports/index.json"]:
            real = path.replace("{window_id}", WINDOW).replace("{run_id}", "20261121-080000-ab12")
            for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS"):
                status = ask(address + real.replace("{name}", "retrain"), method, Authorization="")[0]
                assert status == (401 if path != "/health" else 200 if method == "GET" else 405), (path, method)
        for wrong in (
            "",
            "Basic",
            "Basic !",
            basic("user:pass"),
            basic("s3cret"),
            "Bearer " + password.encode().hex(),
        ):
            assert ask(address, Authorization=wrong)[0] == 401
        for right in (f"anyone:{password}", ACCESS.auth, "anyone:s3cret"):
            assert ask(address, Authorization=basic(right))[0] == 200
        assert ask(address, Host="reports.example")[0] == 200
        assert ask(address, Host="192.0.2.1")[0] == 200, "an address cannot be rebound"
        assert ask(address, Host="evil.example")[0] == 421
        assert visit(address, user=("anyone", password)).status == 200


def test_a_button_does_what_it_says_once_pressed_from_these_pages_only(site, visit):
    pressed = []

    def retrain() -> str:
        pressed.append(1)
        if len(pressed) == 2:
            raise EvergreenError("a run is under way: <b>20261121</b>")
        return "Run 20261121 has been started."

    busy = replace(site, actions={"retrain": ("Retrain now", retrain)})
    with serving(busy) as address:
        page = visit(f"{address}/reports/{WINDOW}.html")
        page.page.get_by_role("button", name="Retrain now").click()
        page.page.get_by_text("Run 20261121 has been started.").wait_for()
        assert pressed == [1]

        page = visit(address)
        page.page.get_by_role("button", name="Retrain now").click()
        page.page.get_by_text("a run is under way: <b>20261121</b>").wait_for()
        assert len(pressed) == 2

        text = ask(address)[2]
        token = text.split('name="token" value="')[1].split('"')[0]
        url, good = f"{address}/actions/retrain", f"token={token}".encode()
        for body, headers in [
            (good, {}),
            (good, {"Origin": "http://evil.example"}),
            (good, {"Origin": "null"}),
            (good, {"Origin": address, "Sec_Fetch_Site": "cross-site"}),
            (b"token=" + b"0" * 64, {"Origin": address}),
            (b"", {"Origin": address}),
        ]:
            assert ask(url, "POST", body, **headers)[0] == 403, (body, headers)
        assert ask(f"{address}/actions/other", "POST", good, Origin=address)[0] == 403
        assert ask(url, "POST", b"x" * 10_000, Origin=address)[0] == 413
        assert ask(url)[0] == 405
        assert len(pressed) == 2
        assert ask(url, "POST", good, Origin=address)[0] == 200
        assert len(pressed) == 3


@pytest.mark.parametrize("path", ["/evergreen/sign-in", "/actions/retrain"])
def test_a_half_sent_request_is_cut_off(site, monkeypatch, path):
    monkeypatch.setattr(request_body, "SECONDS", 0.2)
    with serving(replace(site, actions={"retrain": ("Retrain", lambda: "done")})) as address:
        host, port = address.removeprefix("http://").split(":")
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", f"Origin: {address}", "Content-Length: 100"]
        lines += [f"Authorization: {basic(ACCESS.auth)}", "", "half"]
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall("\r\n".join(lines).encode())
            got = b""
            while part := line.recv(4096):  # until the server closes
                got += part
        assert got.startswith(b"HTTP/1.1 408 ")


def test_another_site_cannot_press_a_button(site, visit, tmp_path):
    pressed = []
    busy = replace(site, actions={"retrain": ("Retrain", lambda: pressed.append(1) or "done")})
    with serving(busy) as address:
        token = ask(address)[2].split('name="token" value="')[1].split('"')[0]
        trap = tmp_path / "trap.html"
        trap.write_text(
            f'<form method="post" action="{address}/actions/retrain"><input name="token" value="{token}">'
            "<button>go</button></form>"
        )
        page = visit(trap)
        page.page.get_by_role("button").click()
        page.page.get_by_text("refused").wait_for()
    assert pressed == []


def test_the_review_queue_is_shown_if_there_is_one(site, visit):
    with serving(replace(site, review=lambda: "<!doctype html><p>twelve images")) as address:
        page = visit(address)
        page.page.get_by_role("link", name="Review queue").click()
        assert page.text == "twelve images"


def test_the_list_shows_new_reports(site, tmp_path):
    with serving(
        pages_site.Site(tmp_path / "reports", tmp_path / "evidently", ACCESS, LocalStore(tmp_path / "releases"))
    ) as address:
        assert "No reports yet" in ask(address)[2]
        (tmp_path / "reports").mkdir()
        entry = json.loads((site.reports / "index.json").read_text())[0]
        (tmp_path / "reports/index.json").write_text(json.dumps([entry]))
        assert entry["id"] in ask(address)[2]
        assert "No releases yet" in ask(f"{address}/releases")[2]


def test_the_first_page_says_what_is_live_and_whether_it_is_provisional(site, tmp_path):
    releases = Releases(LocalStore(tmp_path / "releases"))
    shown = pages_site.Site(tmp_path / "reports", tmp_path / "evidently", ACCESS, releases.store)
    with serving(shown) as address:
        assert "no model is live yet: `evergreen retrain`" in ask(address)[2]
        releases.put_run("run-1", {"outcome": "rejected", "sentence": "reject: <b>luck</b>", "remedies": []})
        assert "(run-1) ended as rejected. reject: &lt;b&gt;luck&lt;/b&gt;" in ask(address)[2]
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle/bundle.json").write_text(json.dumps({"provisional": "0.4 is below 0.5"}))
        write_manifest(tmp_path / "bundle")
        bundle = releases.put_bundle(tmp_path / "bundle")
        about = {"version": "v0.1.0", "run_id": "run-2", "git_rev": "0" * 40, "by": "a", "why": "b"}
        releases.promote(successor(None, bundle=bundle, **about))
        assert "v0.1.0 is live since" in ask(address)[2]
        assert "provisional: 0.4 is below 0.5" in ask(address)[2]
        for file in (tmp_path / "releases/objects").iterdir():
            file.unlink()
            file.write_text("damaged")
        assert "is damaged" in ask(address)[2]


def test_a_request_from_another_machine_is_refused_for_any_host_header(site):
    """In case it ever listens on more than loopback by mistake."""
    answers = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        answers.append(message.get("status"))

    for client in ("10.0.0.7", "127.0.0.1"):
        scope = {
            "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "",
            "scheme": "http", "headers": [(b"host", b"127.0.0.1"), (b"authorization", basic(ACCESS.auth).encode())],
            "client": (client, 1), "server": ("x", 80),
        }  # fmt: skip
        with ThreadPoolExecutor(1) as pool:  # playwright's event loop runs in this thread
            pool.submit(asyncio.run, pages_site.create_app(site)(scope, receive, send)).result(20)
    assert [status for status in answers if status] == [421, 200]


def test_the_site_of_a_project_follows_its_params(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setenv("EVERGREEN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EVERGREEN_PASSWORD", "secret")
    found = pages_site.site_of(tmp_path, evidently_port=9)
    assert (found.reports, found.workspace) == (tmp_path / "state/reports", tmp_path / "state/evidently")
    assert found.access == Access(checkout(tmp_path).auth, "127.0.0.1", (), "secret")
    monkeypatch.setenv("EVERGREEN_PASSWORD", "")
    assert not pages_site.site_of(tmp_path).access.opens("anyone:")
