"""The model's network as later stages read it: its weights and its features.

artifacts/train_backbone/weights.safetensors is the full state of a timm model, classifier included, or of an ensemble
of them (tasks.models.ensemble).
artifacts/train_backbone/model.json says how to build it: {backbone, pretrained, classes, task, resolution, fit, mean,
std, feature_dim}. Where train_head found the pretrained network better than the trained one, that network's state is
artifacts/train_head/weights.safetensors, and it is the model's. N is the number of samples, D of feature dimensions.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.common.artifacts import FOLDER, network_weights, stage_output
from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key, read_json, sha256_file, write_json
from tasks.common.params import ImagesParams
from tasks.dataset.shard_table import ShardTable

if TYPE_CHECKING:  # functions import torch when they need it: reading the tables alone must stay cheap
    import torch


def save(root: Path, model: "torch.nn.Module", about: dict) -> None:
    """Write `model`'s state (float32, on the CPU, plain memory order) and `about` as model.json under `root`."""
    save_weights(model, root / FOLDER / "weights.safetensors")
    write_json(root / FOLDER / "model.json", about)


def save_weights(model: "torch.nn.Module", file: Path) -> None:
    """Write `model`'s state as float32, on the CPU, in plain memory order."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(file) as temporary:
        save_file(state, temporary)


def load(root: Path, weights: Path | None = None) -> tuple["torch.nn.Module", dict]:
    """(network in eval mode on the CPU, model.json). Raises StageInputError if train_backbone has not run.

    weights: of another network than the model's.
    """
    from safetensors.torch import load_file

    from tasks.backbones import timm_models
    from tasks.models import ensemble
    from tasks.models.extended import extend, structure_of
    from tasks.models.pruning import cut_as

    about = read_json(stage_output(root / FOLDER / "model.json", "train_backbone"))
    state = load_file(weights or network_weights(root))
    members = ensemble.member_count(state)
    one = ensemble.member_state(state, 0) if members else state
    structure = structure_of(one)
    about_one = about["backbone"], "none", len(about["classes"]), about["resolution"]
    made = [cut_as(timm_models.create_model(*about_one), one) for _ in range(members or 1)]
    networks = [extend(network, structure, about_one[-1]) for network in made]
    model = ensemble.Ensemble(networks) if members else networks[0]
    last = timm_models.classifier(model)
    (name,) = [name for name, module in model.named_modules() if module is last]
    if len(state[f"{name}.weight"]) != len(last.weight):  # the probe knows classes that changed after stage 1
        model.reset_classifier(len(state[f"{name}.weight"]))
    model.load_state_dict(state)
    return model.eval(), about


def stage1_features(
    root: Path, samples: pa.Table, images: ImagesParams, batch_size: int = 64, weights: Path | None = None
) -> ShardTable:
    """(N, D) features of `samples` under the model's network, computed once per shard and weights.

    weights: of another network than the model's.
    """
    from tasks.backbones import features, frozen

    def network() -> features.Network:
        model, about = load(root, weights)
        return frozen.frozen_network(
            lambda: model, about["mean"], about["std"], size=about["resolution"], batch_size=batch_size
        )

    weights = weights or network_weights(root)
    key = content_key("stage1", sha256_file(weights), images.model_dump(), code_version("tasks.models.stage1"))[:16]
    return features.feature_table(root, samples, images, key, network, batch_size)
