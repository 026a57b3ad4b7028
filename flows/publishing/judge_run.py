"""The gate's inputs put together: challenger and champion, each through its own exported model, same images."""

from pathlib import Path

import pyarrow.parquet as pq

from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.common.paths import cache_dir
from tasks.gate.champion import champion_evidence, hard_set_version, train_counts
from tasks.gate.verdict import GateVerdict
from tasks.releases.store import Pointer, Releases


def judge_run(root: Path, params: Params, releases: Releases, champion: Pointer | None) -> GateVerdict:
    """The gate's verdict on the bundle in `root` against `champion` (None: the first model)."""
    from tasks.gate.judge import judge
    from tasks.releases.bundle import digest

    challenger = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    classes = read_json(root / "artifacts/validate/classes.json")
    against, metrics = None, None
    if champion is not None:
        bundle = cache_dir("bundles", root) / champion.bundle
        releases.get_bundle(champion.bundle, bundle)  # re-hashes what is there, mends what is not
        against, metrics = champion_evidence(root, bundle, challenger, classes, params)
    return judge(
        challenger,
        against,
        classes=classes,
        task=params.data.task,
        metrics=read_json(root / "metrics/evaluate.json"),
        policy=params.gate,
        train_counts=train_counts(root, classes),
        challenger_id=digest(root / "artifacts/bundle"),
        champion_version=champion.version if champion else None,
        hard_set=hard_set_version(challenger),
        champion_metrics=metrics,
    )
