"""Answers of a production log that are worth a label."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from monitoring.log.schema import log_schema

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def answers(count: int, **columns) -> pa.Table:
    """`count` unsure answers, unlike each other, with the given columns replaced."""
    rng = np.random.default_rng(1)
    found = {
        "id": [f"id-{n}" for n in range(count)],
        "at": [NOON + timedelta(seconds=n) for n in range(count)],
        "source": [f"cam-{n % 5}" for n in range(count)],
        "version": ["v0.1.0"] * count,
        "prediction": ["Bag"] * count,
        "confidence": [0.5] * count,
        "probabilities": list(rng.dirichlet([1, 1, 1], count).astype(np.float32)),
        "ood": rng.random(count).astype(np.float32),
        "features": list(rng.normal(size=(count, 16)).astype(np.float32)),
        "phash": rng.integers(0, 2**63, count, dtype=np.uint64),
        **columns,
    }
    schema = log_schema("multiclass")
    return pa.table([pa.array(found.get(f.name, [None] * count), f.type) for f in schema], schema=schema)
