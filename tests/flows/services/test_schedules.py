"""When flows run: missed runs, changes of clocks, and prefect.yaml against params.yaml."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tasks.common.params import load_params
from tests.support.checkout import ROOT

HOUR, MOMENT = timedelta(hours=1), timedelta(seconds=1)


@pytest.fixture(scope="module")
def params():
    return load_params(ROOT / "params.yaml")


def due(schedule, last: datetime | None, now: datetime) -> int:
    from flows.services import runner

    return asyncio.run(runner.missed(schedule, last, now))


def test_runs_missed_in_downtime_are_counted_and_made_up_by_one(params):
    from flows.services import deployments, runner

    nightly = runner.schedules(params)[deployments.retrain_when_needed]
    last = datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert due(nightly, last, last) == 0
    assert due(nightly, last, last + 23 * HOUR) == 0
    assert due(nightly, last, last + 24 * HOUR) == 1
    assert due(nightly, last, last + 24 * 10 * HOUR) == 10
    assert due(nightly, None, last) == 0, "a project that never ran missed nothing"
    quarter = runner.schedules(params)[deployments.monitor]
    assert due(quarter, last, last + HOUR) == 4


@pytest.mark.parametrize("day", [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)])
def test_no_run_is_skipped_or_doubled_when_clocks_change(params, day, monkeypatch):
    from flows.services import deployments, runner

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        start = day - timedelta(days=1)
        for flow, runs in ((deployments.retrain_when_needed, 3), (deployments.monitor, 3 * 24 * 4)):
            assert due(runner.schedules(params)[flow], start - timedelta(seconds=1), start + 72 * HOUR - MOMENT) == runs
    finally:
        monkeypatch.undo()
        time.tzset()


def test_prefect_yaml_says_what_params_yaml_says(params):
    listed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    schedules = {entry["entrypoint"].rpartition(":")[2]: entry["schedules"][0] for entry in listed}
    assert schedules["retrain_when_needed"]["cron"] == params.serve.retrain_cron
    assert schedules["reevaluate"]["cron"] == params.serve.reevaluate_cron
    assert schedules["housekeeping"]["cron"] == params.serve.housekeeping_cron
    assert schedules["monitor"]["interval"] == 60 * params.serve.monitor_minutes
