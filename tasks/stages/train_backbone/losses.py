"""Losses of stage 1, one value per sample."""

from torch import Tensor
from torch.nn import functional


def sample_losses(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,) cross-entropy; for multi-label targets (B, K) binary cross-entropy, averaged over classes."""
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    soft = targets * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(dim=1)
