"""Structured pruning: leave out inner channels of residual blocks.

No weights are sparse, so every runtime gains. Only channels inside a block go (the expansion of an inverted residual,
the inner layers of a ResNet block, the hidden units of an MLP), so what blocks hand to each other keeps its shape. The
channels with the least norm over all layers that hold them go (Li et al. 2017, "Pruning Filters for Efficient
ConvNets"; the norm of the group: Fang et al. 2023, "DepGraph"). The shapes in a state say what was left out: `cut_as`
gives a new network the same.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tasks.common.errors import EvergreenError

MULTIPLE = 8  # of channels that stay: kernels of CPUs and GPUs compute so many at once


class Inner(NamedTuple):
    """C channels inside the block `name`. makers: layers with them on axis 0, the first one first; users: on axis 1."""

    name: str
    makers: list[nn.Module]
    users: list[nn.Module]

    @property
    def width(self) -> int:
        return len(self.makers[0].weight)


def inner_channels(model: nn.Module) -> Iterator[Inner]:
    """All inner channels of `model` that can be left out, block by block."""
    for name, block in model.named_modules():
        parts = dict(block.named_children())
        if any(type(parts.get(part)) not in (type(None), nn.Identity) for part in ("aa", "drop_block")):
            continue  # a filter with a weight of its own for each channel
        if {"conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl"} <= parts.keys():  # inverted residual
            if parts["conv_dw"].groups == parts["conv_dw"].in_channels and (se := _squeeze(parts)) is not None:
                makers = [parts[one] for one in ("conv_pw", "bn1", "conv_dw", "bn2")]
                yield Inner(name, makers + se[0], [parts["conv_pwl"], *se[1]])
        elif {"conv_exp", "bn1", "conv_pwl"} <= parts.keys():  # the same with one whole convolution
            if parts["conv_exp"].groups == 1 and (se := _squeeze(parts)) is not None:
                yield Inner(name, [parts["conv_exp"], parts["bn1"], *se[0]], [parts["conv_pwl"], *se[1]])
        elif {"conv1", "bn1", "conv2", "bn2", "act2"} <= parts.keys():  # a ResNet's block, with two or three layers
            if parts["conv2"].groups == 1:
                yield Inner(f"{name}.conv1", [parts["conv1"], parts["bn1"]], [parts["conv2"]])
                if "conv3" in parts:
                    yield Inner(f"{name}.conv2", [parts["conv2"], parts["bn2"]], [parts["conv3"]])
        elif type(block).__name__ == "Mlp" and type(parts.get("norm", nn.Identity())) is nn.Identity:
            yield Inner(name, [parts["fc1"]], [parts["fc2"]])


def _squeeze(parts: Mapping[str, nn.Module]) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """(makers, users) among the layers of squeeze-and-excitation; None: it is of a kind with other layers."""
    se = parts.get("se", nn.Identity())
    if type(se) is nn.Identity:
        return [], []
    found = dict(se.named_children())
    return ([found["conv_expand"]], [found["conv_reduce"]]) if {"conv_reduce", "conv_expand"} <= found.keys() else None


def norms(inner: Inner) -> Tensor:
    """(C,): the root of the summed squares of each channel's weights; a layer counts as much as another."""
    squares = [part.weight.detach().flatten(1).square().sum(1) for part in inner.makers if part.weight.ndim > 1]
    squares += [part.weight.detach().transpose(0, 1).flatten(1).square().sum(1) for part in inner.users]
    return torch.stack([one / one.mean().clamp(min=1e-12) for one in squares]).sum(0).sqrt()


def kept_channels(norm: Tensor, share: float) -> Tensor:
    """Places, ascending, of the channels of largest norm (C,) that stay without `share` of them: a MULTIPLE."""
    count = max(MULTIPLE, round(len(norm) * (1 - share) / MULTIPLE) * MULTIPLE)
    return norm.argsort(descending=True, stable=True)[:count].sort().values


def cut(inner: Inner, kept: Tensor) -> None:
    """Leave only the channels `kept` of `inner`, in place."""
    for part in inner.makers:
        for values in (part._parameters, part._buffers):
            for name, value in values.items():
                if value is not None and value.ndim:
                    values[name] = _selected(value, 0, kept)
        for name in ("out_channels", "out_features", "num_features"):
            if hasattr(part, name):
                setattr(part, name, len(kept))
        if getattr(part, "groups", 1) > 1:  # one filter for each channel
            part.in_channels = part.groups = len(kept)
    for part in inner.users:
        part._parameters["weight"] = _selected(part.weight, 1, kept)
        setattr(part, "in_channels" if isinstance(part, nn.Conv2d) else "in_features", len(kept))


def _selected(value: Tensor, axis: int, kept: Tensor) -> Tensor:
    chosen = value.detach().index_select(axis, kept).clone()
    return nn.Parameter(chosen, value.requires_grad) if isinstance(value, nn.Parameter) else chosen


def prune(model: nn.Module, share: float) -> nn.Module:
    """Leave out `share` of the inner channels of each block of `model`, in place. Raises EvergreenError without any."""
    found = list(inner_channels(model)) if share else []
    if share and not found:
        raise EvergreenError(
            f"train_backbone.prune is {share:g}, and {type(model).__name__} has no inner channels that can be left out "
            "(inverted residuals, ResNet blocks and MLPs have them): set it to 0, or choose another backbone, for "
            "example tf_efficientnet_lite0"
        )
    chosen = [(inner, kept_channels(norms(inner), share)) for inner in found if inner.width > MULTIPLE]
    for inner, kept in chosen:  # all are chosen by the norms of the whole network
        cut(inner, kept)
    return model.to(memory_format=torch.channels_last) if found else model


def cut_as(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give `model`, in place, as many inner channels as the network of `state` has; their values are not those."""
    names = {id(part): name for name, part in model.named_modules()}
    for inner in inner_channels(model):
        wanted = state.get(f"{names[id(inner.makers[0])]}.weight")
        if wanted is not None and len(wanted) < inner.width:
            cut(inner, torch.arange(len(wanted)))
    return model
