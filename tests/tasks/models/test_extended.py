"""Networks with a hidden layer, bilinear pooling or a second look: features, names, start and export."""

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.inference.scaling import Scaling
from tasks.models.extended import Structure, extend, normalised_pairs, start_features, structure_of, window
from tasks.stages.calibrate import export
from tests.support.small_training import small

ALL = Structure("mlp", "bilinear", True)
WIDTHS = {  # of a network with D features
    Structure("mlp"): lambda d: 512,
    Structure(pooling="bilinear"): lambda d: d + 528,
    Structure(attention_crop=True): lambda d: d,
    ALL: lambda d: 512,
}


@pytest.mark.parametrize("structure", WIDTHS, ids=str)
@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_an_extended_network_splits_into_features_and_one_linear_classifier(name, structure):
    model = small(name)
    plain = set(model.state_dict())
    width = WIDTHS[structure](timm_models.feature_dim(model))
    blocks = len(timm_models.blocks(model))
    extend(model, structure, 32)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = timm_models.features(model, x)
        assert features.shape == (2, width) == (2, timm_models.feature_dim(model))
        assert torch.equal(timm_models.classifier(model)(features), model(x))
    assert timm_models.classifier(model).weight.shape == (3, width)
    assert set(model.state_dict()) >= plain
    assert structure_of(model.state_dict()) == structure
    assert len(timm_models.blocks(model)) == blocks, "what is added is not a block to open"
    model.reset_classifier(5)
    assert timm_models.classifier(model).weight.shape == (5, width)


def test_without_extensions_a_network_stays_as_it_is():
    model = small()
    kind = type(model)
    assert type(extend(model, Structure(), 32)) is kind
    assert structure_of(model.state_dict()) == Structure()
    x = np.ones((2, 3), np.float32)
    assert start_features(model, x) is x


def test_products_of_pairs_are_those_of_a_hand_computed_map():
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, -4.0]]]])  # two channels, two places
    found = normalised_pairs(maps, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    expected = np.array([5.0, -5.0, 10.0])  # mean of 1 and 9, of 2 and -12, of 4 and 16
    expected = np.sign(expected) * np.sqrt(np.abs(expected))
    assert found[0].numpy() == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)
    maps = torch.zeros(1, 2, 1, 2, requires_grad=True)
    normalised_pairs(maps, torch.tensor([0]), torch.tensor([1])).sum().backward()
    assert torch.isfinite(maps.grad).all()


def test_the_second_look_is_at_the_strongest_place_and_inside_the_image():
    maps = torch.full((2, 4, 8, 8), 0.1)
    maps[0, :, 1, 6] = 5.0  # above, right
    centre, half = window(maps, torch.tensor(0.3))
    assert centre[0].tolist() == pytest.approx([0.625, -0.625], abs=0.02)
    assert half[0] == pytest.approx(0.3)
    assert (centre.abs() + half[:, None] <= 1 + 1e-6).all()
    assert half[1] == 1, "an even map is seen as a whole"


def test_the_crop_enlarges_the_window():
    from tasks.models.extended import AttentionCrop

    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 4:8, 24:28] = 1.0
    maps = torch.full((1, 4, 8, 8), 0.1)
    maps[0, :, 1, 6] = 5.0  # over the bright square
    crop = AttentionCrop()(x, maps)
    assert crop.shape == x.shape
    assert crop.mean() / x.mean() == pytest.approx((1 / 0.3) ** 2, rel=0.1)


def test_a_hidden_layer_and_pairs_start_from_the_stored_features():
    model = small()
    width = timm_models.feature_dim(model)
    x = np.random.default_rng(0).normal(size=(5, width)).astype(np.float16)
    extend(model, Structure(pooling="bilinear"), 32)
    found = start_features(model, x)
    assert np.array_equal(found[:, :width], x.astype(np.float32))
    assert not found[:, width:].any()
    model = extend(small(), Structure("mlp"), 32)
    with torch.inference_mode():
        expected = model.extra_hidden(torch.from_numpy(x.astype(np.float32))).numpy()
    assert np.array_equal(start_features(model, x), expected)
    assert expected.shape == (5, 512)


def test_an_extended_network_is_exported_with_all_its_parts(tmp_path):
    model = extend(small(), ALL, 32)
    last = timm_models.classifier(model)
    about = {
        "backbone": "test_efficientnet",
        "task": "multiclass",
        "resolution": 32,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    finished = export.Finished(model, about, last.weight.detach().numpy(), last.bias.detach().numpy(), Scaling())
    pixels = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), np.uint8)
    assert export.export(tmp_path / "model.onnx", finished, pixels) < 1e-4


def test_a_network_of_tokens_takes_no_second_look():
    with pytest.raises(EvergreenError, match="choose a convolutional backbone"):
        extend(small("test_vit"), Structure(attention_crop=True), 32)
