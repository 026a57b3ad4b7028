"""Whether test images are newer than all training images: then a test says how a model ages."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pyarrow as pa


def measure_later(by_split: Mapping[str, pa.Table]) -> dict | None:
    """How many test images are newer than all training images, in figures and one sentence; None without times.

    by_split: of artifacts.training_rows.
    """
    times = {name: by_split[name]["taken_at"].drop_null() for name in ("train", "calibration", "test")}
    if not len(times["train"]) or not len(times["test"]):
        return None
    first, last = _span(times["test"])
    trained = _span(times["train"])[1]
    later = int(np.sum(np.array(times["test"].to_pylist()) > trained))
    rows = len(by_split["test"])
    found = {
        "train_until": trained.isoformat(),
        "test_from": first.isoformat(),
        "test_until": last.isoformat(),
        "test_rows": rows,
        "later": later,
        "without_time": {name: len(by_split[name]) - len(times[name]) for name in ("train", "test")},
        "all_later": later == rows and len(times["train"]) == len(by_split["train"]),
    }
    if len(times["calibration"]):
        start, end = _span(times["calibration"])
        found["calibration_between"] = bool(trained < start and end < first)
    day = f"{trained:%Y-%m-%d}"
    if found["all_later"]:
        between = ", calibration lies between" if found.get("calibration_between") else ""
        sentence = (
            f"test is later than train: trained until {day}, tested on {first:%Y-%m-%d} to {last:%Y-%m-%d}{between}"
        )
    else:
        without = found["without_time"]
        unknown = ", ".join(f"{count} {name} images have no time" for name, count in without.items() if count)
        sentence = f"{later} of {rows} test images were taken after the last training image ({day})" + (
            f"; {unknown}" if unknown else ""
        )
    return found | {"sentence": sentence}


def _span(times: pa.ChunkedArray) -> tuple[datetime, datetime]:
    found = times.to_pylist()
    return min(found), max(found)
