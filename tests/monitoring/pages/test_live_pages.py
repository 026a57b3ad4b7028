"""Live accuracy on the pages: in a real browser, with hostile names, and renewed when labels come."""

from datetime import UTC, timedelta

import pytest
from markupsafe import escape

from monitoring.contracts import Finding
from monitoring.live.estimate import more_labels
from monitoring.live.periods import week_of
from monitoring.pages import live, report
from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.live import Live
from monitoring.pages.render import name
from tests.support import drift_windows
from tests.support.hostile import PAYLOADS
from tests.support.live_weeks import week

MONDAY = week_of(drift_windows.times(7)[0].astimezone(UTC))
WEEK = timedelta(days=7)
MANY = [f"class {n}" for n in range(20)]


def written(folder, periods):
    """A window's page and the index, with these weeks; returns the window's page."""
    live.write(folder, Live(periods=periods))
    past = drift_windows.history(8)
    shown = MeasuredWindow(
        drift_windows.window_table(7), drift_windows.reference_table(), *past[7], drift_windows.CLASSES
    )
    return report.write(folder, shown, past[:7])


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_home_and_window_tell_how_often_answers_were_right(tmp_path, visit, width, dark):
    now = week(MONDAY)
    page = written(tmp_path, [week(MONDAY - WEEK, classes=MANY), now])
    said = live.headline(now).replace("+-", "±").replace(" %", "\u00a0%")
    assert f"{more_labels(now.accuracy, 0.03)} more labels make it ±3 points" in said
    for opened in (visit(tmp_path / "index.html", width=width, dark=dark), visit(page, width=width, dark=dark)):
        assert opened.problems == []
        assert opened.requests == []
        assert not opened.scrolls_sideways
        text = opened.text.replace("\xa0", " ")
        assert said.replace("\xa0", " ") in text
        for part in ("line-1", "line-2", "Recall per class", "Confusion matrix", "Trouser", "160 of 1500 answers"):
            assert part in text, part
        cells = opened.page.locator("table.matrix tr").first.locator("th")
        assert cells.count() == 1 + len(drift_windows.CLASSES)


def test_earlier_weeks_open_by_keyboard_and_many_classes_list_their_mistakes(tmp_path, visit):
    written(tmp_path, [week(MONDAY - WEEK, classes=MANY), week(MONDAY)])
    opened = visit(tmp_path / "index.html", width=400)
    summary = opened.page.locator("#live-accuracy details summary")
    assert summary.count() == 1
    assert not opened.page.get_by_text("class 3 → class 4").is_visible()
    summary.focus()
    opened.page.keyboard.press("Enter")
    assert opened.page.get_by_text("class 3 → class 4").is_visible()
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.getAttribute('role')") == "region"
    assert not opened.scrolls_sideways


def test_without_random_labels_the_page_says_that_they_prove_little(tmp_path, visit):
    written(tmp_path, [week(MONDAY, random=False)])
    text = visit(tmp_path / "index.html").text
    assert "none of them asked for at random" in text
    assert "% right;" not in text


def test_hostile_names_of_classes_sources_and_versions_run_nothing(tmp_path, visit):
    parts = [PAYLOADS[start : start + 6] for start in range(0, len(PAYLOADS), 6)]
    weeks = [
        week(MONDAY - n * WEEK, classes=part, sources=(part[0], part[-1]), version=part[n], labels=400)
        for n, part in enumerate(parts)
    ]
    many = week(MONDAY - len(parts) * WEEK, classes=PAYLOADS, sources=tuple(PAYLOADS), labels=1200)
    page = written(tmp_path, live.in_order([*weeks, many]))
    index = tmp_path / "index.html"
    for path, tables in ((page, 1), (index, len(parts))):
        opened = visit(path)
        assert opened.problems == []
        assert opened.requests == []
        assert opened.page.locator("table.matrix").count() == tables
    shown = index.read_text()
    assert all(escape(name(payload)) in shown for payload in PAYLOADS), "each was shown, as text"


def test_a_window_measured_again_says_so_on_its_page_and_keeps_its_decision(tmp_path):
    page = written(tmp_path, [])
    before = page.read_text()
    assert "Recall per class" not in before
    measures, decision = drift_windows.history(8)[7]
    found = Finding(name="accuracy.true", status="info", value=0.42, low=0.31, high=0.53)
    later = measures.model_copy(update={"findings": [*measures.findings, found]})
    report.revise(tmp_path, later, [week(MONDAY)], drift_windows.times(7)[1] + timedelta(days=3))
    after = page.read_text()
    assert "<b>42 %</b>" in after
    assert "when labels had come" in after
    assert "Recall per class" in after
    assert str(escape(decision.sentence)) in after
    report.revise(tmp_path, later, [week(MONDAY)], drift_windows.times(7)[1] + timedelta(days=3))
    assert page.read_text() == after, "a second time changes nothing"
    old = after.replace("<!-- accuracy -->", "").replace("<!-- week", "<!-- x")
    page.write_text(old)
    report.revise(tmp_path, measures, [], drift_windows.times(7)[1])
    assert page.read_text() == old, "a page of an older version stays as it is"
    page.unlink()
    report.revise(tmp_path, later, [], drift_windows.times(7)[1])
    assert not page.exists(), "a pruned page stays away"


def test_the_served_pages_show_weeks_measured_since(tmp_path):
    page = written(tmp_path, [])
    served = live.with_week(page.read_text(), [week(MONDAY, bundle="cd" * 32)])
    assert "Recall per class" not in served, "another model's week"
    assert "Recall per class" in live.with_week(page.read_text(), [week(MONDAY)])


def test_the_newest_week_with_labels_enough_speaks_for_the_model():
    old, now, few = week(MONDAY - WEEK), week(MONDAY), week(MONDAY + WEEK, labels=4)
    assert live.newest([]) is None
    assert live.newest([old, now, few]) == now
    assert live.newest([few]) == few
    other = week(MONDAY + WEEK, labels=4, bundle="cd" * 32, version="v0.2.0")
    assert live.newest([old, now, other], now.bundle) == now, "a canary is newer than the live model"
    assert live.newest([old, now, other]) == other, "another model's labels say nothing about this one"
    assert live.in_order([other.model_copy(update={"version": "v0.10.0"}), other])[0] == other


def test_a_damaged_or_newer_file_of_weeks_is_measured_again(tmp_path):
    kept = Live(labels=["labels/a.parquet"], periods=[week(MONDAY)])
    live.write(tmp_path, kept)
    assert live.read(tmp_path) == kept
    (tmp_path / live.FILE).write_text("{")
    assert live.read(tmp_path) == Live()
