"""The gate's verdict on an adopted model as a first one, in the model's own classes."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.publishing.judge_run import shown_image
from tasks.adopt.build import costs_of, labelled_rows
from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.gate.champion import calibration_skill, clusters, hard_set_version
from tasks.gate.verdict import GateVerdict
from tasks.scoring.targets import class_counts, encode


def judge_adopted(root: Path, classes: list[str], params: Params) -> GateVerdict:
    """The verdict on the bundle that `tasks.adopt.build` made in `root` of a model with `classes`, in its order."""
    from tasks.gate.evidence import Contender, Trial
    from tasks.gate.judge import judge
    from tasks.gate.shipped import bundle_difference
    from tasks.releases.bundle import digest

    predictions = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    rows, _ = labelled_rows(root, classes)
    counts = class_counts(encode(rows["train"]["label"], classes, params.data.task), len(classes))
    trial = Trial(
        classes,
        params.data.task,
        dict(zip(classes, map(int, counts), strict=True)),
        hard_set_version(predictions),
        calibration_skill(root),
        partial(shown_image, root),
        clusters(root, predictions["id"]),
        pa.concat_tables([rows[split].select(["id", "split", "label"]) for split in ("test", "hard")]),
        bundle_difference(root, predictions),
        costs_of(classes, params.calibrate).cost_false_negative,
    )
    own = Contender(digest(root / "artifacts/bundle"), predictions, read_json(root / "metrics/evaluate.json"))
    return judge(own, None, trial, params.gate)
