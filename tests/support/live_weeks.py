"""Weeks of live accuracy for the pages, from simulated answers and labels."""

from datetime import datetime

import numpy as np
import pyarrow as pa

from monitoring.live.labels import Truth, with_truth
from monitoring.live.periods import Period, measure_period
from monitoring.log.schema import log_schema
from tests.support import drift_windows

COLUMNS = ("id", "at", "source", "version", "bundle", "prediction", "confidence")


def week(
    start: datetime,
    classes: list[str] = drift_windows.CLASSES,
    sources: tuple[str, ...] = ("line-1", "line-2"),
    labels: int = 160,
    bundle: str = "ab" * 32,
    version: str = "v0.1.0",
    random: bool = True,
    rows: int = 1500,
) -> Period:
    """A week with `labels` labels, asked for at random or picked for being hard; the last source is worse."""
    rng = np.random.default_rng(len(classes))
    truth = rng.integers(0, len(classes), rows)
    source = rng.integers(0, len(sources), rows)
    wrong = rng.random(rows) < np.where(source == len(sources) - 1, 0.4, 0.1)
    answer = np.where(wrong, (truth + 1) % len(classes), truth)
    values = {
        "id": [f"{n:064x}" for n in range(rows)],
        "at": [start] * rows,
        "source": [sources[n] for n in source],
        "version": [version] * rows,
        "bundle": [bundle] * rows,
        "prediction": [classes[n] for n in answer],
        "confidence": np.where(source == len(sources) - 1, 0.7, 0.93).tolist(),
    }
    schema = pa.schema([field for field in log_schema("multiclass") if field.name in COLUMNS])
    table = pa.table([values[name] for name in schema.names], schema=schema)
    known = {
        values["id"][n]: Truth(classes[truth[n]], labels / rows if random else None, not random)
        for n in rng.permutation(rows)[:labels]
    }
    return measure_period(start, version, bundle, table, with_truth(table, known))
