"""Settings that a training would not use beside the others are refused before it."""

import pytest

from tasks.common.errors import ParamsError
from tasks.common.sections.training import DistillParams, TrainBackboneParams, UnfreezePhases
from tasks.stages.train_backbone.together import check_together

PARAMS = TrainBackboneParams()
FROZEN = {"epochs": UnfreezePhases(frozen=2, last=0, all=0)}
SOUP = {"seeds": 2, "combine": "soup"}
TAUGHT = DistillParams(teachers=["edge"], attention=1.0)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (FROZEN | {"mix": ["mixup"]}, r"train_backbone\.mix: no effect, because the classifier alone trains"),
        (
            {"tuning": "linear", "rare_augment": ["flip"], "drop_path": 0.1},
            r"\.rare_augment, train_backbone\.drop_path: no",
        ),
        ({"tuning": "linear", "distill": DistillParams(teachers=["edge"])}, r"distill\.teachers: no effect"),
        (FROZEN | {"schedule": "linear"}, r"train_backbone\.schedule: no effect, because no phase trains everything"),
        (
            {"epochs": UnfreezePhases(frozen=0, last=2, all=0), "resolution_schedule": [0.5, 1]},
            r"resolution_schedule: no effect, because no phase",
        ),
        ({"distill": DistillParams(features=1.0)}, r"distill\.features: no effect without teachers"),
        ({"distill": TAUGHT, "head": "mlp"}, r"distill\.attention: no effect on a network with head: mlp"),
        (SOUP | {"head": "mlp"}, r"combine: soup means weights.*\(head: mlp\)"),
        (SOUP | {"pooling": "bilinear"}, r"combine: soup means weights"),
    ],
    ids=str,
)
def test_settings_without_effect_are_refused(changes, found):
    with pytest.raises(ParamsError, match=found):
        check_together(PARAMS.model_copy(update=changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        FROZEN,
        {"tuning": "linear", "layer_decay": 0.7},
        {"mix": ["mixup"], "resolution_schedule": [0.5, 1], "distill": TAUGHT, "drop_path": 0.1},
        {"epochs": UnfreezePhases(frozen=2, last=1, all=0), "mix": ["cutmix"]},
        {"pretrained": "none", "schedule": "linear"},
        SOUP,
        SOUP | {"head": "mlp", "start_bundle": "a" * 64},
    ],
    ids=str,
)
def test_settings_that_work_together_pass(changes):
    check_together(PARAMS.model_copy(update=changes))
