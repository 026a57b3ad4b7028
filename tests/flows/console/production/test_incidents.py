"""Incidents, bars and words of windows, on small lists."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.console.index.windows import WindowFilter, WindowOutline
from flows.console.production.chart import chart
from flows.console.production.incidents import bars, incident_of, incidents, is_expected
from flows.console.production.overview import chosen, page_of_incidents
from flows.console.production.words import folded, lasted, span
from monitoring.contracts import Expected

START = datetime(2026, 11, 21, tzinfo=UTC)
HOUR = timedelta(hours=1)
LETTERS = {"n": "none", "w": "watch", "l": "label", "r": "retrain"}


def windows(outcomes: str, bundle: str = "a") -> list[WindowOutline]:
    """One window an hour: "nwlr"."""
    made = []
    for number, letter in enumerate(outcomes):
        start, end = START + number * HOUR, START + (number + 1) * HOUR
        drifted = () if letter == "n" else ("image.brightness",)
        worst = None if letter == "n" else 1.0 + number / 10
        id_ = f"{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}"
        made.append(WindowOutline(id_, start, end, LETTERS[letter], "v0.1.0", bundle, drifted, worst, letter == "r"))
    return made


def mark(**changes) -> Expected:
    return Expected(**({"id": "m", "at": START, "by": "Ann", "why": "x", "since": START} | changes))


def test_windows_in_a_row_are_one_incident_and_one_quiet_window_does_not_divide_it():
    seen = windows("nwlnlrnnw")
    first, second = incidents(seen)
    assert (first.first, first.last) == (seen[1].id, seen[5].id)
    assert (first.windows, first.outcome, first.grave) == (4, "retrain", seen[5].id)
    assert (first.worst, first.ratio, first.measure) == ("image.brightness", 1.5, "brightness")
    assert first.retrained == (seen[5].id,)
    assert lasted(first.start, first.end) == "5 hours"
    assert (second.windows, second.lasts, first.lasts) == (1, True, False)
    assert incident_of(seen, seen[3].id) == first
    assert incident_of(seen, seen[7].id) is None


def test_another_model_begins_another_incident():
    assert len(incidents(windows("ww") + windows("ww", bundle="b")[1:])) == 2


def test_a_window_is_expected_if_all_that_drifted_is_marked():
    (one,) = windows("w")
    assert is_expected(one, [mark()])
    assert not is_expected(one, [mark(measures=["embedding"])])
    assert not is_expected(windows("n")[0], [mark()])
    assert [found.expected for found in incidents(windows("wwnn"), [mark(until=START + HOUR)])] == [1]


def test_incidents_come_page_by_page_the_newest_first():
    seen = windows("wnn" * 5)
    page, after = page_of_incidents(seen, (), "", most=2)
    assert [one.first for one in page] == [seen[12].id, seen[9].id]
    page, after = page_of_incidents(seen, (), after, most=2)
    assert [one.first for one in page] == [seen[6].id, seen[3].id]
    page, after = page_of_incidents(seen, (), after, most=2)
    assert ([one.first for one in page], after) == ([seen[0].id], "")


def test_a_bar_stands_for_the_gravest_of_its_windows():
    seen = windows("nwnrnnnnnn")
    found = bars(seen, most=5)
    assert [bar.outcome for bar in found] == ["watch", "retrain", "none", "none", "none"]
    assert found[1].window == seen[3].id
    assert sum(bar.windows for bar in found) == 10
    assert [bar.window for bar in bars(seen)] == [one.id for one in seen]
    assert [bar.current for bar in bars(seen, current=seen[2].id)].index(True) == 2
    assert len(bars(windows("w" * 24) * 300)) <= 150


def test_the_chart_links_each_bar_and_says_what_it_is():
    seen = windows("nwr")
    drawn = str(chart(bars(seen, current=seen[2].id), "three windows"))
    for one in seen:
        assert f'href="/production/{one.id}"' in drawn
    assert "21 Nov 2026, 02:00 to 03:00: retrain, 1.2 times the bound" in drawn
    assert drawn.count('aria-current="true"') == 1


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        ("2026-11-21T12:00:00", "2026-11-21T12:15:00", "21 Nov 2026, 12:00 to 12:15"),
        ("2026-11-21T23:50:00", "2026-11-22T00:05:00", "21 Nov 2026, 23:50 to 22 Nov 00:05"),
        ("2026-12-31T23:50:00", "2027-01-01T00:05:00", "31 Dec 2026, 23:50 to 1 Jan 2027 00:05"),
        ("2026-11-21T01:48:03", "2026-11-21T01:48:41", "21 Nov 2026, 01:48:03 to 01:48:41"),
        ("2026-11-21T01:48:00", "2026-11-22T01:48:00", "21 Nov 2026, 01:48 to 22 Nov 01:48"),
    ],
)
def test_times_of_a_window_read_right(start, end, text):
    times = [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (start, end)]
    assert span(*times) == text


def test_a_long_sentence_loses_its_middle_and_keeps_what_was_decided():
    short = "Images are darker."
    assert folded(short) == (short, "")
    long = "Images are 31 % darker (median 92, was 133), 'Bag' is 2x as common; " * 4 + "please label samples."
    first, rest = folded(long)
    assert len(first) <= 140
    assert first.startswith("Images are 31 % darker")
    assert first.endswith("please label samples.")
    assert rest == long
    assert len(folded("x" * 500)[0]) <= 140


def test_the_address_holds_the_whole_state_and_unknown_values_filter_nothing():
    state = chosen({"outcome": "label", "since": "2026-11-21", "until": "2026-11-22", "view": "windows", "x": "y"})
    assert state.address(outcome="") == "/production?since=2026-11-21&until=2026-11-22&view=windows"
    found = state.filter()
    assert (found.outcomes, found.since, found.until) == (("label",), START, START + 48 * HOUR)
    odd = chosen({"outcome": "<b>", "since": "tomorrow", "view": "all"})
    assert (odd.filter(), odd.view) == (WindowFilter(), "incidents")
    assert chosen({}).address() == "/production"
