"""Features of the frozen pretrained backbone, computed once per image."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.backbones import frozen, timm_models
from tasks.backbones.features import Network, feature_table
from tasks.common.code import code_version
from tasks.common.errors import EvergreenError
from tasks.common.files import content_key
from tasks.common.params import EmbedParams, ImagesParams
from tasks.common.paths import cache_dir
from tasks.dataset.shard_table import ShardTable

if TYPE_CHECKING:
    import torch


def pretrained_features(root: Path, samples: pa.Table, *, embed: EmbedParams, images: ImagesParams) -> ShardTable:
    """Features of `samples` (columns shard, row) by the frozen pretrained backbone: (N, D) float16 on demand."""
    key = network_key(embed)
    return feature_table(root, samples, images, key, lambda: _network(root, embed, images), embed.batch_size)


def network_key(embed: EmbedParams) -> str:
    """Cache key of the network: its weights, and the code that builds and exports it."""
    return content_key("pretrained", embed.backbone, code_version("tasks.models.pretrained"))


def _network(root: Path, embed: EmbedParams, images: ImagesParams) -> Network:
    exported = content_key(network_key(embed), images.resolution, embed.batch_size)[:16]
    return frozen.frozen_network(
        lambda: _created(embed.backbone, images.resolution),
        *timm_models.normalisation(embed.backbone),
        size=images.resolution,
        batch_size=embed.batch_size,
        export_file=cache_dir("networks", root) / f"{exported}.onnx",
    )


def _created(backbone: str, size: int) -> "torch.nn.Module":
    """The network. Raises EvergreenError with the setting's name: `train_backbone` names a network, too."""
    try:
        return timm_models.create_model(backbone, "auto", 0, size)
    except EvergreenError as error:
        raise EvergreenError(f"embed.backbone: {error}") from error
