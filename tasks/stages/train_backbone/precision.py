"""Chooses the precision of the arithmetic from the kind of layers that a network has.

On a GPU, torch runs convolutions on tensor cores in float32 too (TF32), but not matrix products. So bfloat16 makes a
network of linear layers about twice as fast (ConvNeXt-T 2.0 times on an H200, transformers are built alike), and a
network of convolutions slower, because each cast is one more kernel to start (the default network 0.4 to 0.9 times,
ResNet-50 0.9 times).
"""

from typing import Literal

import torch
from torch.nn import Module


def linear_share(model: Module) -> float:
    """Share of the network's matrix weights that lie in linear layers, without those of its classifier.

    Linear layers in a convolutional network are few; a transformer, mixer or ConvNeXt consists of them.
    """
    last = model.get_classifier() if hasattr(model, "get_classifier") else None
    linear = sum(
        layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not last
    )
    head = sum(value.numel() for value in last.parameters() if value.ndim > 1) if last is not None else 0
    matrices = sum(value.numel() for value in model.parameters() if value.ndim > 1) - head
    return linear / matrices if matrices else 1.0


def use_bfloat16(wanted: Literal["auto", "float32", "bfloat16"], model: Module, device: torch.device) -> bool:
    """Whether to train in bfloat16: if asked for, or for "auto" on a GPU that has it and wins by it."""
    if wanted != "auto":
        return wanted == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported() and linear_share(model) > 0.5
