"""Who gets into the console, over real requests and in a real browser."""

import re
import threading
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml

from flows.console.people import session, store
from flows.services.sign_in import CONSOLE
from monitoring import alerts
from tasks.common.access import basic
from tasks.common.checkout import checkout
from tasks.common.person import owner_name
from tasks.common.throttle import Throttle
from tasks.common.tickets import make_ticket
from tests.support import released_project
from tests.support.console import ServedConsole, serving
from tests.support.receiver import receiver

WORDS = "four words that rhyme"
HTML = "text/html"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return released_project.copy(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def served(root):
    with serving(root) as site:
        yield site


@pytest.fixture
def site(served, root) -> ServedConsole:
    served.app.state.throttle = Throttle()
    (root / ".evergreen/people.json").unlink(missing_ok=True)
    return served


def person(root: Path, name: str, role: str) -> None:
    store.join(root, store.add(root, name, role, "Bea"), WORDS, WORDS)


def sign_in(site: ServedConsole, name: str, words: str = WORDS, **headers: str):
    """(status, cookie to send or "", text)."""
    body = urlencode({"name": name, "passphrase": words, "next": "/jobs/x"}).encode()
    about = {"Authorization": "", "Origin": site.url, "Accept": HTML} | headers
    status, headers, text = site.ask("/sign-in", "POST", body, **about)
    return status, cookie_of(headers), text


def cookie_of(headers) -> str:
    found = [part for part in headers.get_all("set-cookie", []) if "evergreen-toast" not in part]
    jar = SimpleCookie(found[0]) if found else {}
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items() if morsel.value)


def test_a_link_of_the_owner_signs_in_once_and_is_not_used_up_by_looking(site, root):
    ticket = make_ticket(root, CONSOLE)
    assert site.ask(f"/sign-in/{ticket}", "HEAD", Authorization="")[0] == 401
    assert site.get(f"/sign-in/{ticket}", Authorization="", Sec_Purpose="prefetch")[0] == 403
    status, headers, _ = site.get(f"/sign-in/{ticket}?next=/runs", Authorization="")
    assert (status, headers["location"]) == (303, "/runs")
    (set_cookie,) = headers.get_all("set-cookie")
    assert "HttpOnly" in set_cookie
    assert "SameSite=lax" in set_cookie
    assert f"evergreen-{checkout(root).id}=" in set_cookie
    assert "Secure" not in set_cookie
    status, _, text = site.get("/people", Authorization="", Cookie=cookie_of(headers))
    assert status == 200
    assert owner_name(root) in text
    status, headers, text = site.get(f"/sign-in/{ticket}", Authorization="")
    assert status == 401
    assert "used already" in text
    assert not headers.get_all("set-cookie")
    assert site.get(f"/sign-in/{ticket}?next=//evil.example", Authorization="")[0] == 401


def test_without_a_sign_in_a_person_is_told_what_to_do_and_nothing_else(site, root):
    status, headers, text = site.get("/releases", Authorization="", Accept=HTML)
    assert status == 401
    assert "www-authenticate" not in headers, "a browser would ask for a password in a window of its own"
    assert "evergreen open" in text
    assert "v0.3.0" not in text, "what is live is for those who signed in"
    assert 'name="passphrase"' not in text, "nobody has one"
    person(root, "Anna", "viewer")
    assert 'name="passphrase"' in site.get("/releases", Authorization="", Accept=HTML)[2]
    status, headers, text = site.get("/releases", Authorization="")
    assert (status, headers["www-authenticate"][:5]) == (401, "Basic")
    assert "evergreen open" in text


def test_a_person_signs_in_by_passphrase_and_a_change_counts_at_once(site, root):
    person(root, "Anna", "viewer")
    status, cookie, _ = sign_in(site, "Anna")
    assert status == 303
    ask = {"Authorization": "", "Cookie": cookie}
    assert site.get("/", **ask)[0] == 200
    status, _, text = site.get("/people", **ask)
    assert status == 403
    assert "Anna, viewer" in text
    store.set_role(root, "Anna", "admin", "Bea")
    assert site.get("/people", **ask)[0] == 200
    store.revoke(root, "Anna", "Bea")
    assert site.get("/", **ask)[0] == 401
    store.add(root, "Anna", "admin", "Bea")
    assert site.get("/", **ask)[0] == 401, "who is added again starts afresh"


def test_a_wrong_passphrase_an_unknown_name_and_an_unused_invitation_look_alike(site, root):
    person(root, "Anna", "viewer")
    store.add(root, "Carl", "viewer", "Bea")
    answers = {name: sign_in(site, name, "wrong words here") for name in ("Anna", "Nobody", "Carl")}
    assert {status for status, _, _ in answers.values()} == {401}
    assert len({text.replace(name, "") for name, (_, _, text) in answers.items()}) == 1


def test_guessing_is_slowed_down_per_name_and_per_address(site, root):
    person(root, "Anna", "viewer")
    statuses = [sign_in(site, "Anna", f"guess number {n}")[0] for n in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert sign_in(site, "Anna")[0] == 429, "the right one is not compared either"
    assert sign_in(site, "Carl")[0] == 429, "nor another name from this address"
    site.app.state.throttle = Throttle()
    found: list[int] = []
    guess = lambda n: found.append(sign_in(site, "Anna", f"guess {n} at once")[0])  # noqa: E731
    threads = [threading.Thread(target=guess, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [401] * 5 + [429] * 7, "many at once are not let through either"


def test_thirty_wrong_passwords_of_programs_are_slowed_down_and_the_secret_still_works(root, monkeypatch):
    monkeypatch.setenv("EVERGREEN_PASSWORD", "the password")
    with serving(root) as site:
        found = [site.get("/", Authorization=basic(f"x:guess{n}")) for n in range(30)]
        assert [status for status, _, _ in found] == [401] * 5 + [429] * 25
        assert 1 <= int(found[-1][1]["retry-after"]) <= 61
        assert site.get("/", Authorization=basic("x:the password"))[0] == 429
        assert site.get("/")[0] == 200, "the secret can not be guessed"


def test_a_stolen_cookie_is_worth_nothing_after_sign_out_elsewhere_or_changed(site, root, tmp_path):
    person(root, "Anna", "approver")
    cookie, other = sign_in(site, "Anna")[1], sign_in(site, "Anna")[1]
    stolen = {"Authorization": "", "Cookie": cookie}
    assert site.get("/", **stolen)[0] == 200
    status, headers, _ = site.post("/sign-out", {}, page="/services", **stolen)
    assert (status, headers["location"]) == (303, "/sign-in")
    assert site.get("/", **stolen)[0] == 401, "a copy of it, too"
    assert site.get("/", Authorization="", Cookie=other)[0] == 200, "another browser stays signed in"
    name, _, value = other.partition("=")
    _, _, rest = value.partition(".")
    admin = session.new_cookie(checkout(root), session.PERSON, "Bea").partition(".")[0]
    for bad in (f"{name}={admin}.{rest}", f"{name}={value[:-2]}", f"{name}=", f"evergreen-0123456789abcdef={value}"):
        assert site.get("/", Authorization="", Cookie=bad)[0] == 401, bad
    another = released_project.copy(tmp_path / "other")
    assert checkout(another).id != checkout(root).id
    with serving(another) as there:
        person(another, "Anna", "admin")
        renamed = f"evergreen-{checkout(another).id}={value}"
        for cookie in (other, renamed, f"{other}; {renamed}"):
            assert there.get("/", Authorization="", Cookie=cookie)[0] == 401, "of another project on this host"
        theirs = sign_in(there, "Anna")[1]
        assert there.get("/", Authorization="", Cookie=f"{other}; {theirs}")[0] == 200
        assert site.get("/", Authorization="", Cookie=f"{other}; {theirs}")[0] == 200, "both in one browser"


def test_a_form_from_another_page_signs_nobody_in(site, root):
    person(root, "Anna", "viewer")
    for headers in ({"Origin": "http://evil.example"}, {"Origin": ""}, {"Sec_Fetch_Site": "cross-site"}):
        assert sign_in(site, "Anna", **headers)[0] == 403
    token = store.new_link(root, "Anna", "Bea")
    body = urlencode({"passphrase": "other words here", "again": "other words here"}).encode()
    assert site.ask(f"/join/{token}", "POST", body, Authorization="", Origin="http://evil.example")[0] == 403
    assert store.invited(root, token) == "Anna"


def with_settings(root: Path, **serve) -> Path:
    about = yaml.safe_load((root / "params.yaml").read_text())
    about["serve"] |= serve
    (root / "params.yaml").write_text(yaml.safe_dump(about))
    return root


def test_a_header_names_a_person_if_a_trusted_proxy_sends_it(tmp_path):
    root = with_settings(released_project.copy(tmp_path), user_header="X-User", proxies=["127.0.0.0/8"])
    person(root, "Jörg", "labeller")
    with serving(root) as site:
        named = {"Authorization": "", "X_User": "Jörg".encode().decode("latin-1")}
        assert "Jörg" in site.get("/", **named)[2]
        assert site.get("/people", **named)[0] == 403
        status, _, text = site.get("/", Authorization="", X_User="Nobody", Accept=HTML)
        assert status == 401
        assert "Nobody" in text
        assert site.get("/", X_User="Nobody")[0] == 401, "whatever else the request brings"
        store.revoke(root, "Jörg", "Bea")
        assert site.get("/", **named)[0] == 401
        with_settings(root, proxies=["10.0.0.7"])
        assert site.get("/", Authorization="", X_User="Jörg")[0] == 401
        store.add(root, "Anna", "admin", "Bea")
        for forged in ({}, {"X_Forwarded_For": "10.0.0.7"}, {"Forwarded": "for=10.0.0.7"}):
            assert site.get("/", Authorization="", X_User="Anna", **forged)[0] == 401, "from elsewhere it is nothing"
        with_settings(root, user_header=None)
        assert site.get("/", Authorization="", X_User="Anna")[0] == 401


def test_behind_a_proxy_with_tls_the_public_address_is_known_and_the_cookie_is_secure(tmp_path):
    public = "https://evergreen.example.com"
    root = with_settings(released_project.copy(tmp_path), public_url=public)
    with serving(root) as site:
        host = {"Host": "evergreen.example.com"}
        assert site.get("/", **host)[0] == 200
        assert site.get("/", Host="evil.example.com")[0] == 421
        ticket = make_ticket(root, CONSOLE)
        _, headers, _ = site.get(f"/sign-in/{ticket}", Authorization="", **host)
        assert "Secure" in headers["set-cookie"]
        about = {"Authorization": "", "Cookie": cookie_of(headers), "Origin": public}
        page = site.get("/people", **about | host)[2]
        token = re.search(r'name="token" value="([0-9a-f.]+)"', page)[1]
        body = urlencode({"token": token, "name": "Anna", "role": "viewer"}).encode()
        assert site.ask("/people/add", "POST", body, **about)[0] == 303, "a proxy may change the Host header"
        assert site.ask("/people/add", "POST", body, **about | {"Origin": "https://evil.example.com"})[0] == 403


def test_a_viewer_may_press_nothing(site, root):
    person(root, "Anna", "viewer")
    cookie = sign_in(site, "Anna")[1]
    token = re.search(r'name="token" value="([0-9a-f.]+)"', site.get("/services", Authorization="", Cookie=cookie)[2])
    body = urlencode({"token": token[1]}).encode()
    pressed = [path for method, path in routes(site.app) if method == "POST"]
    assert len(pressed) >= 8
    for path in pressed:
        if path.startswith(("/sign-in", "/join/", "/sign-out", "/hooks/")) or path == "/images/export":
            continue  # signs in or out, is signed, or only reads
        real = re.sub(r"\{[^}]*\}", "x", path.replace("{queue}", "production"))
        status, _, text = site.ask(real, "POST", body, Authorization="", Cookie=cookie, Origin=site.url)
        assert status == 403, (path, status)
        assert "You are signed in as Anna, viewer." in text, path


def routes(app) -> list[tuple[str, str]]:
    found = []
    for route in app.routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            found += routes(type("Router", (), {"routes": inner}))
        else:
            found += [(method, route.path) for method in getattr(route, "methods", None) or ()]
    return found


def test_head_is_answered_like_get_without_a_body(site):
    pages = [path for method, path in routes(site.app) if method == "GET" and "{" not in path]
    assert len(pages) >= 15
    for path in pages:
        status, headers, text = site.ask(path, "HEAD")
        assert text == ""
        if path != "/live":  # its stream has no end
            wanted = site.get(path)
            assert (status, headers["content-type"]) == (wanted[0], wanted[1]["content-type"]), path
    assert site.ask("/live", "HEAD")[0] == 200


@pytest.mark.parametrize(
    "event", sorted(alerts.PAGES.keys() - {"label"})
)  # which needs a real model: tests of labelling
def test_the_page_that_an_alert_leads_to_is_there(site, event):
    assert site.get(alerts.PAGES[event])[0] == 200


def test_two_projects_in_one_browser_do_not_sign_each_other_in_or_out(visit, site, root, tmp_path):
    another = released_project.copy(tmp_path / "other")
    with serving(another) as there:
        visit(f"{site.url}/sign-in/{make_ticket(root, CONSOLE)}").page.context.clear_cookies()
        assert visit(f"{site.url}/sign-in/{make_ticket(root, CONSOLE)}").status == 200
        assert visit(f"{there.url}/").status == 401
        page = visit(f"{there.url}/sign-in/{make_ticket(another, CONSOLE)}?next=/people").page
        page.get_by_label("Name", exact=True).fill("Carl")
        page.get_by_role("button", name="Add, and show the link").click()
        page.get_by_role("heading", name="The link for Carl").wait_for()
        assert store.read_people(root).active("Carl") is None
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        assert visit(f"{there.url}/").status == 401
        assert visit(f"{site.url}/").status == 200
        visit(f"{site.url}/sign-in").page.context.clear_cookies()


def test_people_in_a_real_browser(visit, site, root):
    link = f"{site.url}/sign-in/{make_ticket(root, CONSOLE)}?next=/people"
    for width, dark in ((390, True), (1280, False)):
        shown = visit(f"{site.url}/people", width=width, dark=dark)
        assert (shown.status, shown.small_targets, shown.faint_texts, shown.scrolls_sideways) == (401, [], [], False)
    shown = visit(link)
    page = shown.page
    assert page.url == f"{site.url}/people"
    page.get_by_label("Name", exact=True).fill("Anna <b>")
    page.locator("form[action='/people/add'] select").select_option("labeller")
    page.get_by_role("button", name="Add, and show the link").click()
    join = page.locator("code.wrap").inner_text()
    assert "Anna <b>" in page.inner_text("main")
    page.reload()
    assert page.locator("code.wrap").count() == 0, "the link is shown once"
    for width, dark in ((390, True), (1280, False)):
        shown = visit(f"{site.url}/people", width=width, dark=dark)
        small = [one for one in shown.small_targets if "Skip" not in one]
        assert (shown.problems, small, shown.faint_texts, shown.scrolls_sideways) == ([], [], [], False)
    page.context.clear_cookies()
    token = join.rpartition("/")[2]
    page = visit(f"{site.url}/join/{token}").page
    page.get_by_label("Passphrase").fill(WORDS)
    page.get_by_label("The same again").fill(WORDS)
    page.get_by_role("button", name="Sign in").click()
    page.locator(".who").get_by_text("Anna <b>").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    page = visit(f"{site.url}/services").page
    page.get_by_label("Name").fill("Anna <b>")
    page.get_by_label("Passphrase").fill(WORDS)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Services").wait_for()
    assert page.url == f"{site.url}/services"
    with receiver() as elsewhere:  # a page of another server of this machine: the same site, so cookies are sent
        shown = visit(f"http://127.0.0.1:{elsewhere.server_address[1]}/")
        assert shown.page.evaluate("document.cookie") == "", "no script reads it"
    store.revoke(root, "Anna <b>", "Bea")
    assert visit(f"{site.url}/services").status == 401
