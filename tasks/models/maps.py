"""The spatial maps of a network's layers, whatever their layout."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def as_map(output: "torch.Tensor", channels: int, model: "torch.nn.Module") -> "torch.Tensor | None":
    """A layer's output as (B, C, h, w), or None if it has no spatial layout.

    Channels-last maps are permuted. Tokens are laid out on the grid of patches, without class and register tokens.
    """
    if output.ndim == 4:
        if output.shape[1] == channels:
            return output
        return output.permute(0, 3, 1, 2) if output.shape[3] == channels else None
    if output.ndim != 3 or output.shape[2] != channels:
        return None
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    tokens = output[:, getattr(model, "num_prefix_tokens", 0) :]
    if not grid or grid[0] * grid[1] != tokens.shape[1]:
        return None
    return tokens.transpose(1, 2).reshape(-1, channels, *grid)
