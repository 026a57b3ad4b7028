"""Grad-CAM: a heat map of the image regions that speak for a class.

After Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
For class c and a layer's map A (C channels of h x w places): weight each channel by the mean over places of dy_c/dA,
sum the weighted channels and keep what speaks *for* c (ReLU). Any layer would do. The last one knows most about
classes, but on small inputs its map is only one or two places wide. So this module takes the deepest layer whose map is
at least PLACES wide and that influences the answer (a transformer that answers from its class token ignores the
patches of its last block).

B images of one pass, N images, S the input's side in pixels, K classes, D feature dimensions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

PLACES = 4  # smallest width and height of a map that is used
BATCH = 8  # images whose maps and gradients are held at once


def grad_cam(
    model: "torch.nn.Module",
    about: dict,
    weight: np.ndarray,
    bias: np.ndarray,
    pixels: np.ndarray,
    classes: Sequence[int],
) -> np.ndarray | None:
    """(N, S, S) float32 heat in 0..1 for `classes` (N,) on uint8 `pixels` (N, S, S, 3).

    All 0 for an image in which nothing speaks for the class; None if the network has no spatial map.
    model, about: of stage1.load; weight (K, D), bias (K,): the classifier on its features, which may differ from
    the network's own.
    """
    import torch

    from tasks.backbones import timm_models

    if len(pixels) != len(classes):
        raise ValueError(f"{len(pixels)} images and {len(classes)} classes: one class an image expected")
    device = timm_models.device()
    model = model.to(device).eval()
    head = torch.as_tensor(weight, dtype=torch.float32, device=device)
    offset = torch.as_tensor(bias, dtype=torch.float32, device=device)
    out = np.zeros((len(pixels), *pixels.shape[1:3]), np.float32)
    for start in range(0, len(pixels), BATCH):
        part = slice(start, start + BATCH)
        x = timm_models.to_input(np.array(pixels[part]), about["mean"], about["std"], device)
        chosen = torch.as_tensor(np.array(classes[part]), device=device)
        heat = _heat(model, x, lambda features, chosen=chosen: _scores(features @ head.T + offset, chosen))
        if heat is None:
            return None
        heat = torch.nn.functional.interpolate(heat[:, None], size=x.shape[-2:], mode="bicubic", align_corners=False)
        heat = heat[:, 0].clamp(min=0)
        heat = heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        out[part] = heat.cpu().numpy()
    return out


def _scores(logits: "torch.Tensor", chosen: "torch.Tensor") -> "torch.Tensor":
    return logits.gather(1, chosen[:, None]).sum()  # images do not mix in eval mode, so one sum gives every gradient


def _heat(model: "torch.nn.Module", x: "torch.Tensor", score) -> "torch.Tensor | None":
    """(B, h, w) >= 0, of the deepest layer that fits."""
    import torch

    from tasks.backbones import timm_models
    from tasks.models.maps import as_map

    layers = _layers(model)
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        outputs.setdefault(name, output)  # of the first look: a second one sees a part of the image

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, (layer, _) in layers.items()
    ]
    try:
        with torch.enable_grad():
            x.requires_grad_(True)
            y = score(timm_models.features(model, x))
            there = [name for name in layers if isinstance(outputs.get(name), torch.Tensor)]
            found = torch.autograd.grad(y, [outputs[name] for name in there], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    for name, gradient in reversed(list(zip(there, found, strict=True))):
        if gradient is None:
            continue
        maps = (as_map(part.detach(), layers[name][1], model) for part in (outputs[name], gradient))
        value, slope = maps
        if value is None or min(value.shape[-2:]) < PLACES or not slope.any():
            continue
        channel = slope.mean(dim=(2, 3), keepdim=True)
        return (channel * value).sum(dim=1).clamp(min=0)
    return None


def _layers(model: "torch.nn.Module") -> dict[str, tuple["torch.nn.Module", int]]:
    """Module name -> (module, channels) of the stages in timm's feature_info, first to last."""
    info = getattr(model, "feature_info", None) or []
    modules = dict(model.named_modules())
    steps = [(one.get("module"), one.get("num_chs")) for one in info if isinstance(one, dict)]
    return {name: (modules[name], channels) for name, channels in steps if name in modules}


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 `pixels` (..., S, S, 3) under `heat` (..., S, S).

    Cold places are grey and dark, hot ones go from red over orange to yellow. They also get lighter, so that
    colour-blind readers can tell them apart.
    """
    strength = np.clip(heat, 0, 1)[..., None].astype(np.float32)
    grey = pixels.astype(np.float32).mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    stops = np.array([[120, 0, 40], [225, 60, 10], [255, 225, 70]], np.float32)
    low = stops[0] + (stops[1] - stops[0]) * np.minimum(strength * 2, 1)
    colour = low + (stops[2] - stops[1]) * np.maximum(strength * 2 - 1, 0)
    alpha = 0.72 * strength**0.8
    return np.clip(0.62 * grey * (1 - alpha) + colour * alpha + 0.25 * grey * alpha, 0, 255).astype(np.uint8)
