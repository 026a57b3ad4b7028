"""A pause: who, why, until; kept in the release store, seen by every machine on it."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.common.errors import EvergreenError
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.pause import PAUSES, pause, pause_of, pauses, resume
from tasks.releases.store import Releases
from tasks.storage.local import LocalStore

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def releases(folder) -> Releases:
    return Releases(LocalStore(folder))


def test_it_holds_until_its_time_or_until_somebody_resumes(tmp_path):
    assert pause_of(releases(tmp_path), NOW) is None
    pause(releases(tmp_path), by="Ann", why="  the line\nis rebuilt ", until=NOW + HOUR, now=NOW)
    found = pause_of(releases(tmp_path), NOW)
    assert found.sentence() == "paused until 2026-11-21 13:00 UTC by Ann: the line is rebuilt"
    assert pause_of(releases(tmp_path), NOW + HOUR) is None
    assert resume(releases(tmp_path), by="Bo", now=NOW + HOUR) is None, "it had ended by itself"

    pause(releases(tmp_path), by="Bo", why="again", now=NOW + HOUR)
    assert pause_of(releases(tmp_path), NOW + 1000 * HOUR).sentence() == "paused until somebody resumes by Bo: again"
    assert resume(releases(tmp_path), by="Cy", now=NOW + 2 * HOUR).by == "Bo"
    assert pause_of(releases(tmp_path), NOW + 2 * HOUR) is None
    assert [(one.by, one.ended.by if one.ended else None) for one in pauses(releases(tmp_path))] == [
        ("Ann", None), ("Bo", "Cy"),
    ]  # fmt: skip


def test_a_second_pause_replaces_the_first(tmp_path):
    pause(releases(tmp_path), by="Ann", why="first", now=NOW)
    pause(releases(tmp_path), by="Bo", why="second", until=NOW + HOUR, now=NOW)
    assert pause_of(releases(tmp_path), NOW).why == "second"
    assert pause_of(releases(tmp_path), NOW + HOUR) is None, "the first one ended when the second began"


def test_a_pause_without_reason_or_in_the_past_is_refused(tmp_path):
    with pytest.raises(EvergreenError, match="needs a reason"):
        pause(releases(tmp_path), by="Ann", why=" ", now=NOW)
    with pytest.raises(EvergreenError, match="2026-11-21 11:00 UTC has passed"):
        pause(releases(tmp_path), by="Ann", why="x", until=NOW - HOUR, now=NOW)
    assert pauses(releases(tmp_path)) == []


@pytest.mark.parametrize("content", [b"not JSON", b'{"schema": 9, "pauses": []}', b'{"schema": 1, "pauses": [{}]}'])
def test_a_record_that_cannot_be_read_stops_automatic_action_with_an_error(tmp_path, content):
    (tmp_path / PAUSES).write_bytes(content)
    with pytest.raises((StoreDamaged, EvergreenError), match=r"pauses\.json in the release store"):
        pause_of(releases(tmp_path), NOW)
