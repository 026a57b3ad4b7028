"""The page of services where nothing runs yet; test_services.py presses its buttons on real services."""

import json

import pytest

from flows.console.jobs.store import newest_job
from flows.console.services.routes import findings
from flows.services import overview
from monitoring import alerts
from tasks.common.errors import EvergreenError
from tests.support import released_project
from tests.support.console import job_ended, serving
from tests.support.receiver import receiver


@pytest.fixture(scope="module")
def other_end():
    with receiver() as server:
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory, other_end):
    root = released_project.copy(tmp_path_factory.mktemp("services"))
    with pytest.MonkeyPatch.context() as patch, serving(root) as found:
        patch.setenv("EVERGREEN_ALERTS", f"{other_end.address} nonsense://s3cret tgram://987654:s3cret/chat")
        yield found


@pytest.fixture(scope="module")
def root(site):
    return site.app.state.console.root


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("json://user:s3cret@127.0.0.1:8000/hook?token=s3cret", "json://127.0.0.1:8000/…"),
        ("mailto://ann:s3cret@mail.example.org/bea@example.org", "mailto://mail.example.org/…"),
        ("mailtos://ann:12/34@mail.example.org", "mailtos://…"),
        ("mailtos://ann:s3/cret@mail.example.org", "mailtos://…"),
        ("slack://s3cretA/s3cretB/s3cretC", "slack://…"),
        ("tgram://987654:s3cret/chat", "tgram://…"),
        ("json://s3cret_host/x", "json://…"),
        ("s3cret", "(not an address)"),
        ("s3 cret://x", "(not an address)"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address, shown):
    assert alerts.masked(address) == shown


def test_the_page_shows_services_alerts_and_nothing_secret(site, root, visit):
    for width, dark in ((390, True), (1280, False)):
        shown = visit(f"{site.url}/services", user=site.user, width=width, dark=dark)
        small = [one for one in shown.small_targets if "Skip" not in one]
        assert (shown.problems, small, shown.faint_texts, shown.scrolls_sideways) == ([], [], [], False)
    assert shown.text.count("does not answer") == len(overview.TITLES)
    assert "nonsense://…" in shown.text
    assert "not understood" in shown.text
    assert "s3cret" not in shown.page.content()
    assert site.auth.partition(":")[2] not in shown.page.content()
    _, _, table = site.get("/services?format=csv")
    assert len(table.splitlines()) == 1 + len(overview.TITLES)
    assert site.get("/services?format=schedules")[2].removeprefix("\ufeff").strip() == "what,next"


def test_a_test_reaches_an_address_and_says_what_is_wrong_with_another(site, root, other_end):
    other_end.got.clear()
    for number in ("1", "2"):
        assert site.post("/services/alerts/test", {"number": number}, page="/services")[0] == 303
        job_ended(root, f"alert {number}")
    (got,) = other_end.got
    assert "a test" in got["title"]
    assert got["message"].endswith("/services")
    assert newest_job(root, "alert 1").result == "address 1 took a test"
    assert "apprise does not understand this address" in newest_job(root, "alert 2").result
    assert "s3cret" not in newest_job(root, "alert 2").result
    assert site.post("/services/alerts/test", {"number": "x", "back": "/services"}, page="/services")[0] == 303


def test_what_doctor_finds_is_shown_the_worst_first(site, root):
    site.post("/services/doctor", {}, page="/services")
    job = newest_job(root, "doctor")
    job_ended(root, "doctor")
    text = site.get("/services")[2]
    assert "apprise does not understand address 2 of 3" in text
    assert "checks are well" in text
    assert newest_job(root, "doctor").id == job.id
    printed = [{"check": name, "state": name, "text": "", "cure": ""} for name in ("ok", "warning", "problem")]
    assert [one["state"] for one in findings("x\n" + json.dumps(printed))] == ["problem", "warning", "ok"]
    assert findings("Traceback") is findings("[1]") is None


def test_nothing_is_restarted_or_started_where_nothing_runs(site, root):
    for name in ("evidently", "pages", "nothing"):
        with pytest.raises(EvergreenError, match=r"evergreen up|no service"):
            overview.restart(root, name)
    with pytest.raises(EvergreenError, match="evergreen up"):
        overview.run_now(root, "monitor", "Ann")
    with pytest.raises(EvergreenError, match="no schedule"):
        overview.run_now(root, "x", "Ann")
    for path, fields in (("restart", {"name": "pages"}), ("run", {"flow": "monitor"})):
        status, headers, _ = site.post(f"/services/{path}", fields | {"back": "/services"}, page="/services")
        assert (status, headers["location"]) == (303, "/services")
        assert "evergreen%20up" in headers["set-cookie"]
    for name in ("prefect", "evidently", "x"):
        assert site.get(f"/services/open/{name}")[0] == 404
    assert site.get("/services/open/prefect", Sec_Fetch_Site="cross-site")[0] == 403
