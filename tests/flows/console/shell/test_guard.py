"""The console's frame: in a real browser, and the requests it refuses."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi import APIRouter, Depends, Request

from flows.console.app import create_app
from flows.console.shell import facts
from flows.console.shell.page import page
from flows.console.shell.posted import Posted, back, local, posted
from monitoring.pages import evidently, report
from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.live import reports_dir
from tasks.common import request_body
from tasks.common.access import basic
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tests.support import drift_windows, released_project
from tests.support.console import serving

WINDOW = drift_windows.times(7)[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project with releases, one of which has a report, and two windows with their snapshots."""
    root = released_project.copy(tmp_path_factory.mktemp("console"))
    window, reference = drift_windows.window_table(7), drift_windows.reference_table()
    past = drift_windows.history(8)
    for number in (6, 7):
        shown = MeasuredWindow(window, reference, *past[number], drift_windows.CLASSES)
        report.write(reports_dir(root), shown, past[:number])
        evidently.add(evidently.workspace_dir(root), shown)
    text = '<!doctype html><html lang="en"><title>release</title><style>p{color:#123456}</style><p>verdict: promote'
    released_project.store(root).store.create("runs/run-9/report.html", text.encode())
    return root


PRESSED: list[str] = []
probe = APIRouter()


@probe.get("/probe")
def probe_page(request: Request):
    return page(request, "probe.html", title="Probe", section="")


@probe.post("/probe")
def press(request: Request, form: Posted = Depends(posted)):
    PRESSED.append(form.text("why"))
    if form.flag("fail"):
        raise EvergreenError("a run is under way: <b>20261121</b>")
    return back(request, "/probe", f"Pressed for {form.text('why')}.")


@probe.get("/probe/full")
def write_to_a_full_disk():
    Path("/dev/full").write_text("x")


@pytest.fixture(scope="module")
def site(root):
    from jinja2 import ChoiceLoader, DictLoader

    from flows.console.shell.page import environment

    text = (
        '{% extends layout %}{% import "shell/parts.html" as parts with context %}{% block main %}<h1>Probe</h1>'
        '{{ parts.action("Press", "/probe", {"x": "<b>"}, why=True) }}'
        '{{ parts.action("Fail", "/probe", {"fail": "1"}) }}{{ parts.job_button("slot 1", "Work", "/probe") }}'
        "{% endblock %}"
    )
    loader = environment().loader
    environment().loader = ChoiceLoader([loader, DictLoader({"probe.html": text})])
    with serving(root, 9, probe) as found:
        yield found
    environment().loader = loader


@pytest.mark.long
def test_the_frame_in_every_width_and_theme(visit, site):
    for width in (390, 1440):
        for dark in (False, True):
            shown = visit(f"{site.url}/probe", user=site.user, width=width, dark=dark)
            assert shown.problems == []
            assert not shown.scrolls_sideways
            assert shown.faint_texts == []
            assert [one for one in shown.small_targets if "Skip" not in one] == []
            assert all(url.startswith(site.url) for url in shown.requests)
            assert "v0.3.0" in shown.text


def test_keys_lead_everywhere(visit, site):
    shown = visit(f"{site.url}/probe", user=site.user)
    shown.page.keyboard.press("?")
    shown.page.locator("#help[open]").wait_for()
    shown.page.keyboard.press("Escape")
    shown.page.keyboard.press("/")
    assert shown.page.evaluate("document.activeElement.id") == "search"
    shown.page.keyboard.press("g")  # a letter of the search, not a key
    assert shown.page.input_value("#search") == "g"
    shown.page.keyboard.press("Escape")
    shown.page.keyboard.press("g")
    shown.page.keyboard.press("n")
    shown.page.wait_for_url(f"{site.url}/")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_form_answers_with_a_message_once(visit, site, scripts):
    PRESSED.clear()
    shown = visit(f"{site.url}/probe", user=site.user, scripts=scripts)
    shown.page.locator("summary", has_text="Press").click()
    shown.page.locator("textarea").fill("<i>good</i>")
    shown.page.get_by_role("button", name="Press").click()
    shown.page.get_by_text("Pressed for <i>good</i>.").wait_for()
    shown.page.reload()
    assert PRESSED == ["<i>good</i>"], "a reload repeats nothing"
    assert shown.page.locator(".toast").count() == 0
    shown.page.get_by_role("button", name="Fail").click()
    shown.page.locator(".toast.bad").get_by_text("a run is under way: <b>20261121</b>").wait_for()
    assert shown.page.url == f"{site.url}/probe"
    assert shown.problems == []


def test_evidently_is_rendered_in_a_frame_that_reaches_nothing(visit, site):
    shown = visit(f"{site.url}/production/{WINDOW}/evidently", user=site.user)
    frame = shown.page.frame_locator("iframe")
    frame.get_by_text("Data Drift Summary").wait_for()
    frame.get_by_text("brightness").first.wait_for()
    assert shown.problems == []
    inside = shown.page.frames[1]
    assert inside.evaluate("window.origin") == "null"
    with pytest.raises(Exception, match=r"Blocked|cross-origin|SecurityError"):
        inside.evaluate("window.parent.document.title")
    assert inside.evaluate("fetch('/').then(() => 'reached', () => 'refused')") == "refused"


def test_reports_are_there_as_files_too(visit, site):
    shown = visit(f"{site.url}/production/{WINDOW}/archive", user=site.user)
    assert drift_windows.SENTENCES["retrain"] in shown.text
    assert shown.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    shown = visit(f"{site.url}/releases/run-9/archive", user=site.user)
    assert shown.page.evaluate("getComputedStyle(document.querySelector('p')).color") == "rgb(18, 52, 86)"
    assert shown.problems == []
    assert site.get("/releases/run-8/archive")[0] == 404


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/reports/index.html", "/production"), (f"/reports/{WINDOW}.html", f"/production/{WINDOW}"),
        (f"/evidently/{WINDOW}", f"/production/{WINDOW}/evidently"), ("/review", "/label/production"),
    ],
)  # fmt: skip
def test_old_addresses_lead_to_the_new_ones(site, old, new):
    status, headers, _ = site.get(old)
    assert (status, headers["location"]) == (301, new)


def test_the_link_to_evidentlys_ui_leads_to_the_snapshot(site):
    status, headers, _ = site.get(f"/production/{WINDOW}/evidently/ui")
    assert status == 307
    path = f"/projects/{evidently.PROJECT}/reports/{evidently.snapshot_id(WINDOW)}"
    assert headers["location"] == f"/services/open/evidently?to={quote(path, safe='')}"


@pytest.mark.parametrize(
    "path", ["/", f"/production/{WINDOW}/archive", f"/production/{WINDOW}/evidently/raw", "/nothing", "/live?once"]
)
def test_each_response_has_its_policy(site, path):
    _, headers, _ = site.get(path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "base-uri 'none'" in policy
    if path.endswith("/raw"):
        assert policy.startswith("sandbox allow-scripts;")
        assert "allow-same-origin" not in policy
    else:
        assert "unsafe-eval" not in policy
        assert "script-src 'unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/production/..%2f..%2fetc%2fpasswd/archive", "/production/20261121T120000Z-2026/archive", "/static/../app.py",
        f"/production/{WINDOW}%00/archive", f"/production/{WINDOW}%0a/archive", "/production/..%2f..%2f/evidently/raw",
        "/production/x/evidently", "/releases/../archive", "/releases/..%2fchampion/archive", "/static/..%2fapp.py",
        "/releases/a%2fb/archive", "/docs", "/openapi.json", "/static/", "/static/htmx.LICENSE", "/jobs/..%2fx",
        "/jobs/x", f"/production/{drift_windows.times(0)[2]}/archive",
        "/reports/%3Cscript%3Ealert(1)%3C/script%3E.html",
    ],
)  # fmt: skip
def test_unknown_paths_are_not_found_and_nothing_is_listed(site, path):
    status, _, text = site.get(path)
    assert status == 404
    assert "root:" not in text
    assert "import " not in text
    assert "<script>alert" not in text


def test_other_host_names_are_refused(site):
    assert site.get("/", Host="evil.example")[0] == 421
    assert site.get("/", Host="127.0.0.1.evil.example")[0] == 421
    assert site.get("/health", Host="evil.example")[0] == 200
    assert site.get("/", Host="localhost:1")[0] == 200


def test_a_button_works_from_these_pages_only(site):
    PRESSED.clear()
    token = site.get("/probe")[2].split('name="token" value="')[1].split('"')[0]
    good = f"token={token}&why=x".encode()
    for body, headers in [
        (good, {}),
        (good, {"Origin": "http://evil.example"}),
        (good, {"Origin": "null"}),
        (good, {"Origin": site.url, "Sec_Fetch_Site": "cross-site"}),
        (b"token=" + b"0" * 64, {"Origin": site.url}),
        (f"token={token[:-1]}".encode(), {"Origin": site.url}),
        (b"", {"Origin": site.url}),
    ]:
        assert site.ask("/probe", "POST", body, **headers)[0] == 403, (body, headers)
    assert site.ask("/probe", "POST", b"x" * 100_000, Origin=site.url)[0] == 413
    assert site.ask("/probe", "POST", b"a=1&" * 3000, Origin=site.url)[0] == 413
    assert PRESSED == []
    assert site.ask("/probe", "POST", good, Origin=site.url)[0] == 303
    assert PRESSED == ["x"]


def test_an_error_is_said_whatever_the_form_calls_its_page(site):
    for there in ("/" + "x" * 3000, "//[", "http://evil/"):
        status, headers, text = site.post("/probe", {"fail": "1", "back": there}, page="/probe")
        assert status in (303, 409), text
        assert "evil" not in headers.get("location", "")


def test_a_text_that_no_command_can_take_is_refused(site):
    PRESSED.clear()
    status, _, text = site.post("/probe", {"why": "a\0b"}, page="/probe")
    assert (status, PRESSED) == (409, [])
    assert "why holds a NUL character" in text


def test_a_long_message_in_any_script_is_shown(site, visit):
    shown = visit(f"{site.url}/probe", user=site.user)
    for letter in "漢\U0001f600":
        shown.page.locator("summary", has_text="Press").click()
        shown.page.locator("textarea").fill(letter * 490)
        shown.page.get_by_role("button", name="Press").click()
        shown.page.locator(".toast").get_by_text(f"Pressed for {letter * 200}").wait_for()


def test_a_form_of_an_open_page_outlives_a_restart(root, site):
    token = site.get("/probe")[2].split('name="token" value="')[1].split('"')[0]
    with serving(root) as again:
        assert again.ask("/resume", "POST", f"token={token}".encode(), Origin=again.url)[0] == 303
        assert again.ask("/resume", "POST", f"token={token[:-1]}".encode(), Origin=again.url)[0] == 403


def test_a_message_cannot_turn_its_text_around(site):
    _, headers, _ = site.post("/probe", {"why": "\u202eab\u200b"}, page="/probe")
    text = site.get("/probe", Cookie=headers["Set-Cookie"].split(";")[0])[2]
    assert "Pressed for" in text
    assert "\u202e" not in text


def test_another_site_cannot_press_a_button(site, visit, tmp_path):
    PRESSED.clear()
    token = site.get("/probe")[2].split('name="token" value="')[1].split('"')[0]
    trap = tmp_path / "trap.html"
    trap.write_text(
        f'<form method="post" action="{site.url}/probe"><input name="token" value="{token}"><button>go</button></form>'
    )
    shown = visit(trap, user=site.user)
    shown.page.get_by_role("button").click()
    shown.page.get_by_text("refused").wait_for()
    assert PRESSED == []


@pytest.mark.parametrize("path", ["/sign-in", "/probe"])
def test_a_half_sent_request_is_cut_off(site, monkeypatch, path):
    monkeypatch.setattr(request_body, "SECONDS", 0.2)
    host, port = site.url.removeprefix("http://").split(":")
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", f"Origin: {site.url}", "Content-Length: 100"]
    lines += [f"Authorization: {basic(site.auth)}", "", "half"]
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall("\r\n".join(lines).encode())
        got = b""
        while part := line.recv(4096):  # until the server closes
            got += part
    assert got.startswith(b"HTTP/1.1 408 ")


def test_a_request_from_another_machine_is_refused_for_any_host_header(root):
    """In case it ever listens on more than loopback by mistake."""
    answers = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        answers.append(message.get("status"))

    for client in ("10.0.0.7", "127.0.0.1"):
        scope = {
            "type": "http", "method": "GET", "path": "/live", "raw_path": b"/live", "query_string": b"once",
            "root_path": "", "scheme": "http", "client": (client, 1), "server": ("x", 80),
            "headers": [(b"host", b"127.0.0.1"), (b"authorization", basic(checkout(root).auth).encode())],
        }  # fmt: skip
        with ThreadPoolExecutor(1) as pool:  # playwright's event loop runs in this thread
            pool.submit(asyncio.run, create_app(root)(scope, receive, send)).result(20)
    assert [status for status in answers if status] == [421, 200]


def test_pages_are_compressed_and_static_files_are_kept(site):
    _, headers, _ = site.get("/probe", Accept_Encoding="gzip")
    assert headers["content-encoding"] == "gzip"
    link = site.get("/probe")[2].split('rel="stylesheet" href="')[1].split('"')[0]
    _, headers, _ = site.get(link)
    assert "immutable" in headers["cache-control"]
    assert headers["content-type"].startswith("text/css")


def test_a_damaged_release_store_does_not_take_the_pages_away(root, tmp_path):
    import shutil

    other = tmp_path / "copy"
    shutil.copytree(root, other, symlinks=True)
    (other / ".evergreen/releases/champion.json").write_text("{")
    with serving(other, None, probe) as site:
        status, _, text = site.get("/")
    assert status == 200
    assert "The release store says nothing" in text


def test_pages_say_that_the_settings_are_missing(tmp_path):
    root = released_project.copy(tmp_path)
    with serving(root) as site:
        (root / "params.yaml").rename(root / "params.old")
        answers = [site.get(path) for path in ("/", "/production", "/label", "/images", "/releases", "/data", "/runs")]
        assert [status for status, *_ in answers if status not in (200, 409)] == []
        assert "params.yaml" in answers[1][2]
        (root / "params.old").rename(root / "params.yaml")
        assert site.get("/production")[0] == 200


def test_a_full_disk_is_said_in_words(site):
    status, _, text = site.get("/probe/full")
    assert status == 507
    assert "No space left on device" in text
    assert "free" in text


def test_nobody_is_sent_to_another_server():
    bad = ("//evil", "http://evil/", "/\\evil", "javascript:x", "", "/a\nb", "//[", "http://[", "/\t/evil")
    assert [local(url) for url in ("/runs?a=1", *bad)] == ["/runs?a=1", *("/" for _ in bad)]


def paths(routes) -> set[str]:
    """The addresses of all routes, with something in place of their parts."""
    found = set()
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        found |= paths(inner) if inner else {route.path}
    return found


def test_each_route_except_health_needs_the_secret_or_the_password(root, monkeypatch, visit):
    password = "pass:wörd"
    monkeypatch.setenv("EVERGREEN_PASSWORD", password)
    with serving(root) as site:
        assert password not in repr(site.app.state.console)
        assert site.auth.partition(":")[2] not in repr(site.app.state.console)
        known = paths(site.app.routes)
        assert len(known) >= 12
        closed = {
            path for path in known if path != "/health" and not path.startswith(("/hooks/", "/sign-in", "/join/"))
        }
        for path in [*closed, "/nothing", "/reports/index.json"]:
            real = path.replace("{window}", WINDOW).replace("{run}", "run-9").replace("{", "").replace("}", "")
            for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS"):
                assert site.ask(real, method, Authorization="")[0] == 401, (path, method)
        for wrong in ("Basic", "Basic !", basic("user:pass"), basic(site.auth[:-1]), f"Bearer {site.auth}"):
            assert site.get("/", Authorization=wrong)[0] == 401
        for right in (f"anyone:{password}", site.auth, f"anyone:{site.auth.partition(':')[2]}"):
            assert site.get("/", Authorization=basic(right))[0] == 200
        assert visit(site.url, user=("anyone", password)).status == 200


def test_what_pages_remember_for_a_moment_is_bounded():
    looked = []
    for number in range(facts.MOST + 1):
        facts.recent(("probe", number), lambda number=number: looked.append(number) or number, 60)
    assert len(facts._known) == facts.MOST
    assert facts.recent(("probe", facts.MOST), lambda: "again", 60) == facts.MOST
    assert facts.recent(("probe", 0), lambda: "again", 60) == "again", "the oldest went first"
