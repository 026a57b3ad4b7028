"""A model's drift reference, read from its bundle: held-out samples with features and answers.

    reference = load(Path("artifacts/bundle"), cache_dir("drift", root))

tasks.stages.bundle.reference writes it. M samples, K classes, D feature dimensions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.drift.arrays import SampleArrays, label_membership, log_arrays
from tasks.inference import thresholds
from tasks.releases import bundle
from tasks.releases.reference import schema

TABLE = "reference.parquet"


@dataclass(frozen=True)
class Reference:
    """The reference samples of one model, with what is needed to compare windows with them."""

    arrays: SampleArrays  # M samples
    labels: np.ndarray  # (M, K) bool, like SampleArrays.predicted; no True if a row has no label
    classes: list[str]
    task: str
    ood_threshold: float
    rule: thresholds.Rule
    digest: str  # of the bundle
    cache: Path  # folder of calibrated drift thresholds

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def correct(self) -> np.ndarray:
        """(M,) 1 if the answer was the label, 0 if not, NaN if there is no label."""
        right = (self.arrays.predicted == self.labels).all(axis=1).astype(float)
        return np.where(self.labels.any(axis=1), right, np.nan)


def load(bundle_dir: Path, cache: Path) -> Reference:
    """The reference of the bundle in `bundle_dir`.

    Raises BundleDamaged if it is missing or has another schema.
    """
    about, digest = bundle.read(bundle_dir), bundle.digest(bundle_dir)
    columns = [name for name in schema(about["task"]).names if name != "thumbnail"]
    try:
        table = pq.read_table(bundle_dir / TABLE, columns=columns)
        return from_table(table, about, digest, cache)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise bundle.BundleDamaged(
            f"{bundle_dir / TABLE} cannot be read as a drift reference ({error}): expected columns {columns}. Restore "
            "the bundle from the release store"
        ) from None


def from_table(table: pa.Table, about: dict, digest: str, cache: Path) -> Reference:
    """The reference in `table`, with answers derived from probabilities as serving derives them.

    table: tasks.releases.reference.schema; about: bundle.json.
    """
    classes, task = list(about["classes"]), about["task"]
    rule = thresholds.read_rule(about)
    table = table.select([name for name in schema(task).names if name in table.column_names])
    lengths = [len(row) for row in table["features"][:1].to_pylist() if row is not None]
    bare = pa.nulls(len(table), schema(task).field("label").type)
    table = table.append_column("confidence", pa.nulls(len(table), pa.float32())).append_column("prediction", bare)
    arrays = log_arrays(table, classes, lengths[0] if lengths else 0, task)
    known = np.isfinite(arrays.probabilities).all(axis=1)
    arrays.predicted[known] = _predicted(arrays.probabilities[known], rule)
    with np.errstate(invalid="ignore"):
        arrays.numbers["confidence"] = thresholds.confidence(arrays.probabilities, rule)
    arrays.missing["confidence"] = arrays.missing["prediction"] = (int((~known).sum()), 0)
    labels, _ = label_membership(table["label"].to_pylist(), classes, task)
    return Reference(arrays, labels, classes, task, float(about["ood"]["threshold"]), rule, digest, Path(cache))


def answered(table: pa.Table, about: dict) -> pa.Table:
    """`table` (tasks.releases.reference.schema) with the columns prediction and confidence of the production log.

    about: bundle.json. A row without usable probabilities has neither.
    """
    rule, classes = thresholds.read_rule(about), list(about["classes"])
    said: list[str | list[str] | None] = [None] * len(table)
    sure: list[float | None] = [None] * len(table)
    for row, values in enumerate(table["probabilities"].to_pylist()):
        p = np.array(values or [], np.float32)[None]  # (1, K)
        if p.shape[1] != len(classes) or not np.isfinite(p).all():
            continue
        chosen = thresholds.answers(p, rule)[0]
        one = rule.task == "multiclass"
        said[row] = classes[chosen] if one else [classes[k] for k in np.flatnonzero(chosen)]
        sure[row] = float(thresholds.confidence(p, rule)[0])
    table = table.append_column("prediction", pa.array(said, schema(rule.task).field("label").type))
    return table.append_column("confidence", pa.array(sure, pa.float32()))


def _predicted(probabilities: np.ndarray, rule: thresholds.Rule) -> np.ndarray:
    """Like SampleArrays.predicted."""
    chosen = thresholds.answers(probabilities, rule)
    if rule.task == "multiclass":
        return np.arange(probabilities.shape[1]) == chosen[:, None]
    return np.column_stack([chosen, ~chosen.any(axis=1)])
