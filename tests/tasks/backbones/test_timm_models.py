"""Backbones: packaged weights, any timm family, clear refusals."""

import json

import numpy as np
import pytest

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError

DISTILLED = "deit_tiny_distilled_patch16_224"  # published with two classifiers
FAMILIES = ("test_vit", "test_convnext", "test_resnet", "mobilenetv3_small_050", "tf_efficientnet_lite0", DISTILLED)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def forward(backbone: str, net, pixels: np.ndarray):
    import torch

    x = timm_models.to_input(pixels, *timm_models.normalisation(backbone), torch.device("cpu"))
    with torch.inference_mode():
        return net(x), timm_models.features(net, x)


def test_packaged_weights_give_the_logits_they_gave_when_checked_against_the_original():
    net = timm_models.create_model(timm_models.OFFLINE_BACKBONE, "none", 1000, 64)
    net.load_state_dict(timm_models.packaged_weights(), strict=True)
    ramp = np.add.outer(np.arange(64) * 2, np.arange(64) * 2)[None, :, :, None] * np.array([1, 0.5, 0.25])
    logits, features = forward(timm_models.OFFLINE_BACKBONE, net, ramp.astype(np.uint8))
    assert logits[0, :5].tolist() == pytest.approx([-2.3720, 2.9911, -3.3937, -0.4591, 1.4461], abs=2e-3)
    assert float(features.norm()) == pytest.approx(35.594, abs=0.01)


def test_the_offline_default_is_pretrained_but_for_its_new_classifier(pixels):
    import torch

    net = timm_models.create_model(timm_models.OFFLINE_BACKBONE, "auto", 3, 64)
    assert torch.equal(net.conv_stem.weight, timm_models.packaged_weights()["conv_stem.weight"])
    assert timm_models.classifier(net).weight.shape == (3, 1280)
    bare = timm_models.create_model(timm_models.OFFLINE_BACKBONE, "auto", 0, 64)
    assert torch.allclose(
        forward(timm_models.OFFLINE_BACKBONE, bare, pixels)[1], forward(timm_models.OFFLINE_BACKBONE, net, pixels)[1]
    )


def test_altered_packaged_weights_are_refused(monkeypatch):
    monkeypatch.setattr(timm_models, "OFFLINE_SHA256", "0" * 64)
    with pytest.raises(EvergreenError, match=r"sha256 5793.*expected 000"):
        timm_models.create_model(timm_models.OFFLINE_BACKBONE, "auto", 3, 64)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_splits_into_features_and_one_linear_classifier(backbone, pixels):
    import torch

    net = timm_models.create_model(backbone, "none", 3, 64)
    logits, features = forward(backbone, net, pixels)
    assert features.shape == (2, timm_models.feature_dim(net))
    with torch.inference_mode():
        assert torch.allclose(timm_models.classifier(net)(features), logits, atol=1e-5)
    assert torch.equal(forward(backbone, net, pixels)[0], logits), "two passes in eval mode must agree"


@pytest.mark.parametrize("backbone", FAMILIES)
def test_blocks_go_from_stem_to_classifier_and_cover_the_backbone(backbone):
    net = timm_models.create_model(backbone, "none", 3, 64)
    blocks = timm_models.blocks(net)
    ours = [id(p) for block in blocks for p in block.parameters()]
    assert len(blocks) >= 4
    assert len(ours) == len(set(ours)), "no parameter is in two blocks"
    assert not set(ours) & {id(p) for p in timm_models.classifier(net).parameters()}
    loose = [name for name, p in net.named_parameters() if id(p) not in ours]
    assert {name.split(".")[0] for name in loose} <= {
        "cls_token",
        "dist_token",
        "reg_token",
        "pos_embed",
        "head",
        "classifier",
        "fc",
    }
    place = {id(p): number for number, p in enumerate(net.parameters())}
    firsts = [min(place[id(p)] for p in block.parameters()) for block in blocks]
    assert firsts == sorted(firsts)


def test_a_transformer_takes_another_input_size():
    net = timm_models.create_model("test_vit", "none", 2, 96)
    logits, _ = forward("test_vit", net, np.zeros((1, 96, 96, 3), np.uint8))
    assert logits.shape == (1, 2)


def test_unknown_names_sizes_and_heads_are_refused_with_a_way_out():
    with pytest.raises(EvergreenError, match=r"resnet188.*did you mean.*resnet18"):
        timm_models.create_model("resnet188", "none", 2, 64)
    with pytest.raises(EvergreenError, match=r"change images\.resolution"):
        timm_models.create_model("inception_v3", "none", 2, 64)
    with pytest.raises(EvergreenError, match="not in one linear classifier"):
        timm_models.create_model("levit_128s", "none", 2, 224)
    with pytest.raises(EvergreenError, match="no pretrained weights for mixer_s16_224"):
        timm_models.create_model("mixer_s16_224", "auto", 2, 64)


def test_a_missing_hub_is_one_error_that_names_the_offline_default(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(EvergreenError, match=r"use tf_efficientnet_lite0"):
        timm_models.create_model("test_resnet", "auto", 2, 64)


def test_input_is_scaled_normalised_and_channels_last_without_a_copy(pixels):
    import torch

    x = timm_models.to_input(pixels, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), torch.device("cpu"))
    assert x.shape == (2, 3, 64, 64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    wanted = (pixels[1, 2, 3] / 255 - np.array([0.5, 0.25, 0])) / np.array([0.5, 0.25, 1])
    assert x[1, :, 2, 3].numpy() == pytest.approx(wanted, abs=1e-6)


def test_normalisation_is_what_timm_says():
    import timm

    for backbone in ("tf_efficientnet_lite0", "resnet18"):
        cfg = timm.get_pretrained_cfg(backbone)
        assert timm_models.normalisation(backbone) == (tuple(cfg.mean), tuple(cfg.std))


def test_one_classifier_for_two_is_the_mean_of_both(pixels):
    """Its logits are what the published form gives when both of its classifiers are the same."""
    import timm
    import torch

    net = timm_models.create_model(DISTILLED, "none", 3, 64)
    both = timm.create_model(DISTILLED, num_classes=3, img_size=64).eval()
    state = net.state_dict()
    both.load_state_dict(state | {f"head_dist.{part}": state[f"head.{part}"] for part in ("weight", "bias")})
    assert torch.allclose(forward(DISTILLED, both, pixels)[0], forward(DISTILLED, net, pixels)[0], atol=1e-5)
    net.reset_classifier(5)
    assert timm_models.classifier(net).out_features == 5


def stored_on_hub(folder, name: str, architecture: str, weights: bool) -> None:
    """Leave a repository of the hub in `folder`, as a download does."""
    import timm
    from safetensors.torch import save_file

    place = folder / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64], "num_classes": 4}
    cfg |= {"first_conv": "conv1", "classifier": "fc"}
    (snapshot / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": cfg}))
    if weights:
        model = timm.create_model("test_resnet", num_classes=4)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, snapshot / "model.safetensors")


def test_a_model_of_the_hub_by_its_address(tmp_path, monkeypatch, pixels):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    stored_on_hub(tmp_path, "someone/cats", "test_resnet", weights=True)
    name = "hf_hub:someone/cats"
    timm_models.check_weights(name)
    net = timm_models.create_model(name, "auto", 3, 64)
    assert timm_models.classifier(net).out_features == 3
    assert timm_models.normalisation(name) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    again = timm_models.create_model(name, "auto", 0, 64)
    assert np.allclose(forward(name, again, pixels)[1], forward(name, net, pixels)[1]), "weights of the repository"

    stored_on_hub(tmp_path, "someone/dogs", "no_such_network", weights=False)
    with pytest.raises(EvergreenError, match=r"no_such_network.*hf_hub:OWNER/NAME.*tf_efficientnet_lite0"):
        timm_models.create_model("hf_hub:someone/dogs", "auto", 3, 64)
    with pytest.raises(EvergreenError, match="could not be read from the hub"):
        timm_models.check_weights("hf_hub:someone/birds")
