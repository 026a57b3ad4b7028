"""Backbones by need: short names for models that timm has with weights."""

from tasks.backbones import timm_models
from tasks.common.params import EmbedParams, TrainBackboneParams
from tasks.common.presets import PRESETS


def test_a_preset_in_params_yaml_is_the_model_that_it_stands_for():
    assert EmbedParams(backbone="balanced").backbone == PRESETS["balanced"]
    assert TrainBackboneParams(backbone="edge").backbone == timm_models.OFFLINE_BACKBONE
    assert TrainBackboneParams(backbone="resnet18").backbone == "resnet18"


def test_every_preset_has_weights_and_takes_any_resolution():
    for name in PRESETS.values():
        cfg = timm_models._pretrained_cfg(name)
        assert cfg.has_weights
        assert not cfg.fixed_input_size
