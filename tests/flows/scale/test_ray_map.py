import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from flows.scale import engine
from flows.scale import map as scale_map
from flows.scale.map import ray_map
from tasks.common.errors import DamagedFile, EvergreenError
from tests.support.ray_cluster import killed_once
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def connected(ray_cluster):
    engine.connect(ray_cluster)


def double(item: int) -> int:
    time.sleep(0.05 if item % 2 else 0)  # the odd ones are overtaken
    return 2 * item


def test_results_come_in_order_and_items_are_read_only_a_little_ahead():
    read, ahead = [], []

    def items():
        for item in range(20):
            read.append(item)
            yield item

    for number, result in enumerate(ray_map(double, items(), in_flight=3)):
        assert result == 2 * number
        ahead.append(len(read) - number)
    assert len(ahead) == 20
    assert max(ahead) == 3


def test_few_large_items_are_in_flight():
    read = []

    def items():
        for item in range(6):
            read.append(item)
            yield np.full(1000, item, np.uint8)

    results = ray_map(np.sum, items(), in_flight=6, most_bytes=2000)
    assert int(next(results)) == 0
    assert len(read) == 2
    assert [int(one) for one in results] == [1000 * item for item in range(1, 6)]


@pytest.mark.parametrize(
    ("limits", "ahead"),
    [
        ({"in_flight": 1, "per_cpu": 2}, 4),
        ({"in_flight": 5, "per_cpu": 2}, 5),
        ({"in_flight": 6, "most_bytes": 1, "bytes_per_cpu": 1500}, 3),
    ],
)
def test_as_much_is_in_flight_as_the_cluster_has_cpus_for(limits, ahead):
    read = []
    items = (read.append(number) or np.full(1000, number, np.uint8) for number in range(8))
    results = ray_map(np.sum, items, **limits)
    next(results)
    assert len(read) == ahead
    results.close()


def test_a_cluster_that_starts_without_a_cpu_gets_work_and_more_when_it_grows(monkeypatch, tmp_path):
    now, cpus, read = engine.cluster(), [0.0], []
    monkeypatch.setattr(scale_map, "LOOK", 0.05)
    monkeypatch.setattr(engine, "cluster", lambda: replace(now, cpus=cpus[-1]))

    def files():
        for number in range(60):
            read.append(number)
            if len(read) == scale_map.FIRST:
                cpus.append(20.0)
            if len(read) == 40:
                (tmp_path / "go").touch()  # no task ends before
            yield tmp_path / "go"

    results = ray_map(wait_for, files(), per_cpu=2)
    next(results)
    assert len(read) == 40
    results.close()


def test_without_items_nothing_happens():
    assert list(ray_map(double, [], in_flight=3)) == []


def wait_for(file: Path) -> None:
    until(file.exists, 60)


def test_it_says_that_it_waits_and_for_what(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_map, "LOOK", 0.1)
    monkeypatch.setattr(scale_map, "TELL", 0.1)
    said = []

    def say(line: str) -> None:
        said.append(line)
        (tmp_path / "go").touch()

    list(ray_map(wait_for, [tmp_path / "go"], in_flight=1, say=say, name=lambda _: "shard 7"))
    assert "of 2 CPUs are free): waiting for shard 7" in said[0]


def refuse(item: str) -> str:
    if item == "c":
        raise DamagedFile("/data/c", "aa", "bb")
    return item


def test_an_error_of_the_function_is_raised_as_it_is_with_the_name_of_the_item():
    with pytest.raises(DamagedFile, match="/data/c is damaged") as error:
        list(ray_map(refuse, "abcd", in_flight=2, name=lambda item: f"shard {item}"))
    assert "on a Ray worker, for shard c" in error.value.__notes__[0]


def lose_a_place(item: int) -> None:
    raise ConnectionError(f"the place of {item} is away")


def test_a_connection_error_of_the_function_is_not_a_lost_cluster():
    said = []
    with pytest.raises(ConnectionError, match="the place of 7 is away") as error:
        list(ray_map(lose_a_place, [7], in_flight=1, say=said.append, name=lambda item: f"shard {item}"))
    assert "on a Ray worker, for shard 7" in error.value.__notes__[0]
    assert said == []


def load(missing: type[Exception], pid: int) -> None:
    if os.getpid() != pid:
        raise missing("No module named 'scipy'")


class Unreadable:
    """What only the process `pid` can unpickle."""

    def __init__(self, missing: type[Exception], pid: int):
        self.missing, self.pid = missing, pid

    def __reduce__(self):
        return load, (self.missing, self.pid)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (ModuleNotFoundError, "a Ray worker cannot import what it needs .*'scipy'.*requirements.lock"),
        (AttributeError, "No module named 'scipy'"),
    ],
)
def test_what_a_worker_cannot_unpickle_is_not_a_lost_cluster(missing, expected):
    said = []
    with pytest.raises((EvergreenError, AttributeError), match=expected):
        list(ray_map(str, [Unreadable(missing, os.getpid())], in_flight=1, say=said.append, name=lambda _: "one"))
    assert said == []


def answer_unreadably(item: int) -> Unreadable:
    return Unreadable(ModuleNotFoundError, os.getpid())


def test_a_cluster_that_is_lost_again_before_any_result_ends_the_work(monkeypatch):
    monkeypatch.setattr(scale_map, "RETRIES", 1)
    said = []
    with pytest.raises(engine.ClusterLost, match=r"was lost 2 times without a result in between.*'scipy'"):
        list(ray_map(answer_unreadably, [7], in_flight=1, say=said.append))
    assert len(said) == 1
    assert "to connect again" in said[0]


def die_once(item: tuple[int, Path]) -> int:
    number, marker = item
    if number == 2 and killed_once(marker):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_an_item_is_done_again_when_its_worker_is_killed(tmp_path):
    said = []
    items = [(number, tmp_path / "killed") for number in range(5)]
    assert list(ray_map(die_once, items, in_flight=3, say=said.append, name=lambda item: f"n{item[0]}")) == [*range(5)]
    assert any("n2 is done again (1 of 3)" in line for line in said)


def die(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_item_that_kills_every_worker_ends_the_work(monkeypatch):
    monkeypatch.setattr(scale_map, "RETRIES", 1)
    with pytest.raises(EvergreenError, match="the Ray worker of item 7 died 2 times"):
        list(ray_map(die, [7], in_flight=2, say=lambda _: None, name=lambda item: f"item {item}"))


def work_long(folder: Path) -> None:
    (folder / "worker").write_text(str(os.getpid()))
    (folder / "began").touch()
    time.sleep(300)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_what_is_in_flight_ends_and_the_next_work_goes_on(ray_cluster, tmp_path, monkeypatch, error):
    def interrupted(self):
        until(lambda: (tmp_path / "began").exists(), 60)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(scale_map._Run, "_wait", interrupted)
        with pytest.raises(error):
            next(ray_map(work_long, [tmp_path] * 3, in_flight=3))
    worker = int((tmp_path / "worker").read_text())
    until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE, 60)
    engine.connect(ray_cluster)
    assert list(ray_map(double, range(4), in_flight=2)) == [0, 2, 4, 6]
