"""A model's own frozen reference, read from its bundle: what held-out images look like to it (see
tasks.stages.bundle.reference).

    reference = load(Path("artifacts/bundle"), cache_dir("drift", root))

M rows, K classes, D feature dimensions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.drift.arrays import Side, memberships, of_log
from tasks.inference import thresholds
from tasks.releases import bundle
from tasks.releases.reference import schema

TABLE = "reference.parquet"


@dataclass(frozen=True)
class Reference:
    side: Side  # M rows
    labels: np.ndarray  # (M, K) bool, as Side.predicted; no True where a row has no label
    classes: list[str]
    task: str
    ood_threshold: float
    thresholds: np.ndarray  # (K,)
    digest: str  # of the bundle
    cache: Path  # where calibrations of drift thresholds are kept

    def __len__(self) -> int:
        return len(self.side)

    @property
    def correct(self) -> np.ndarray:
        """(M,) 1 where the answer was the label, 0 where not, NaN where there is no label."""
        right = (self.side.predicted == self.labels).all(axis=1).astype(float)
        return np.where(self.labels.any(axis=1), right, np.nan)


def load(bundle_dir: Path, cache: Path) -> Reference:
    """The reference of the bundle in `bundle_dir`. Raises BundleDamaged where there is none, or it is of another
    schema."""
    about, digest = bundle.read(bundle_dir), bundle.digest(bundle_dir)
    columns = [name for name in schema(about["task"]).names if name != "thumbnail"]
    try:
        table = pq.read_table(bundle_dir / TABLE, columns=columns)
        return of_table(table, about, digest, cache)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise bundle.BundleDamaged(
            f"{bundle_dir / TABLE} cannot be read as a drift reference ({error}): expected columns {columns}. Restore "
            "the bundle from the release store"
        ) from None


def of_table(table: pa.Table, about: dict, digest: str, cache: Path) -> Reference:
    """`table`: tasks.releases.reference.schema; about: bundle.json. Answers are derived as serving derives them."""
    classes, task = list(about["classes"]), about["task"]
    bounds = np.array([about["thresholds"][name] for name in classes])
    lengths = [len(row) for row in table["features"][:1].to_pylist() if row is not None]
    bare = pa.nulls(len(table), schema(task).field("label").type)
    table = table.append_column("confidence", pa.nulls(len(table), pa.float32())).append_column("prediction", bare)
    side = of_log(table, classes, lengths[0] if lengths else 0, task)
    known = np.isfinite(side.probabilities).all(axis=1)
    side.predicted[known] = _predicted(side.probabilities[known], bounds, task)
    with np.errstate(invalid="ignore"):
        side.numbers["confidence"] = thresholds.confidence(side.probabilities, bounds, task)
    side.missing["confidence"] = side.missing["prediction"] = (int((~known).sum()), 0)
    labels, _ = memberships(table["label"].to_pylist(), classes, task)
    return Reference(side, labels, classes, task, float(about["ood"]["threshold"]), bounds, digest, Path(cache))


def _predicted(probabilities: np.ndarray, bounds: np.ndarray, task: str) -> np.ndarray:
    """As Side.predicted."""
    chosen = thresholds.answers(probabilities, bounds, task)
    if task == "multiclass":
        return np.arange(probabilities.shape[1]) == chosen[:, None]
    return np.column_stack([chosen, ~chosen.any(axis=1)])
