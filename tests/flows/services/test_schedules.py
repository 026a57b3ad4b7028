"""When flows run: missed runs, changes of clocks, and prefect.yaml against params.yaml."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
import yaml
from dateutil.rrule import rrulestr

from flows.services import pools
from flows.services.runner_times import ANCHOR
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


def test_prefect_yaml_takes_every_schedule_from_params_yaml(params):
    listed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    named = {entry["entrypoint"].rpartition(":")[2]: dict(*entry["schedules"]) for entry in listed}
    variables = {flow: re.findall(r"\$(\w+)", str(schedule)) for flow, schedule in named.items()}
    assert variables == {
        "retrain_when_needed": ["EVERGREEN_RETRAIN_CRON"],
        "monitor": ["EVERGREEN_MONITOR_RRULE"],
        "reevaluate": ["EVERGREEN_REEVALUATE_CRON"],
        "housekeeping": ["EVERGREEN_HOUSEKEEPING_CRON"],
    }
    assert {variable for (variable,) in variables.values()} <= pools.pool_values(ROOT).keys()


def test_the_monitors_rule_is_the_interval_of_the_runner(params):
    """Also where an hour is no multiple of the minutes, and where the day ends between two moments."""
    from flows.services import deployments, runner

    now = datetime(2026, 11, 28, 0, 5, tzinfo=UTC)
    for minutes in (7, 15, 90):
        serve = params.serve.model_copy(update={"monitor_minutes": minutes})
        interval = runner.schedules(params.model_copy(update={"serve": serve}))[deployments.monitor]
        first = list(islice(rrulestr(pools.monitor_rule(minutes, now)).xafter(now), 50))
        assert due(interval, now, first[-1]) == 50
        assert all((moment - ANCHOR) % timedelta(minutes=minutes) == timedelta() for moment in first)


def test_a_deployment_at_another_time_is_told(params):
    serve = params.serve
    found = {
        "retrain-when-needed": [{"cron": serve.retrain_cron}],
        "monitor": [{"rrule": pools.monitor_rule(serve.monitor_minutes)}],
        "reevaluate": [{"cron": serve.reevaluate_cron}],
        "housekeeping": [{"cron": serve.housekeeping_cron}],
    }
    assert pools.outdated(params, found) == []
    other = params.model_copy(update={"serve": serve.model_copy(update={"monitor_minutes": 5})})
    assert pools.outdated(other, found) == ["monitor"]
    assert pools.outdated(params, found | {"reevaluate": [], "monitor": [{"interval": 900.0}]}) == [
        "monitor",
        "reevaluate",
    ]
