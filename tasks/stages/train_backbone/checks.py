"""What stage 1 refuses before it trains: labels, settings and inputs that cannot work."""

from collections.abc import Sequence

import pyarrow as pa

from tasks.common.errors import DataError, ParamsError
from tasks.common.params import TrainBackboneParams
from tasks.scoring.targets import encode


def check_schedule(model, params: TrainBackboneParams, side: int) -> None:
    """Raise ParamsError if `model` cannot take the smaller images of the resolution schedule."""
    import torch

    from tasks.stages.train_backbone.augment.resolution import epoch_side

    shares = params.resolution_schedule
    sides = {epoch_side(shares, side, number, len(shares)) for number in range(len(shares))} - {side}
    for smaller in sorted(sides):
        try:
            with torch.inference_mode():
                model(torch.zeros(1, 3, smaller, smaller))
        except (AssertionError, RuntimeError) as error:
            raise ParamsError(
                f"train_backbone.resolution_schedule: {params.backbone} cannot take images of {smaller} pixels beside "
                f"{side}: a transformer has positions for one size. Set it to [], or choose a convolutional backbone"
            ) from error


def check_settings(params: TrainBackboneParams, task: str) -> None:
    """Raise ParamsError for settings that exclude each other or name what there is not."""
    from tasks.stages.train_backbone.light import check_tuning
    from tasks.stages.train_backbone.losses import check_loss
    from tasks.stages.train_backbone.optimizers import check_name
    from tasks.stages.train_backbone.phases import plan
    from tasks.stages.train_backbone.together import check_together

    check_loss(params.loss, task)
    check_name(params.optimizer)
    if not plan(params):
        raise ParamsError(
            f"train_backbone.epochs: {params.epochs.model_dump()} leaves no epoch to train with pretrained: "
            f"{params.pretrained}; expected at least one (training from scratch has no frozen epochs)"
        )
    check_tuning(params)
    check_together(params)
    if params.prune and params.self_supervised_epochs:
        raise ParamsError(
            f"train_backbone.prune is {params.prune:g} and self_supervised_epochs is {params.self_supervised_epochs}: "
            "pretraining has the channels that pruning leaves out. Set one of them to 0"
        )


def check(rows: dict[str, pa.Table], classes: Sequence[str], task: str, params: TrainBackboneParams) -> None:
    """Raise ParamsError as `check_settings` does, DataError without labels to train on or choose by."""
    check_settings(params, task)
    for split in ("train", "calibration"):
        labels = encode(rows[split]["label"], classes, task)
        if not len(labels) or (task == "multilabel" and not labels.any()):
            raise DataError(
                f"the {split} split has {len(labels)} labelled images and none of the {len(classes)} classes in them: "
                "stage 1 trains on train and chooses its best epoch on calibration. See validate.min_per_class."
            )
