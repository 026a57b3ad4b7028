"""The first page: what waits, what is live, the pause, what happened since."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.console.index.index import index_of
from flows.console.now import since
from flows.console.shell import facts, live
from flows.repo.tombstones import settings_of
from monitoring.alerts import alert_once
from monitoring.journal import Journal
from monitoring.log.production_log import open_log
from monitoring.seen import Seen, note_seen
from tasks.common.params import load_params
from tests.support import drift_windows, released_project
from tests.support.console import serving
from tests.support.waiting import until


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return released_project.copy(tmp_path_factory.mktemp("now"))


@pytest.fixture
def site(root, monkeypatch):
    monkeypatch.setattr(facts, "SECONDS", 0.0)
    with serving(root) as found:
        yield found


def held(root, run="20261121T090000000000-ab12") -> str:
    """A held run's record, as a run leaves it."""
    about = {
        "outcome": "held",
        "sentence": "hold: <b>boot</b> is worse",
        "by": "a",
        "reason": "r",
        "at": now().isoformat(),
    }
    released_project.store(root).put_run(run, about | {"decisions": [], "bundle": "1" * 64, "rev": None})
    return run


def now() -> datetime:
    return datetime.now(UTC)


def test_the_live_version_and_nothing_that_waits(site):
    text = site.get("/")[2]
    assert "<b>v0.3.0</b> since" in text
    assert "Nothing waits." in text
    assert "No service looks at production" in text


def test_a_held_run_appears_on_an_open_page_by_itself(site, root, visit):
    shown = visit(site.url, user=site.user)
    assert shown.page.get_by_text("A model waits for approval").count() == 0
    run = held(root)
    shown.page.get_by_text("A model waits for approval").wait_for()
    assert live.SECONDS <= 5  # how often the server looks
    assert "hold: <b>boot</b> is worse" in shown.text
    assert shown.page.get_by_role("link", name="Decide").get_attribute("href") == f"/releases/{run}"
    assert shown.axe_violations == []
    assert shown.problems == []


def test_an_alarm_leads_to_its_window_and_silence_to_the_services(site, root):
    measures, decision = drift_windows.history(8)[7]
    Journal(open_log(root, load_params(root / "params.yaml")).store).append(measures, decision)
    index_of(root).refresh()
    assert f'href="/production/{measures.window.id}"' in site.get("/")[2]
    alert_once(root, "no samples", "silence", "no sample for 3 hours")
    text = site.get("/")[2]
    assert "No samples arrive" in text
    assert 'href="/services"' in text


def test_a_refused_batch_says_why_without_naming_a_file(site, root):
    why = "38 of 47 images look like another class; all figures are in /somewhere/b-9.html"
    released_project.store(root).tombstone(
        "b-9", why=why, by="run x", settings=settings_of(load_params(root / "params.yaml"))
    )
    text = site.get("/")[2]
    assert "38 of 47 images look like another class" in text
    assert 'href="/data/b-9"' in text
    assert "/somewhere" not in text


def test_what_the_monitor_found_is_said_in_words(site, root):
    note_seen(root, Seen(at=now(), outcome="none", sentence="x", window=drift_windows.times(7)[2]))
    assert ">all quiet</a>" in site.get("/")[2]
    note_seen(root, Seen(at=now(), outcome="waiting", sentence="x"))
    assert "too few answers so far" in site.get("/")[2]


def test_a_pause_is_on_every_page_and_ends_by_a_button(site, visit):
    shown = visit(site.url, user=site.user)
    shown.page.locator("summary", has_text="Pause").click()
    shown.page.get_by_label("Until").fill("3d")
    shown.page.get_by_label("Reason").fill("the <i>line</i> is rebuilt")
    shown.page.get_by_role("button", name="Pause").click()
    shown.page.locator(".toast.good").get_by_text("the <i>line</i> is rebuilt").wait_for()
    assert "by Ann: the <i>line</i> is rebuilt" in visit(f"{site.url}/runs", user=site.user).text
    shown = visit(site.url, user=site.user)
    shown.page.get_by_role("button", name="Resume").click()
    shown.page.locator(".toast.good").get_by_text("Resumed").wait_for()
    assert shown.page.locator(".strip").count() == 0


def test_a_wrong_time_is_said_on_the_page(site):
    status, headers, _ = site.post("/pause", {"until": "yesterday", "why": "x", "back": "/"}, page="/")
    assert (status, headers["location"]) == (303, "/")
    assert "is%20not%20a%20time" in headers["set-cookie"]


def test_what_happened_since_the_last_visit(root, monkeypatch):
    from flows.console.shell.console import Console
    from tasks.common.access import access_of

    start = now()
    assert since.note_visit(root, "Cleo", start) is None
    assert since.note_visit(root, "Cleo", start + timedelta(minutes=10)) is None, "the same visit"
    later = start + timedelta(hours=5)
    assert since.note_visit(root, "Cleo", later) == start + timedelta(minutes=10)
    assert since.note_visit(root, "Cleo", later + timedelta(minutes=5)) == start + timedelta(minutes=10)
    console = Console(root, access_of(root, load_params(root / "params.yaml").serve), b"key")
    happened = since.happened_since(console, datetime(2020, 1, 1, tzinfo=UTC))
    assert {"v0.1.0 went live, by ann", "v0.3.0 went live, by ann"} <= {one.text for one in happened}
    assert since.happened_since(console, now() + timedelta(days=1)) == []
    (root / ".evergreen/console/visits.json").write_text("[")
    assert since.note_visit(root, "Cleo", later) is None


def test_a_running_job_is_shown(site, root):
    from flows.console.jobs.store import read_job, start_job

    job = start_job(root, ["verify"], slot="v", title="Verify <b>all</b>", by="Ann", back="/")
    assert "Verify &lt;b&gt;all" in site.get("/")[2]
    until(lambda: not read_job(root, job.id).runs)
    assert "Verify" not in site.get("/")[2]


def test_a_refused_batch_waits_until_the_rules_for_data_change(site, root):
    settings = settings_of(load_params(root / "params.yaml"))
    released_project.store(root).tombstone("b-1", why="noisy <b>labels</b>", by="run r-7", settings=settings)
    text = site.get("/")[2]
    assert 'href="/data/b-1"' in text
    assert "noisy &lt;b&gt;labels" in text
    file = root / "params.yaml"
    before = file.read_text()
    file.write_text(before.replace("  min_batch: ", "  min_batch: 1"))
    assert settings_of(load_params(file)) != settings
    assert 'href="/data/b-1"' not in site.get("/")[2], "the next run judges it again"
    file.write_text(before)
    released_project.store(root).untombstone("b-1", why="over", by="ann")
