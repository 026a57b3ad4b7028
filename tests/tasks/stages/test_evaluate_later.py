"""Whether test images are newer than the training images: figures and the sentence."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from tasks.stages.evaluate.later import measure_later

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(*days: int | None) -> pa.Table:
    times = [None if day is None else START + timedelta(days=day) for day in days]
    return pa.table({"taken_at": pa.chunked_array([pa.array(times, pa.timestamp("us", tz="UTC"))])})


def test_a_test_that_is_later_than_train_is_said_with_its_period():
    found = measure_later({"train": rows(0, 5), "calibration": rows(6), "test": rows(7, 9)})
    assert (found["all_later"], found["later"]) == (True, 2)
    assert found["sentence"] == (
        "test is later than train: trained until 2026-01-06, tested on 2026-01-08 to 2026-01-10, "
        "calibration lies between"
    )


def test_older_and_untimed_images_are_counted():
    found = measure_later({"train": rows(0, 5, None), "calibration": rows(), "test": rows(7, 3, None)})
    assert (found["all_later"], found["later"]) == (False, 1)
    assert found["sentence"] == (
        "1 of 3 test images were taken after the last training image (2026-01-06); "
        "1 train images have no time, 1 test images have no time"
    )
    assert not measure_later({"train": rows(0, None), "calibration": rows(), "test": rows(7)})["all_later"]


def test_images_without_times_say_nothing():
    assert measure_later({"train": rows(None), "calibration": rows(1), "test": rows(7)}) is None
