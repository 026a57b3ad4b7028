"""Losses of stage 1 for `train_backbone.loss`: cross entropy, and those for a long tail of classes.

B is the number of images in a batch, K of classes. `counts` (K,) are the images (multi-label: labels) of each class
that the epoch draws, so a sampler and a loss that both correct the frequencies do not correct them twice.
Each loss gives one value per image: the trainer divides their sum by the images of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasks.common.errors import ParamsError

ONE_LABEL = ("ldam_drw", "logit_adjusted", "balanced_softmax")  # defined for one label per image
SEVERAL_LABELS = ("asymmetric",)
FOCUS = 2.0  # gamma of the focal loss
BETA = 0.999  # of the effective number: from about 1 / (1 - BETA) images on, more images of a class count no more
MARGIN = 5.0  # of the rarest class in LDAM, in logits
DEFERRED = 0.8  # share of a phase after which LDAM re-weights
POSITIVE, NEGATIVE, CLIP = 1.0, 4.0, 0.05  # gammas and probability shift of the asymmetric loss


@dataclass(frozen=True)
class Loss:
    """A loss of one epoch: call it with logits (B, K) and targets (B,) or (B, K). None: this part is not used."""

    smoothing: float = 0.0
    weights: Tensor | None = None  # (K,) of each class
    shift: Tensor | None = None  # (K,) added to the logits
    margins: Tensor | None = None  # (K,) taken from the logit of an image's own class
    focus: float = 0.0
    asymmetric: bool = False

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses."""
        return self._one_label(logits, targets) if targets.ndim == 1 else self._several_labels(logits, targets)

    def _one_label(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.shift is not None:
            logits = logits + self.shift
        if self.margins is not None:
            logits = logits - functional.one_hot(targets, logits.shape[1]) * self.margins
        losses = sample_losses(logits, targets, self.smoothing)
        if self.focus:
            chosen = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0].exp()
            losses = losses * (1 - chosen) ** self.focus
        return losses if self.weights is None else losses * self.weights[targets]

    def _several_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.asymmetric:
            return asymmetric(logits, smoothed(targets, self.smoothing))
        if self.weights is None and not self.focus:
            return sample_losses(logits, targets, self.smoothing)
        soft = smoothed(targets, self.smoothing)
        losses = functional.binary_cross_entropy_with_logits(logits, soft, self.weights_of(soft), reduction="none")
        if self.focus:
            right = torch.where(targets > 0.5, logits, -logits).sigmoid()
            losses = losses * (1 - right) ** self.focus
        return losses.mean(dim=1)

    def weights_of(self, targets: Tensor) -> Tensor | None:
        """(B, K): the class's weight where the label is there, 1 where it is not."""
        return None if self.weights is None else targets * self.weights + (1 - targets)


def epoch_loss(name: str, counts: np.ndarray, smoothing: float, progress: float, device: torch.device) -> Loss:
    """The loss `name` for an epoch that draws `counts` (K,), after the share `progress` of its phase (0 to 1)."""

    def tensor(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    if name == "class_weighted":
        return Loss(smoothing, weights=tensor(inverse_frequency(counts)))
    if name == "class_balanced":
        return Loss(smoothing, weights=tensor(effective_number(counts)))
    if name in ("logit_adjusted", "balanced_softmax"):
        return Loss(smoothing, shift=tensor(log_share(counts)))
    if name == "ldam_drw":
        weights = tensor(effective_number(counts)) if progress >= DEFERRED else None
        return Loss(smoothing, weights=weights, margins=tensor(ldam_margins(counts)))
    return Loss(smoothing, focus=FOCUS if name == "focal" else 0.0, asymmetric=name == "asymmetric")


def check_loss(name: str, task: str) -> None:
    """Raise ParamsError for a loss that `data.task` does not have."""
    wrong = ONE_LABEL if task == "multilabel" else SEVERAL_LABELS
    if name in wrong:
        labels = "several labels" if task == "multilabel" else "one label"
        raise ParamsError(
            f"train_backbone.loss: {name} is not defined for images with {labels} (data.task: {task}); expected "
            f"a loss other than {', '.join(wrong)}: cross_entropy, for example"
        )


def sample_losses(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,) cross-entropy; for multi-label targets (B, K) binary cross-entropy, averaged over classes."""
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    soft = smoothed(targets, smoothing)
    return functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(dim=1)


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """Multi-label targets (B, K) moved from 0 and 1 towards 1/2."""
    return targets * (1 - smoothing) + smoothing / 2


def asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) asymmetric loss (Ridnik et al. 2021), averaged over classes: easy absent labels count little or nothing."""
    there, absent = logits.sigmoid(), (1 - logits.sigmoid() + CLIP).clamp(max=1)
    positive = targets * (1 - there) ** POSITIVE * functional.logsigmoid(logits)
    negative = (1 - targets) * (1 - absent) ** NEGATIVE * absent.clamp(min=1e-8).log()
    return -(positive + negative).mean(dim=1)


def inverse_frequency(counts: np.ndarray) -> np.ndarray:
    """(K,) weights that give every class the same total weight; their mean over all images is 1."""
    return _scaled(1 / np.maximum(counts, 1), counts)


def effective_number(counts: np.ndarray, beta: float = BETA) -> np.ndarray:
    """(K,) weights 1 / effective number of images (Cui et al. 2019, "Class-balanced loss"); mean over all images 1."""
    return _scaled((1 - beta) / (1 - beta ** np.maximum(counts, 1)), counts)


def _scaled(weights: np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """`weights` with a mean of 1 over images, so that the learning rate means the same with every loss."""
    return weights * np.sum(counts) / max(np.sum(weights * counts), 1e-12)


def log_share(counts: np.ndarray) -> np.ndarray:
    """(K,) log of each class's share: added to the logits in training only, it takes the bias to common classes.

    Menon et al. 2021, "Long-tail learning via logit adjustment", at tau 1, which is Ren et al. 2020, "Balanced
    meta-softmax", without its sampler.
    """
    return np.log(np.maximum(counts, 1) / np.maximum(counts, 1).sum())


def ldam_margins(counts: np.ndarray) -> np.ndarray:
    """(K,) margins proportional to n^(-1/4), MARGIN for the rarest class (Cao et al. 2019, "LDAM").

    Theirs are in units of a cosine classifier times a fixed scale. Ours is linear, as everything after training
    expects, so the margins are in logits.
    """
    margins = np.maximum(counts, 1) ** -0.25
    return margins * MARGIN / margins.max()
