"""Sessions of labelled production images: what one source took in one stretch of time."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np

from flows.production.sessions import session_groups
from tasks.common.files import sha256_bytes
from tasks.common.sections.data import SplitFractions
from tasks.ingest.splits import Lookalikes, NewRow, RecordedSplits, assign_splits

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)


def every(seconds: float, count: int) -> list[datetime]:
    return [NOON + timedelta(seconds=seconds * number) for number in range(count)]


def test_the_stretch_is_the_longest_that_gives_several_sessions():
    for seconds, stretch in ((40_000, "day"), (1_800, "hour"), (300, "10 minutes"), (20, "minute")):
        groups = session_groups(["cam"] * 40, every(seconds, 40))
        assert {group.split(" from ")[0] for group in groups} == {f"cam, {stretch}"}
        assert len(set(groups)) >= 7
    assert session_groups(["cam"] * 40, every(0.1, 40)) == [None] * 40
    assert session_groups(["cam", None], every(1, 2)) == [
        "cam, minute from 2026-05-03 12:00",
        "production, minute from 2026-05-03 12:00",
    ]


def test_an_image_of_a_recorded_session_belongs_to_it():
    known = {"cam, hour from 2026-05-03 12:00": "test"}
    groups = session_groups(["cam"] * 200, every(60, 200), known)
    assert groups[:60] == ["cam, hour from 2026-05-03 12:00"] * 60
    assert groups[60] == "cam, 10 minutes from 2026-05-03 13:00"


def test_what_may_measure_a_model_does_not_follow_the_queues_picks_into_train():
    hour, minute = "cam, hour from 2026-05-03 12:00", "cam, minute from 2026-05-03 12:00"
    times, fair = every(60, 60), [number % 3 == 0 for number in range(60)]
    groups = session_groups(["cam"] * 60, times, {}, fair)
    assert len(set(groups)) == 60
    assert session_groups(["cam"] * 60, times, {hour: "train"}, fair)[:2] == [minute, hour]
    assert session_groups(["cam"] * 60, times, {hour: "test"}, fair)[:2] == [hour, minute.replace("12:00", "12:01")]
    assert session_groups(["cam"], times[:1], {minute: "train"}, [True]) == [minute]  # too near: it goes to train
    assert session_groups(["cam"] * 60, every(0.1, 60), {}, fair) == [None] * 60
    whole = session_groups(
        ["cam"] * 40, every(1_800, 40), {f"cam, hour from {NOON:%Y-%m-%d %H:%M}": "train"}, [True] * 40
    )
    assert whole[:2] == [minute, "cam, minute from 2026-05-03 12:30"]
    assert whole[2] == "cam, hour from 2026-05-03 13:00"


def test_the_labels_of_one_drifted_camera_reach_every_split():
    times = every(45, 100)
    groups = session_groups(["new"] * 100, times)
    recorded = RecordedSplits(
        {},
        *(
            {key: count for key, count in zip(keys, (600, 200, 200), strict=True)}
            for keys in (
                ("train", "calibration", "test"),
                (("train", "a"), ("calibration", "a"), ("test", "a")),
                (("train", "old"), ("calibration", "old"), ("test", "old")),
            )
        ),
    )
    rows = [NewRow(sha256_bytes(bytes([n])), (), group, "new", ("ab"[n % 2],)) for n, group in enumerate(groups)]
    alike = Lookalikes(np.arange(100), np.empty((0, 2), int), {})
    splits = assign_splits(rows, recorded, alike, seed=0, fractions=SplitFractions())
    counts = Counter(splits)
    assert counts["train"] > 50
    assert min(counts["calibration"], counts["test"]) >= 10
    of_group = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        of_group[group].add(split)
    assert all(len(found) == 1 for found in of_group.values())


def test_images_without_a_group_in_the_data_set_bind_no_session():
    """Most data sets have images without a group; traffic of one minute is divided all the same."""
    times = every(0.1, 60)
    assert set(session_groups(["a"] * 60, times, {None: "train"}, [True] * 20 + [False] * 40)) == {None}
