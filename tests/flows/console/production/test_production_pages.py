"""/production and a window's page: why it was an alarm, and each action in at most two clicks."""

import gzip
import html
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.console.index.index import index_of
from flows.console.jobs.store import newest_job
from flows.production.monitor import monitor
from flows.production.score import score
from monitoring.contracts import Cell, SourceMeasures
from monitoring.drift.by_source import COLUMNS
from monitoring.expected import marks
from monitoring.journal import Journal
from monitoring.log.production_log import open_log
from monitoring.mutes import active_mutes
from monitoring.review.queue import queued
from tasks.common.params import load_params
from tasks.releases.pause import pause, resume
from tasks.releases.pointer import successor
from tasks.releases.store import open_store
from tests.support.browser import browser
from tests.support.console import ServedConsole, job_ended, serving
from tests.support.live_project import make, traffic
from tests.support.waiting import until

MINUTE = timedelta(minutes=1)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project with two windows of changed traffic, from three cameras, one with a hostile name."""
    folder = tmp_path_factory.mktemp("production")
    root = make(folder)
    (root / "tasks").mkdir()
    (root / "tasks/code.py").write_text("code = 1\n")
    (root / "tombstones.json").write_text("{}\n")
    from tests.support.checkout import git

    git(root, "add", "-A")
    git(root, "commit", "-qm", "code")
    start = open_store(load_params(root / "params.yaml").store, root).live().at + MINUTE
    for number in range(2):
        begin = start + number * 16 * MINUTE
        times = [begin + n * timedelta(seconds=5) for n in range(60)]
        file = traffic(folder / f"{number}.parquet", 2, 60, taken_at=times)
        score(root, str(file), name=None)
        monitor(root, now=begin + 15 * MINUTE)
    index_of(root).refresh()
    return root


@pytest.fixture(scope="module")
def site(root):
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def window(root) -> str:
    return Journal(open_log(root, load_params(root / "params.yaml")).store).windows()[-1]


def store(root: Path):
    return open_log(root, load_params(root / "params.yaml")).store


def toast(site: ServedConsole, answer) -> str:
    """What the page that a POST leads to says."""
    status, headers, _ = answer
    assert status == 303, answer
    return site.get(headers["Location"], Cookie=headers["Set-Cookie"].split(";")[0])[2]


def test_the_list_links_each_window_and_says_what_moved(site, root, window):
    status, _, text = site.get("/production")
    assert status == 200
    assert text.count('<svg class="windows"') == 1
    for one in Journal(store(root)).windows():
        assert f'/production/{one}"' in text
    assert "ood.rate<" not in text, "people read plain names"
    assert "Look now" in text
    assert len(re.findall("<[a-z]", text)) < 1500
    everything = site.get("/production?view=windows")[2]
    assert everything.count("data-item") == 2
    assert site.get("/production?outcome=none")[2].count("data-item") == 0
    csv = site.get("/production?format=csv&view=windows")
    assert csv[1]["Content-Disposition"] == 'attachment; filename="windows.csv"'
    assert window in csv[2]
    assert site.get("/production?format=csv")[2].count("\n") == 2, "one incident and the head"
    assert "week,version,accuracy," in site.get("/production?format=weeks")[2]


def test_a_window_says_why_since_when_and_which_source(site, root, window):
    status, _, text = site.get(f"/production/{window}")
    assert status == 200
    (sentence,) = re.findall(r"<h1>.*?</h1>\s*<p><span[^>]*>[^<]*</span> ([^<]*)</p>", text, re.DOTALL)
    assert 0 < len(html.unescape(sentence)) <= 140
    first = Journal(store(root)).windows()[0]
    assert f'Since <a href="/production/{first}">' in text
    assert 'class="heat"' in text
    details = Journal(store(root)).details(window)
    assert details.moved
    for one in details.moved:
        assert f'href="/images/{one.id}"' in text
        assert all(f'href="/images/{other}"' in text for other in one.beside)
    assert f'href="/production/{window}/archive"' in text
    assert f'href="/production/{window}/evidently"' in text
    assert 'aria-current="true"' in text
    assert len(re.findall("<[a-z]", text)) < 1500
    assert "share of unfamiliar images" in text
    for kind, words in (
        ("measures", "brightness,image.brightness,"),
        ("sources", "share of unfamiliar images,ood.rate,"),
        ("checks", "check,code,result,value,bound,meaning"),
    ):
        assert words in site.get(f"/production/{window}?format={kind}")[2]


def test_a_window_of_many_sources_with_odd_names_stays_small(site, root, window):
    journal = Journal(store(root))
    known = journal.details(window)
    cell = Cell(value=0.123, was=0.1, ratio=2.5)
    names = [HOSTILE, "\u202egnp.exe", "", *(f"hall {n} " + "x" * 300 for n in range(37))]
    sources = [SourceMeasures(source=one, rows=100, cells=dict.fromkeys(COLUMNS, cell)) for one in names]
    try:
        journal.keep_details(window, known.model_copy(update={"sources": sources}))
        text = site.get(f"/production/{window}")[2]
        assert len(re.findall("<[a-z]", text)) < 1500
        assert len(gzip.compress(text.encode())) < 100_000
        assert HOSTILE not in text
        assert "\u202e" not in re.sub('value="[^"]*"', "", text)
        assert "15 more sources moved less" in text
    finally:
        journal.keep_details(window, known)


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "2026-13-45"])
def test_days_at_the_ends_of_time_are_no_error(site, day):
    assert site.get(f"/production?until={day}&since={day}")[0] == 200


def test_windows_that_are_not_there_are_not_found(site):
    for name in ("20200101T000000Z-20200101T001500Z", "x", "..%2f..%2fetc"):
        assert site.get(f"/production/{name}")[0] == 404


def test_label_these_asks_for_the_windows_images_and_leads_to_the_queue(site, root, window):
    page = f"/production/{window}"
    before = {entry.id for entry in queued(open_log(root, load_params(root / "params.yaml")))}
    status, headers, _ = site.post(f"{page}/label", {}, page=page)
    assert (status, headers["Location"]) == (303, "/label/production")
    added = [one for one in queued(open_log(root, load_params(root / "params.yaml"))) if one.id not in before]
    if added:
        assert {one.because.split(":")[0] for one in added} == {f"window {window}"}
    asked = len(before) + len(added)
    text = site.get(page)[2]
    number = int(re.search(r"(\d+) images</a> asked for", text)[1])
    assert 0 < number <= asked


def test_muting_lasts_as_long_as_was_said(site, root, window):
    page = f"/production/{window}"
    assert "muted until" in toast(site, site.post(f"{page}/mute", {"for": "1h", "why": "lamp"}, page=page))
    (one,) = active_mutes(root)
    assert (one.kind, one.why) == ("drift", "lamp")
    assert abs(one.until - one.at - timedelta(hours=1)) < MINUTE
    toast(site, site.post(f"{page}/mute", {"for": "quiet"}, page=page))
    (one,) = active_mutes(root)
    assert one.until is None
    listed = site.get("/production")[2]
    assert "muted until it is quiet" in listed
    answer = site.post("/production/mute", {"kind": "held", "for": "quiet", "back": "/production"}, page="/production")
    assert "mute them until a time" in toast(site, answer)
    toast(site, site.post("/production/mute", {"kind": "held", "for": "1d"}, page="/production"))
    assert [one.kind for one in active_mutes(root)] == ["drift", "held"]
    site.post("/production/mutes", {"kind": "held"}, page="/production")
    site.post("/production/mutes", {"kind": "drift"}, page="/production")
    assert active_mutes(root) == []


def test_what_is_marked_as_expected_is_shown_so_and_can_be_taken_back(site, root, window):
    page = f"/production/{window}"
    measures, _ = Journal(store(root)).read(window)
    drifted = [one.name for one in measures.drifted()]
    sent = {"measure": drifted, "until": "7d", "why": HOSTILE, "back": page}
    assert "Marked as expected" in toast(site, site.post(f"{page}/expected", sent, page=page))
    (one,) = marks(store(root))
    assert (sorted(one.measures), one.sources) == (sorted(drifted), [])
    assert one.since == Journal(store(root)).read(Journal(store(root)).windows()[0])[0].window.start
    text = site.get(page)[2]
    assert '<span class="tag expected">expected</span>' in text
    assert HOSTILE not in text
    assert "Nothing in this window drifted that is not marked already" in text
    listed = site.get("/production")[2]
    assert "Remove this mark" in listed
    assert '<span class="tag">expected</span>' in listed
    site.post("/production/marks", {"id": one.id}, page="/production")
    assert marks(store(root)) == []
    assert '<span class="tag expected">' not in site.get(page)[2]


def test_a_mark_without_a_reason_says_so_and_changes_nothing(site, root, window):
    page = f"/production/{window}"
    answer = site.post(f"{page}/expected", {"why": " ", "until": "7d", "back": page}, page=page)
    assert "a mark needs a reason" in toast(site, answer)
    answer = site.post(f"{page}/expected", {"why": "x", "until": "soon", "back": page}, page=page)
    assert "expected hours or days" in toast(site, answer)
    assert marks(store(root)) == []


def test_retrain_says_what_is_new_before_the_press(site, root, window):
    from flows.repo.run_inputs import current_inputs, record_ending

    page = f"/production/{window}"
    text = site.get(page)[2]
    assert "New since v0.1.0" in text
    assert "evergreen " not in re.sub(r"<[^>]*>", "", text), "a page has buttons, not commands"
    key, _, _ = current_inputs(root)
    record_ending(root, key, {"run_id": "r-9", "outcome": "held", "version": None, "sentence": "no better"})
    text = ""

    def says_so() -> bool:
        nonlocal text
        text = site.get(page)[2]
        return "Nothing is new since run r-9, which ended as held: nothing will start" in text

    until(says_so)
    assert f'action="{page}/retrain"' not in text, "nothing is promised that would not happen"


def test_retrain_is_one_job_and_its_end_is_said(site, root, window):
    page = f"/production/{window}"  # nothing is new, as the test above recorded: the job ends at once and says so
    status, headers, _ = site.post(f"{page}/retrain", {"why": ""}, page=page)
    job = newest_job(root, "retrain")
    assert status == 303
    assert headers["Location"] in (page, f"/jobs/{job.id}"), "no run began, so there is none to lead to"
    job_ended(root, "retrain")
    assert "nothing new since run r-9" in newest_job(root, "retrain").result
    assert job.arguments[0] == "retrain"
    assert job.arguments[1].startswith(f"--reason=window {window}: ")


def test_a_version_is_no_option_of_the_command(site, root, window):
    page = f"/production/{window}"
    fields = {"version": "--restore=taken", "why": "worse"}
    assert site.post(f"{page}/rollback", fields, page=page)[0] == 303
    job_ended(root, "rollback")
    assert "no version '--restore=" in newest_job(root, "rollback").result
    assert not (root / "taken").exists()


def test_roll_back_names_the_version_and_runs_as_a_job(site, root, window):
    page = f"/production/{window}"
    assert "Not possible: v0.1.0 is the first version" in site.get(page)[2]
    releases = open_store(load_params(root / "params.yaml").store, root)
    first = releases.live()
    about = {"git_rev": first.git_rev, "bundle": first.bundle, "by": "a", "why": "more"}
    releases.promote(successor(first, version="v0.2.0", run_id="r-2", **about))
    text = site.get(page)[2]
    assert "Makes v0.1.0 live again" in text
    assert "in place of v0.2.0" in text
    site.post(f"{page}/rollback", {"version": "v0.1.0", "why": "worse"}, page=page)
    job_ended(root, "rollback")
    assert newest_job(root, "rollback").code == 0, newest_job(root, "rollback").said
    assert (releases.live().version, releases.live().why) == ("v0.1.0", f"rollback: window {window}: worse")


def test_a_pause_is_said_where_a_retraining_is_started(site, root, window):
    from flows.repo.run_inputs import current_inputs

    (root / ".evergreen/seen" / f"{current_inputs(root)[0]}.json").unlink(missing_ok=True)
    releases = open_store(load_params(root / "params.yaml").store, root)
    pause(releases, by="Ann", why="the line is rebuilt")
    until(lambda: "paused until somebody resumes by Ann" in site.get(f"/production/{window}")[2])
    resume(releases, by="Ann")


def test_look_now_is_a_job(site, root):
    status, _, _ = site.post("/production/look", {"back": "/production"}, page="/production")
    assert status == 303
    job_ended(root, "monitor")
    assert newest_job(root, "monitor").code == 0, newest_job(root, "monitor").said


def test_the_run_that_named_the_window_and_its_version_are_in_the_chain(site, root, window):
    releases = open_store(load_params(root / "params.yaml").store, root)
    at = datetime.strptime(window[:16], "%Y%m%dT%H%M%SZ") + timedelta(hours=1)
    run = f"{at:%Y%m%dT%H%M%S%f}-abcdef-1"
    releases.put_run(run, {"outcome": "promoted", "sentence": "better", "reason": f"window {window}: darker", "by": "a",
                           "version": "v0.3.0", "at": None, "decisions": []})  # fmt: skip
    text = ""

    def linked() -> bool:
        nonlocal text
        text = site.get(f"/production/{window}")[2]
        return f'href="/runs/{run}"' in text

    until(linked)
    assert f'href="/releases/{run}">v0.3.0</a>' in text


@pytest.mark.parametrize("action", ["label", "retrain", "mute", "expected", "rollback"])
def test_forms_from_elsewhere_are_refused(site, window, action):
    status, _, _ = site.ask(f"/production/{window}/{action}", "POST", b"token=x", Origin=site.url)
    assert status == 403


@pytest.mark.long
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_in_a_browser(site, window, width, dark):
    with browser() as visit:
        for path in ("/production", "/production?view=windows", f"/production/{window}"):
            page = visit(site.url + path, width=width, dark=dark, user=site.user)
            assert page.problems == []
            assert (page.images, page.unnamed_images) == (page.images_loaded, 0)
            assert not page.scrolls_sideways
            assert page.axe_violations == []
            assert page.faint_texts == []
            assert [one for one in page.small_targets if "Skip to" not in one] == []
        assert page.images > 0
        assert page.page.locator(".window-actions > *").count() == 6
        page.page.get_by_text("Mute", exact=True).click()
        assert page.page.get_by_role("button", name="1 hour").is_visible(), "the second click mutes"
