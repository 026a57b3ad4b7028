"""Depthwise convolutions inside SmallMaps: the same results and gradients as torch's own, on maps of any shape."""

import pytest
import torch
from torch.nn import functional

from tasks.backbones import timm_models
from tasks.stages.train_backbone import phases
from tasks.stages.train_backbone.depthwise import Depthwise, SmallMaps


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [((2, 2), 5, 1, 2), ((4, 4), 5, 1, 2), ((4, 4), 5, 2, 2), ((2, 2), 3, 1, 1), ((5, 5), 5, 2, 0), ((1, 3), 3, 1, 1),
     ((3, 2), (3, 3), (1, 2), (1, 1)), ((4, 7), 5, (2, 1), (2, 1))],
)  # fmt: skip
def test_gradients_are_torchs_own(side, kernel, stride, padding, layout):
    def gradients(context) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, 8, *side, generator=generator).contiguous(memory_format=layout).requires_grad_()
        size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        weight = torch.randn(8, 1, *size, generator=generator).requires_grad_()
        with context:
            out = functional.conv2d(x, weight, None, stride, padding, 1, 8)
        assert (type(out.grad_fn).__name__ == "DepthwiseBackward") == isinstance(context, SmallMaps)
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        return out.detach(), x.grad, weight.grad

    for ours, theirs in zip(gradients(SmallMaps()), gradients(torch.enable_grad()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_double_precision_derivatives_are_those_of_finite_differences():
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: Depthwise.apply(*a, (1, 1), (2, 2)), (x, weight))


@pytest.mark.parametrize(
    "change",
    [{"groups": 1}, {"bias": torch.zeros(8)}, {"padding": "same"}, {"dilation": 2, "padding": 4}, {"side": 16}],
)
def test_whatever_else_is_left_to_torch(change):
    how = {"bias": None, "stride": 1, "padding": 2, "dilation": 1, "groups": 8, "side": 2} | change
    side = how.pop("side")
    x = torch.randn(2, 8, side, side)
    weight = torch.randn(8, 8 // how["groups"], 5, 5, requires_grad=True)
    with SmallMaps():
        out = functional.conv2d(x, weight, *how.values())
        assert type(out.grad_fn).__name__ == "ConvolutionBackward0"
    with SmallMaps(), torch.autocast("cpu", torch.bfloat16):
        assert (
            functional.conv2d(
                torch.randn(2, 8, 2, 2), torch.randn(8, 1, 5, 5, requires_grad=True), None, 1, 2, 1, 8
            ).dtype
            == torch.bfloat16
        )


def test_a_whole_network_trains_the_same():
    def gradients(context) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = timm_models.create_model("tf_efficientnet_lite0", "none", 3, 64)
        phases.set_mode(model, moving_statistics=False)
        with context:
            out = model(torch.randn(4, 3, 64, 64))
        functional.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
        return {name: value.grad for name, value in model.named_parameters()}

    ours, theirs = gradients(SmallMaps()), gradients(torch.enable_grad())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-6 + 1e-3 * value.abs().max().item())
