"""Extensions of a timm network between its maps and its classifier, under the network's own names.

- a hidden layer before the classifier (512, GELU, dropout .3): its output is the network's features, so that stage 2
  stays linear
- bilinear pooling (Lin et al. 2015, "Bilinear CNN Models for Fine-grained Visual Recognition"): products of pairs of
  channels, reduced to CHANNELS first, averaged over places, beside the average of each channel
- an attention crop (Hu et al. 2019, "See Better Before Looking Closer"): the network looks at the part of the image
  with the strongest features again, enlarged; its features are the mean of both looks

Heads and exports call `timm_models.features` and need not know. `structure_of` reads from a state what it belongs to.
B images, S pixels per side of the input, C channels of a map of (h, w) places, D feature dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.dataset.shard_table import ShardTable
from tasks.models.maps import as_map

Features = np.ndarray | ShardTable  # (N, D)
ROWS = 4096  # of features in float32 at once
HIDDEN, DROPOUT = 512, 0.3
CHANNELS = 32  # of bilinear pooling: 528 pairs; all pairs of 1,280 channels would be 800,000
SMALLEST = 0.3  # of the image's side that the attention crop may show
SPREAD = 2.0  # standard deviations of the heat around its centre that the crop shows


@dataclass(frozen=True)
class Structure:
    """What a network has besides timm's layers."""

    head: Literal["linear", "mlp"] = "linear"
    pooling: Literal["average", "bilinear"] = "average"
    attention_crop: bool = False

    @property
    def plain(self) -> bool:
        return self == Structure()


class Bilinear(nn.Module):
    """(B, C, h, w) -> (B, CHANNELS * (CHANNELS + 1) / 2): mean products of pairs, signed square root, unit length."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, CHANNELS, 1, bias=False)
        nn.init.orthogonal_(self.reduce.weight)
        pairs = torch.triu_indices(CHANNELS, CHANNELS)
        self.register_buffer("first", pairs[0], persistent=False)
        self.register_buffer("second", pairs[1], persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        return normalised_pairs(self.reduce(maps), self.first, self.second)


def normalised_pairs(maps: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(B, P): the mean over places of maps[:, first] * maps[:, second], signed square root, unit length."""
    found = (maps.index_select(1, first) * maps.index_select(1, second)).mean(dim=(2, 3))
    found = found.sign() * ((found.abs() + 1e-6).sqrt() - 1e-3)  # the slope of the root is finite at 0
    return nn.functional.normalize(found, dim=1)


class AttentionCrop(nn.Module):
    """Enlarges the part of each image where the map is strongest to the size of the whole."""

    def __init__(self):
        super().__init__()
        self.register_buffer("smallest", torch.tensor(SMALLEST))  # in the state: it says that the network looks twice

    @torch.no_grad()
    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        """(B, 3, S, S) crops of `x`, from maps (B, C, h, w) of it."""
        centre, half = window(maps.float(), self.smallest)
        steps = (torch.arange(x.shape[-1], device=x.device, dtype=torch.float32) * 2 + 1) / x.shape[-1] - 1
        base = torch.stack([steps[None, :].expand(len(steps), -1), steps[:, None].expand(-1, len(steps))], dim=-1)
        grid = centre[:, None, None, :] + half[:, None, None, None] * base[None]
        return nn.functional.grid_sample(x.float(), grid, align_corners=False, padding_mode="border")


def window(maps: Tensor, smallest: Tensor) -> tuple[Tensor, Tensor]:
    """(centre (B, 2) as x, y, half the side (B,)) of a square inside the image, which reaches from -1 to 1.

    The heat of a place is the squared length of its features, above the mean over places. The square shows SPREAD
    standard deviations of the heat around its centre.
    """
    heat = maps.square().sum(dim=1)
    heat = (heat - heat.mean(dim=(1, 2), keepdim=True)).clamp(min=0) + 1e-6
    heat = heat / heat.sum(dim=(1, 2), keepdim=True)
    height, width = maps.shape[2:]
    xs = (torch.arange(width, device=maps.device, dtype=torch.float32) * 2 + 1) / width - 1
    ys = (torch.arange(height, device=maps.device, dtype=torch.float32) * 2 + 1) / height - 1
    x, y = (heat.sum(dim=1) * xs).sum(dim=1), (heat.sum(dim=2) * ys).sum(dim=1)
    apart = (xs[None, None, :] - x[:, None, None]).square() + (ys[None, :, None] - y[:, None, None]).square()
    spread = ((heat * apart).sum(dim=(1, 2)) / 2).sqrt()
    half = torch.maximum(SPREAD * spread + 1 / width, smallest).clamp(max=1.0)
    inside = 1 - half[:, None]
    return torch.minimum(torch.maximum(torch.stack([x, y], dim=1), -inside), inside), half


class Extended:
    """Mixed into the network's class by `extend`. `extra_hidden`, `extra_pairs`, `extra_crop`: its parts, or None."""

    def pooled_features(self, x: Tensor) -> Tensor:
        """(B, D) of normalised x (B, 3, S, S): what the classifier reads."""
        maps = self.forward_features(x)
        found = self._pooled(maps)
        if self.extra_crop is not None:
            found = (found + self._pooled(self.forward_features(self.extra_crop(x, self._map(maps))))) / 2
        return found if self.extra_hidden is None else self.extra_hidden(found)

    def _pooled(self, maps: Tensor) -> Tensor:
        plain = self.forward_head(maps, pre_logits=True)
        return plain if self.extra_pairs is None else torch.cat([plain, self.extra_pairs(self._map(maps))], dim=1)

    def _map(self, output: Tensor) -> Tensor:
        return as_map(output, self.num_features, self)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_classifier()(self.pooled_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier of the extended features; none for 0 classes."""
        _replace_classifier(self, num_classes, self.head_hidden_size)


def extend(model: nn.Module, structure: Structure, size: int) -> nn.Module:
    """Give `model`, which takes (B, 3, size, size), the parts of `structure`, in place; the classifier is a new one.

    Raises EvergreenError if a part needs a spatial map and the network has none.
    """
    if structure.plain:
        return model
    last, width = timm_models.classifier(model), timm_models.feature_dim(model)
    if structure.pooling == "bilinear" or structure.attention_crop:
        _check_map(model, size, structure)
    pairs = Bilinear(model.num_features) if structure.pooling == "bilinear" else None
    width += CHANNELS * (CHANNELS + 1) // 2 if pairs is not None else 0
    hidden = None
    if structure.head == "mlp":
        hidden = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT))
        width = HIDDEN
    _replace_classifier(model, last.out_features, width)
    model.extra_pairs, model.extra_hidden = pairs, hidden
    model.extra_crop = AttentionCrop() if structure.attention_crop else None
    kind = type(model)
    model.__class__ = type(f"Extended{kind.__name__}", (Extended, kind), {})
    model.head_hidden_size = width
    return model.eval()


def structure_of(state: Mapping[str, object]) -> Structure:
    """What the network of `state` has besides timm's layers."""
    return Structure(
        head="mlp" if "extra_hidden.0.weight" in state else "linear",
        pooling="bilinear" if "extra_pairs.reduce.weight" in state else "average",
        attention_crop="extra_crop.smallest" in state,
    )


def start_features(model: nn.Module, features: Features) -> Features:
    """(N, D) of the network as it was extended, from pretrained features (N, D') of its average pooling.

    Products of pairs count as 0, and the second look as the first. Without extensions: `features` as they are.
    """
    if not isinstance(model, Extended):
        return features
    hidden = model.extra_hidden
    wanted = hidden[0].in_features if hidden is not None else timm_models.feature_dim(model)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(features), ROWS):
            rows = torch.from_numpy(np.asarray(features[start : start + ROWS], np.float32))
            rows = nn.functional.pad(rows, (0, wanted - rows.shape[1]))
            parts.append((rows if hidden is None else hidden(rows)).numpy())
    return np.concatenate(parts)


def _check_map(model: nn.Module, size: int, structure: Structure) -> None:
    with torch.inference_mode():
        output = model.forward_features(torch.zeros(1, 3, size, size))
    if as_map(output, model.num_features, model) is None:
        raise EvergreenError(
            f"{type(model).__name__} has no spatial map before its classifier: train_backbone.pooling: bilinear and "
            "train_backbone.attention_crop need one; choose another backbone, or leave them at their defaults"
        )
    if structure.attention_crop and output.ndim != 4:  # ONNX Runtime gives other answers for a batch than for one image
        raise EvergreenError(
            f"train_backbone.attention_crop needs a network with a map of places, and {type(model).__name__} answers "
            "from tokens, whose export gives other answers: choose a convolutional backbone, or set it to false"
        )


def _replace_classifier(model: nn.Module, classes: int, width: int) -> None:
    last = timm_models.classifier(model)
    (name,) = [name for name, module in model.named_modules() if module is last]
    new = nn.Linear(width, classes, bias=last.bias is not None) if classes else nn.Identity()
    model.set_submodule(name, new)
