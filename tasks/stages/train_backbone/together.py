"""Refuses settings that a training would not use beside the others, or that do harm together."""

from collections.abc import Iterator

from tasks.common.errors import ParamsError
from tasks.common.params import TrainBackboneParams
from tasks.stages.train_backbone.phases import plan


def check_together(params: TrainBackboneParams) -> None:
    """Raise ParamsError with one sentence for each setting of `params` that would have no effect or do harm."""
    if found := [*_on_images(params), *_of_teachers(params), *_of_seeds(params)]:
        raise ParamsError("; ".join(found))


def _on_images(params: TrainBackboneParams) -> Iterator[str]:
    """Settings of phases that this training does not have."""
    phases = plan(params)
    if all(phase.opened == 0 for phase in phases):
        used = {
            "mix": params.mix,
            "rare_augment": params.rare_augment,
            "drop_path": params.drop_path,
            "distill.teachers": params.distill.teachers,
        }
        names = [f"train_backbone.{name}" for name, value in used.items() if value]
        if names:
            yield (
                f"{', '.join(names)}: no effect, because the classifier alone trains, on stored features. Set tuning "
                "to full and epochs.last or epochs.all above 0, or leave these settings at their defaults"
            )
    if all(phase.name != "all" for phase in phases):
        used = {"resolution_schedule": params.resolution_schedule, "schedule": params.schedule != "cosine"}
        names = [f"train_backbone.{name}" for name, value in used.items() if value]
        if names:
            yield (
                f"{', '.join(names)}: no effect, because no phase trains everything. Set tuning to full and "
                "epochs.all above 0, or leave these settings at their defaults"
            )


def _of_teachers(params: TrainBackboneParams) -> Iterator[str]:
    distill = params.distill
    if not distill.teachers:
        names = [f"train_backbone.distill.{name}" for name in ("features", "attention") if getattr(distill, name)]
        if names:
            yield f"{', '.join(names)}: no effect without teachers. Name some in distill.teachers, or set it to 0"
    extended = params.head != "linear" or params.pooling != "average" or params.attention_crop
    if distill.teachers and distill.attention and extended:
        yield (
            "train_backbone.distill.attention: no effect on a network with head: mlp, pooling: bilinear or "
            "attention_crop, which has no single last map. Set it to 0, or those to their defaults"
        )


def _of_seeds(params: TrainBackboneParams) -> Iterator[str]:
    random = {"pretrained: none": params.pretrained == "none", "head: mlp": params.head == "mlp"}
    random["pooling: bilinear"] = params.pooling == "bilinear"
    names = [name for name, used in random.items() if used]
    if params.combine == "soup" and params.seeds > 1 and names and params.start_bundle is None:
        yield (
            "train_backbone.combine: soup means weights, and trainings that start from different random weights "
            f"({', '.join(names)}) have no common ones: set combine to ensemble or best, or those to their defaults"
        )
