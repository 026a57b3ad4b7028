"""Optimizers by the names that timm gives them: sgd, nesterovw, adamw, lion, lamb, muon ..."""

import difflib
from collections.abc import Sequence

import torch

from tasks.common.errors import ParamsError

DEFAULT = "adamw"
REFUSED = {  # how a name starts -> why
    "bnb": "it needs the package bitsandbytes",
    "fused": "it needs NVIDIA's package apex",
    "adahessian": "it needs second derivatives, which the training does not compute",
    "kron": "its state cannot be kept in a checkpoint",
}


def usable_names() -> list[str]:
    """All names that train_backbone.optimizer takes."""
    return [name for name in _timm_optim().list_optimizers() if not name.startswith(tuple(REFUSED))]


def check_name(name: str) -> None:
    """Raise ParamsError if `name` is not an optimizer, or one that cannot be used here."""
    if name == DEFAULT or name in (names := usable_names()):
        return
    why = next((why for start, why in REFUSED.items() if name.startswith(start)), None)
    near = difflib.get_close_matches(name, names, n=3) or ["adamw", "sgd", "lion"]
    raise ParamsError(
        f"train_backbone.optimizer: {name!r} "
        + (f"cannot be used: {why}" if why else "is not an optimizer of timm")
        + f". Expected one of its names, for example {', '.join(near)}"
    )


def create_optimizer(name: str, groups: Sequence[dict]) -> torch.optim.Optimizer:
    """The optimizer `name` over `groups` (`params`, `weight_decay`); the training sets each group's rate."""
    if name == DEFAULT:
        return torch.optim.AdamW(groups, fused=True)
    return _timm_optim().create_optimizer_v2(list(groups), opt=name, lr=1e-3)


def _timm_optim():
    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()
    import timm.optim

    return timm.optim
