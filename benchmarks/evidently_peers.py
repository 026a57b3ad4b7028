"""Run Evidently at its defaults on the windows that our measures see."""

import os
import warnings
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from monitoring.drift.arrays import NUMBERS


def alarms(window: pa.Table, reference: pa.Table) -> dict[str, bool]:
    """Name of a method -> whether it finds drift. Both tables have the columns of log_schema."""
    found = preset(frame(window), frame(reference))
    return {"preset_any_column": found[0] > 0, "preset_half_of_columns": found[1] >= 0.5} | embeddings(
        vectors(window), vectors(reference)
    )


def frame(table: pa.Table) -> dict[str, np.ndarray]:
    """Image properties, answers and probabilities as columns."""
    columns = {name: table[name].to_numpy().astype(float) for name in (*NUMBERS, "confidence", "ood")}
    probabilities = vectors(table, "probabilities")
    columns |= {f"p{k}": column for k, column in enumerate(probabilities.T)}
    return columns | {"prediction": np.array(table["prediction"].to_pylist(), object)}


def vectors(table: pa.Table, name: str = "features") -> np.ndarray:
    return table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1).astype(float)


def preset(window: dict[str, np.ndarray], reference: dict[str, np.ndarray], **options) -> tuple[float, float]:
    """(number, share) of columns that DataDriftPreset finds drifted."""
    found = run(window, reference, **options)
    (count,) = (metric["value"] for metric in found["metrics"] if "DriftedColumnsCount" in metric["metric_name"])
    return count["count"], count["share"]


def run(window: dict[str, np.ndarray], reference: dict[str, np.ndarray], **options) -> dict:
    """The result of DataDriftPreset as a dict; benchmarks measure the time of this call."""
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = [name for name in window if name != "prediction"]
    about = DataDefinition(
        numerical_columns=names, categorical_columns=["prediction"] if "prediction" in window else []
    )
    now, then = (Dataset.from_pandas(pd.DataFrame(side), data_definition=about) for side in (window, reference))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Report([DataDriftPreset(**options)]).run(now, then).dict()


def embeddings(window: np.ndarray, reference: np.ndarray) -> dict[str, bool]:
    """Evidently's embedding drift methods, each at its defaults; (N, D) and (M, D)."""
    import pandas as pd
    from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

    made: dict[str, Callable] = {
        "domain_classifier": methods.model(),
        "euclidean": methods.distance(),
        "mmd": methods.mmd(),
        "ratio": methods.ratio(),
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, method in made.items():
            sides = [
                pd.DataFrame(side, columns=[f"f{k}" for k in range(side.shape[1])]) for side in (window, reference)
            ]
            found[f"embedding_{name}"] = bool(method(*sides)[1])
    return found
