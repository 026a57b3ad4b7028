"""Collects the facts about a first model that the gate rejected, for flows.publishing.remedies."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.publishing.remedies import Facts, Remedy, remedies
from tasks.common.artifacts import classes_and_task
from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.gate.champion import calibration_skill
from tasks.gate.verdict import GateVerdict
from tasks.releases.bundle import read
from tasks.scoring.skill import Skill, measure_skill
from tasks.scoring.targets import encode


def first_model_remedies(root: Path, params: Params, run_id: str, verdict: GateVerdict) -> list[Remedy]:
    """What to do about the rejected first model in worktree `root`; empty if it was not rejected or not the first."""
    if verdict.outcome != "reject" or verdict.champion is not None:
        return []
    return remedies(verdict.checks, collect(root, params, run_id))


def collect(root: Path, params: Params, run_id: str) -> Facts:
    """The facts about the run in worktree `root`, whose stages are done."""
    measured = read_json(root / "metrics/evaluate.json")
    sizes = pq.read_table(root / "artifacts/inspect/samples.parquet", columns=["width", "height"]).drop_null()
    sides = np.minimum(sizes["width"].to_numpy(), sizes["height"].to_numpy())
    return Facts(
        run_id=run_id,
        images=read(root / "artifacts/bundle")["data"]["images"],
        test=Skill(**measured["skill"]) if "skill" in measured else None,
        calibration=calibration_skill(root),
        unseen=unseen_skill(root),
        side=float(np.median(sides)) if len(sides) else 0.0,
        resolution=params.images.resolution,
    )


def unseen_skill(root: Path) -> Skill | None:
    """Skill of `clean`'s classifier on the training images that it was not fitted on; None without any."""
    classes, task = classes_and_task(root)
    labels = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["id", "split", "given", "predicted"])
    labels = labels.filter(pc.equal(labels["split"], "train"))
    if not len(labels):
        return None
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "group"])
    groups = accepted["group"].take(pc.index_in(labels["id"], accepted["id"].combine_chunks())).to_pylist()
    given, predicted = (encode(labels[name], classes, task) for name in ("given", "predicted"))
    return measure_skill(given, predicted if task == "multiclass" else predicted > 0, len(classes), groups)
