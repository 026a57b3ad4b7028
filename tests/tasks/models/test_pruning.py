"""Pruning leaves out the inner channels of least norm; the network then answers as if they were masked."""

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.models.exportable import MAX_DIFFERENCE, best_export
from tasks.models.pruning import Inner, cut_as, inner_channels, kept_channels, norms, prune

SIZE = 64


def network(name: str) -> torch.nn.Module:
    """Random weights and statistics: channels differ, and none is zero."""
    torch.manual_seed(0)
    model = timm_models.create_model(name, "none", 3, SIZE)
    for value in [*model.parameters(), *model.buffers()]:
        if value.is_floating_point() and value.ndim == 1:
            value.data.uniform_(0.5, 1.5)
    return model


def test_the_norm_of_a_channel_counts_each_layer_alike():
    first, second = torch.nn.Linear(1, 3, bias=False), torch.nn.Linear(3, 1, bias=False)
    first.weight.data, second.weight.data = torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([[30.0, 10.0, 20.0]])
    expected = np.sqrt([1 / 2 + 900 * 3 / 1400, 4 / 2 + 100 * 3 / 1400, 1 / 2 + 400 * 3 / 1400])
    np.testing.assert_allclose(norms(Inner("", [first], [second])).numpy(), expected, rtol=1e-6)


def test_the_channels_of_largest_norm_stay_in_their_order_as_a_multiple_of_eight():
    norm = torch.arange(32.0).roll(5)
    assert kept_channels(norm, 0.5).tolist() == [0, 1, 2, 3, 4, *range(21, 32)]
    assert len(kept_channels(norm, 0.4)) == 16  # 19.2, to the nearest
    assert len(kept_channels(norm, 0.9)) == 8


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_a_pruned_network_answers_as_a_masked_one_and_its_state_rebuilds_it(name):
    x, masked = torch.randn(2, 3, SIZE, SIZE), network(name)
    with torch.inference_mode():
        whole = masked(x)
    left_out = 0
    chosen = [(inner, kept_channels(norms(inner), 0.5)) for inner in inner_channels(masked) if inner.width > 8]
    for inner, kept in chosen:
        gone = torch.ones(inner.width, dtype=torch.bool)
        gone[kept] = False
        left_out += int(gone.sum())
        for user in inner.users:
            user.weight.data[:, gone] = 0
    assert left_out
    pruned = prune(network(name), 0.5)
    with torch.inference_mode():
        expected, found = masked(x), pruned(x)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-4 * scale
    assert not torch.allclose(found, whole, atol=float(1e-4 * scale))
    again = cut_as(timm_models.create_model(name, "none", 3, SIZE), pruned.state_dict())
    again.load_state_dict(pruned.state_dict())
    with torch.inference_mode():
        assert torch.allclose(again(x), found, atol=float(1e-5 * scale))


def test_a_pruned_network_is_exported_smaller():
    whole, pruned = network("test_efficientnet"), prune(network("test_efficientnet"), 0.5)
    exports = [best_export(model, SIZE) for model in (whole, pruned)]
    assert len(exports[1].content) < 0.9 * len(exports[0].content)
    assert exports[1].difference <= MAX_DIFFERENCE


def test_a_network_without_inner_channels_is_refused():
    with pytest.raises(EvergreenError, match=r"train_backbone\.prune is 0\.5.*set it to 0"):
        prune(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1)), 0.5)
