"""Alerts reach a real receiver, wait for one that is down, and never reveal their addresses."""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring import alerts
from monitoring.seen import Seen, note_seen
from monitoring.silence import monitor_silence
from tasks.common.files import read_json, write_json
from tasks.common.params import AlertsParams
from tests.support.checkout import ROOT
from tests.support.receiver import receiver

PARAMS = AlertsParams(urls_env="TEST_ALERTS")


@pytest.fixture(scope="module")
def server():
    with receiver() as running:
        yield running


@pytest.fixture
def other_end(server, monkeypatch):
    server.got.clear()
    server.status = 200
    monkeypatch.setenv("TEST_ALERTS", server.address)
    monkeypatch.setattr(alerts, "PAUSE", 0.01)
    return server


@pytest.fixture
def outbox(tmp_path) -> alerts.Outbox:
    return alerts.Outbox(tmp_path, PARAMS)


def test_an_alert_arrives_with_sentence_link_and_what_was_done(other_end, outbox, tmp_path):
    problems = outbox.send(
        "label", "The camera <b>changed</b>.", name="boots", done="20 samples queued", link="http://x/r"
    )
    assert problems == []
    (got,) = other_end.got
    assert got["title"] == "Evergreen boots: drift: labels are needed"
    assert got["message"] == "The camera <b>changed</b>.\nDone: 20 samples queued\nOpen: http://x/r"
    assert not list(tmp_path.glob("*.json")), "a delivered alert leaves the outbox"


def test_an_event_that_is_not_listed_and_a_missing_address_send_nothing(other_end, outbox, tmp_path, monkeypatch):
    assert outbox.send("watch", "A little drift.", name="boots", link="http://x/r") == []
    monkeypatch.delenv("TEST_ALERTS")
    assert outbox.send("label", "Drift.", name="boots", link="http://x/r") == []
    assert other_end.got == []
    assert not list(tmp_path.glob("*.json"))


def test_a_receiver_that_was_down_gets_the_alert_later_and_the_others_get_it_once(
    other_end, outbox, tmp_path, monkeypatch
):
    with receiver() as second:
        second.status = 500
        monkeypatch.setenv("TEST_ALERTS", f"{other_end.address} {second.address}")
        (problem,) = outbox.send("failed", "It failed.", name="boots", link="http://x/r")
        assert problem.startswith("TEST_ALERTS, address 2: could not be reached")
        assert (len(other_end.got), len(second.got)) == (1, 0)
        second.status = 200
        assert outbox.deliver() == []
        assert (len(other_end.got), len(second.got)) == (1, 1)
    assert outbox.deliver() == []


def test_an_alert_is_dropped_after_a_day(other_end, outbox, tmp_path):
    other_end.status = 500
    assert outbox.send("failed", "It failed.", name="boots", link="http://x/r")
    (file,) = tmp_path.glob("*.json")
    write_json(file, read_json(file) | {"at": (datetime.now(UTC) - timedelta(days=2)).isoformat()})
    assert outbox.deliver()
    assert not file.exists()


@pytest.mark.parametrize("bad", ["json://user:s3cret@127.0.0.1:1/hook", "nonsense://s3cret"])
def test_secrets_appear_in_no_message_log_or_file(bad, outbox, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(alerts, "PAUSE", 0.01)
    monkeypatch.setenv("TEST_ALERTS", bad)
    with caplog.at_level(logging.DEBUG):
        (problem,) = outbox.send("failed", "It failed.", name="boots", link="http://x/r")
    kept = "".join(file.read_text() for file in tmp_path.glob("*.json"))
    captured = capfd.readouterr()
    assert "s3cret" not in problem + kept + caplog.text + captured.out + captured.err
    assert "address 1" in problem


@pytest.fixture
def project(tmp_path, other_end, monkeypatch) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv("EVERGREEN_ALERTS", other_end.address)
    return tmp_path


def test_an_alarm_that_lasts_is_sent_once_a_day_and_again_after_it_ended(project, other_end):
    for _ in range(3):
        alerts.alert_once(project, "no samples", "silence", "Nothing came.")
    assert len(other_end.got) == 1
    alarms = project / ".evergreen" / "alarms.json"
    write_json(alarms, {"no samples": (datetime.now(UTC) - timedelta(hours=25)).isoformat()})
    alerts.alert_once(project, "no samples", "silence", "Nothing came.")
    assert len(other_end.got) == 2
    alerts.alert_once(project, "no samples", "silence", None)
    assert json.loads(alarms.read_text()) == {}
    alerts.alert_once(project, "no samples", "silence", "Nothing came.")
    assert len(other_end.got) == 3


def test_a_monitor_that_does_not_run_is_noticed_from_outside(project):
    up = datetime(2026, 3, 1, tzinfo=UTC)
    assert monitor_silence(project, up, up + timedelta(minutes=119)) is None
    assert "no run has ever succeeded" in monitor_silence(project, up, up + timedelta(minutes=121))
    note_seen(project, Seen(at=up + timedelta(minutes=100), outcome="waiting", sentence="the window stays open"))
    assert monitor_silence(project, up, up + timedelta(minutes=219)) is None
    assert "01:40" in monitor_silence(project, up, up + timedelta(minutes=221))
