"""A year of schedules on a clock that the test moves, with outages and both changes of the clocks."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from flows.services import deployments, runner
from tasks.common.params import load_params
from tests.faults.tier import sample
from tests.support.checkout import ROOT

START, DAYS = datetime(2026, 1, 1, 12, tzinfo=UTC), 365


@pytest.mark.parametrize(
    "zone", sample(["Europe/Berlin"], ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
)
@pytest.mark.parametrize("seed", sample([1], range(5)))
def test_in_a_year_with_outages_each_backlog_is_one_run(monkeypatch, zone, seed):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        nightly = runner.schedules(load_params(ROOT / "params.yaml"))[deployments.retrain_when_needed]
        due = _due(nightly)
        assert len(due) == DAYS, "a run a day, also when clocks change"
        assert {date.hour for date in due} == {due[0].hour}
        outages = _outages(random.Random(seed))
        runs, made_up, last = [], 0, due[0] - timedelta(days=1)
        for begin, end in zip([START, *(end for _, end in outages)], [*(b for b, _ in outages), None], strict=True):
            missed = asyncio.run(runner.missed(nightly, last, begin))
            if missed:  # the runner's start, after an outage: one run for all that was missed
                runs.append(begin)
                made_up, last = made_up + missed, begin
            for date in due:
                if begin < date and (end is None or date < end):
                    runs.append(date)
                    last = date
    finally:
        monkeypatch.undo()
        time.tzset()
    down = sum(any(begin <= date <= end for begin, end in outages) for date in due)
    backlogs = sum(any(begin <= date <= end for date in due) for begin, end in outages)
    assert made_up == down > backlogs
    assert len(runs) == len(set(runs)) == DAYS - down + backlogs
    assert runs == sorted(runs)


def _due(schedule) -> list[datetime]:
    """When the server runs it in that year."""
    from prefect.server.schemas import schedules as server

    same = getattr(server, type(schedule).__name__)(**schedule.model_dump())
    dates = asyncio.run(same.get_dates(n=1000, start=START, end=START + timedelta(days=DAYS)))
    return [datetime.fromtimestamp(date.timestamp(), UTC) for date in dates]


def _outages(chance: random.Random) -> list[tuple[datetime, datetime]]:
    """Twelve, a month apart, of an hour to ten days; some over a change of clocks."""
    found = []
    for month in range(12):
        begin = START + timedelta(days=30 * month + chance.uniform(0, 15))
        found.append((begin, begin + timedelta(hours=chance.choice([1, 5, 24, 36, 240]))))
    return found
