"""Runs a stage where `scale` in params.yaml says: here, or the training of stage 1 on a Ray cluster."""

import sys
from collections.abc import Callable
from pathlib import Path

from tasks.common.params import load_run_params
from tasks.stages.runner import run_stage

STAGE = "train_backbone"


def run_stage_scaled(name: str, root: Path, say: Callable[[str], object] | None = None) -> None:
    """Run stage `name` of the project at `root`: `train_backbone` on the workers that `scale` has for it, if any.

    say: gets what the workers print; None: standard error, as the stage's own words. Raises EvergreenError where the
    stage does, and where the cluster cannot be used.
    """
    params = load_run_params(root / "params.yaml")
    if name != STAGE or params.scale.engine == "local":
        run_stage(name, root)
        return
    from flows.scale import engine
    from tasks.stages.train_backbone.workers import can_share

    said = say or _to_stderr
    section, scale = params.train_backbone, params.scale
    workers = scale.training_workers or int(engine.connect(scale).gpus)
    if workers and (not can_share(section) or (scale.shared and section.self_supervised_epochs)):
        said(f"{STAGE}: these settings need whole batches, or all images, in one process: it trains on this machine")
        workers = 0
    if workers < 2:
        run_stage(name, root)
        return
    from flows.scale.training import train_on_ray

    train_on_ray(root, params, workers, said)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
