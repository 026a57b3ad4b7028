"""Runs a stage where `scale` in params.yaml says: here, or the training of stage 1 on a Ray cluster."""

import sys
from collections.abc import Callable
from pathlib import Path

from tasks.common.params import TrainBackboneParams, load_run_params
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

    said = say or _to_stderr
    section, scale = params.train_backbone, params.scale
    gpus = 0 if scale.training_workers > 1 else int(engine.connect(scale).gpus)
    workers = scale.training_workers or gpus
    if workers and (why := needs_this_machine(section, scale.shared is not None)):
        said(f"{STAGE}: {why}: it trains on this machine")
        workers = 0
    if not worth_a_cluster(workers, gpus):
        run_stage(name, root)
        return
    from flows.scale.training import train_on_ray

    train_on_ray(root, params, workers, said)


def worth_a_cluster(workers: int, gpus: int) -> bool:
    """Whether `workers` of a cluster with `gpus` train faster than this machine: several do, or the only GPU."""
    from tasks.backbones.frozen import may_have_accelerator

    return workers > 1 or (workers == 1 and gpus > 0 and not may_have_accelerator())


def needs_this_machine(section: TrainBackboneParams, shared: bool) -> str | None:
    """Why workers cannot do the training: it needs what they would not have. None where they can.

    shared: they get their files through `scale.shared`, which has neither all images for pretraining on them nor the
    bundles in the cache of this machine: those of teachers, and the one that a warm start begins from.
    """
    from tasks.stages.train_backbone.phases import moving_statistics

    if moving_statistics(section):
        return "BatchNorm learns its statistics from whole batches (batch_norm: train, or pretrained: none)"
    if section.distill.features:
        return "distill.features compares all images of a batch"
    if not shared:
        return None
    if section.self_supervised_epochs:
        return "self_supervised_epochs read all images, which scale.shared does not hold"
    if section.distill.teachers or (section.start != "pretrained" and section.start_bundle is not None):
        return "only this machine has the bundles of its teachers and of the model it starts from"
    return None


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
