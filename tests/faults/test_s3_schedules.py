"""Many orders of eight writers' requests over a network that fails; a failure can be replayed from its seed."""

import json

from benchmarks import s3_schedules
from benchmarks.s3_network import FAULTS
from tasks.releases.store import Releases
from tests.faults.tier import sample


def test_eight_writers_promote_each_version_once_whatever_the_network_does():
    found = s3_schedules.part(0, sample(5, 300))
    assert found["failures"] == {}
    assert set(found["faults"]) == set(FAULTS)


def test_a_schedule_is_the_same_each_time():
    world = s3_schedules.world()
    one, another, other = (world.schedule(seed)[1] for seed in (3, 3, 4))
    assert one == another
    assert [(writer, method) for writer, method, *_ in one] != [(writer, method) for writer, method, *_ in other]


def test_a_lost_promotion_is_told(monkeypatch):
    """A writer that takes an error for a promotion that happened loses it."""
    world = s3_schedules.world()
    promote = Releases.promote
    monkeypatch.setattr(Releases, "promote", lambda self, pointer: pointer.version[-3] == "1" or promote(self, pointer))
    assert world.schedule(1)[0] == ["lost v0.1.0"]


def test_calls_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(s3_schedules, "BATCH", 1)
    monkeypatch.setattr(s3_schedules, "report", lambda *arguments, **_: None)
    for count in (1, 2):
        s3_schedules.main([str(tmp_path), "--count", str(count)])
    parts = [json.loads(line) for line in (tmp_path / "s3_schedules.jsonl").read_text().splitlines()]
    assert [(part["from"], part["to"]) for part in parts] == [(0, 1), (1, 2)]
