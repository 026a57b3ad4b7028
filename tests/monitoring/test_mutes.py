"""Muted alarms are not sent, and end by themselves: at their time, or when the alarm ends."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring import alerts
from monitoring.mutes import active_mutes, mute, muted, mutes, unmute
from tasks.common.errors import EvergreenError
from tests.support.checkout import ROOT
from tests.support.receiver import receiver

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server():
    with receiver() as running:
        yield running


@pytest.fixture
def got(server, monkeypatch) -> list:
    server.got.clear()
    monkeypatch.setenv("EVERGREEN_ALERTS", server.address)
    return server.got


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def test_a_muted_kind_is_not_sent_and_the_others_are(root, got):
    mute(root, "drift", by="Ann", why="camera 3 is serviced", until=datetime.now(UTC) + HOUR)
    alerts.alert_once(root, "drift label", "label", "images are darker")
    alerts.alert(root, "retrain", "a retraining was requested")
    assert got == []
    alerts.alert(root, "held", "a model waits")
    assert [one["message"].splitlines()[0] for one in got] == ["a model waits"]
    assert muted(root, "watch").sentence().endswith("UTC by Ann: camera 3 is serviced")


def test_an_alarm_that_outlasts_its_mute_is_sent_then(root, got):
    mute(root, "drift", by="Ann", why="x", until=datetime.now(UTC) + HOUR)
    alerts.alert_once(root, "drift label", "label", "images are darker")
    unmute(root, "drift", by="Bo")
    alerts.alert_once(root, "drift label", "label", "images are darker")
    assert [one["message"].splitlines()[0] for one in got] == ["images are darker"]
    (one,) = mutes(root)
    assert (one.ended_by, active_mutes(root)) == ("Bo", [])


def test_until_quiet_ends_with_the_alarm_and_not_before(root, got):
    mute(root, "silence", by="Ann", why="a holiday")
    alerts.alert_once(root, "no samples", "silence", "no sample has been logged")
    alerts.alert_once(root, "monitor silence", "silence", None)  # another alarm of this kind, which never was
    alerts.alert_once(root, "no samples", "silence", "no sample has been logged")
    assert got == []
    alerts.alert_once(root, "no samples", "silence", None)
    assert active_mutes(root) == []
    alerts.alert_once(root, "no samples", "silence", "no sample has been logged")
    assert len(got) == 1, "the next alarm is told"


def test_until_quiet_also_ends_with_an_alarm_that_was_told_before_the_mute(root, got):
    alerts.alert_once(root, "drift label", "label", "images are darker")
    mute(root, "drift", by="Ann", why="")
    for outcome in ("watch", "label", "retrain"):  # as a quiet window does
        alerts.alert_once(root, f"drift {outcome}", outcome, None)
    assert active_mutes(root) == []
    assert mutes(root)[0].ended_by is None


def test_a_mute_in_the_past_or_without_an_end_is_refused(root):
    with pytest.raises(EvergreenError, match="has passed"):
        mute(root, "drift", by="Ann", why="x", until=datetime.now(UTC) - HOUR)
    with pytest.raises(EvergreenError, match="never become quiet"):
        mute(root, "held", by="Ann", why="x")
    with pytest.raises(EvergreenError, match="no kind of alarm 'everything'; there are: drift"):
        mute(root, "everything", by="Ann", why="x")


def test_a_damaged_file_mutes_nothing(root, got):
    mute(root, "drift", by="Ann", why="x")
    (root / ".evergreen/mutes.json").write_text("{")
    alerts.alert(root, "label", "images are darker")
    assert len(got) == 1
