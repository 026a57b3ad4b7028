"""Splits by time: the newest images are test, recorded splits stay, units stay whole."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tasks.common.errors import DataError
from tasks.common.params import DataParams
from tasks.common.sections.data import SplitFractions
from tasks.ingest.holdout import NOTHING, UNKNOWN, assign, record
from tests.support.ingesting import image, manifest, noise, samples, splits_of, take

SHARES = np.array([0.7, 0.15, 0.15])
BY_TIME = DataParams(split=SplitFractions(by="time"))
START = datetime(2026, 1, 1, tzinfo=UTC)


def free(units: int) -> np.ndarray:
    return np.ones((units, 3), bool)


def source_of(root, days, start=0, **columns):
    """A manifest of images with these days since START as times (None: no time); the first is number `start`."""
    rows = []
    for number, day in enumerate(days, start):
        time = "" if day is None else (START + timedelta(days=day)).isoformat()
        about = {name: values[number - start] for name, values in columns.items()}
        rows.append({"path": image(root, f"{number}.png", noise(number)), "label": "ab"[number % 2], "taken_at": time})
        rows[-1] |= about
    return manifest(root, rows)


def days_of(root) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in samples(root):
        day = None if row["taken_at"] is None else (row["taken_at"] - START) / timedelta(days=1)
        found.setdefault(row["split"], []).append(day)
    return found


def test_the_newest_units_are_test_and_those_before_them_calibration():
    at = np.random.default_rng(0).permutation(20)
    split = assign(at, np.arange(20), free(20), np.zeros(3, int), NOTHING, SHARES)
    assert [sorted(at[split == s].tolist()) for s in range(3)] == [list(range(14)), [14, 15, 16], [17, 18, 19]]


def test_a_unit_counts_by_its_newest_image_so_no_training_image_is_newer_than_the_cut():
    at = np.array([0, 9, *range(1, 9)])
    unit = np.array([0, 0, *range(1, 9)])  # the first was taken on day 0 and on day 9
    split = assign(at, unit, free(9), np.zeros(3, int), NOTHING, SHARES)
    assert split[0] == 2
    assert at[split[unit] == 0].max() < min(at[(split[unit] > 0) & (unit > 0)])


def test_images_of_one_moment_are_not_divided():
    at = np.repeat([1, 2, 3], 10)
    split = assign(at, np.arange(30), free(30), np.zeros(3, int), NOTHING, SHARES)
    assert split.tolist() == np.repeat([0, 1, 2], 10).tolist()


def test_a_late_delivery_goes_where_the_images_of_its_time_are_and_a_new_period_is_divided():
    recorded = record(np.arange(20), np.repeat([0, 1, 2], [14, 3, 3]))
    at = np.array([5, 15, 18, *range(100, 120)])
    split = assign(at, np.arange(23), free(23), np.array([14, 3, 3]), recorded, SHARES)
    assert split[:3].tolist() == [0, 1, 2]
    assert np.bincount(split[3:]).tolist() == [15, 3, 2]  # so that all 43 come near the shares
    assert (np.diff(split[3:]) >= 0).all()


def test_an_image_without_a_time_is_trained_on_unless_it_may_not():
    may = np.array([[True, True, True], [False, True, True]])
    split = assign(np.array([UNKNOWN, UNKNOWN]), np.arange(2), may, np.zeros(3, int), NOTHING, SHARES)
    assert split.tolist() == [0, 2]


def test_a_split_without_a_share_gets_nothing():
    split = assign(np.arange(10), np.arange(10), free(10), np.zeros(3, int), NOTHING, np.array([0.8, 0.0, 0.2]))
    assert np.bincount(split, minlength=3).tolist() == [8, 0, 2]


def test_an_ingest_divides_by_time_and_growth_moves_nothing(tmp_path):
    order = np.random.default_rng(1).permutation(40).tolist()
    report = take(tmp_path, source_of(tmp_path / "one", order), data=BY_TIME)
    first, days = splits_of(tmp_path), days_of(tmp_path)
    assert max(days["train"]) < min(days["calibration"]) <= max(days["calibration"]) < min(days["test"])
    assert {split: len(found) for split, found in days.items()} == {"train": 28, "calibration": 6, "test": 6}
    assert "divided by time (data.split.by): train 2026-01-01 00:00 to" in report.notes[0]
    second = source_of(tmp_path / "two", [*range(100, 120), 3.5, 39.5, 38.5], start=100)
    dry = take(tmp_path, second, data=BY_TIME, dry=True)
    report = take(tmp_path, second, data=BY_TIME)
    assert (dry.splits, dry.notes) == (report.splits, report.notes)
    now = splits_of(tmp_path)
    assert {path: now[path] for path in first} == first
    assert (now["120.png"], now["122.png"]) == ("train", "test")
    new = [now[f"{number}.png"] for number in range(100, 120)]
    assert new == sorted(new, key=["train", "calibration", "test"].index)
    assert set(new) == {"train", "calibration", "test"}


def test_the_same_images_are_divided_at_random_without_the_option(tmp_path):
    take(tmp_path, source_of(tmp_path / "one", range(40)))
    days = days_of(tmp_path)
    assert max(days["train"]) > min(days["test"])


def test_groups_stay_whole_and_images_without_a_time_are_trained_on_and_said(tmp_path):
    days = [*range(20), 0, 19, None, None]
    group = [f"g{number}" for number in range(20)] + ["wide", "wide", "", "g19"]
    report = take(tmp_path, source_of(tmp_path / "one", days, group=group), data=BY_TIME)
    now = splits_of(tmp_path)
    assert now["20.png"] == now["21.png"] == "test"
    assert (now["22.png"], now["23.png"]) == ("train", now["19.png"])
    assert any("2 new images have no time: 1 to train, 1 to test" in note for note in report.notes)


def test_without_any_time_the_ingest_stops_and_writes_nothing(tmp_path):
    source = source_of(tmp_path / "one", [None] * 6)
    with pytest.raises(DataError, match="by is time, but none of the 6 new images has a time"):
        take(tmp_path, source, data=BY_TIME)
    assert not list((tmp_path / "data").rglob("*.parquet"))
    given = source_of(tmp_path / "two", [None] * 6, split=["train", "test", "val"] * 2)
    assert take(tmp_path, given, data=BY_TIME).taken == 6  # nothing was to be decided by time
