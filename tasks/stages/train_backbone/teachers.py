"""The teachers of a distillation: released bundles, and pretrained networks with a classifier.

A bundle is named by its digest, so the same params.yaml always means the same teacher. A run puts it into the cache
(flows.runs.teachers). Its network answers with torch; one that is not of timm (an adopted ONNX file, an ensemble)
answers with ONNX Runtime, and has no attention map.

B images, S the side of the student's input, K classes, C of them known to all teachers, D feature dimensions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import Module, functional

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError, StageInputError
from tasks.common.params import EmbedParams, ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.sections.training import DistillParams
from tasks.inference.onnx_model import OnnxModel
from tasks.models import probe
from tasks.models.pretrained import pretrained_features
from tasks.models.pruning import cut_as
from tasks.releases import bundle
from tasks.scoring.targets import encode
from tasks.stages.train_backbone.checkpoint import State
from tasks.stages.train_backbone.distill import Answers, Seen, look, mean_answers

DIGEST = re.compile(r"[0-9a-f]{64}")
LEAST = 2  # classes that teachers and student must share


class Teacher(Protocol):
    """Answers to images. `classes`: the names of its logits."""

    classes: Sequence[str]

    def __call__(self, images: Tensor) -> Seen:
        """images (B, 3, S, S) float from 0 to 1 -> what it makes of them."""


class TorchTeacher:
    """A timm network with a linear classifier, weight (K, D) and bias (K,)."""

    def __init__(self, network, weight: Tensor, bias: Tensor, classes: Sequence[str], about: dict, device):
        self.classes, self._network = classes, network.eval().requires_grad_(False).to(device)
        self._weight, self._bias = weight.to(device), bias.to(device)
        self._size = about["resolution"]
        self._mean, self._std = (
            torch.tensor(about[name], dtype=torch.float32, device=device).view(1, 3, 1, 1) for name in ("mean", "std")
        )

    def __call__(self, images: Tensor) -> Seen:
        x = (resized(images, self._size) - self._mean) / self._std
        seen = look(self._network, x.contiguous(memory_format=torch.channels_last))
        return seen._replace(logits=functional.linear(seen.features.float(), self._weight, self._bias))


class OnnxTeacher:
    """The exported model of a bundle, on the CPU."""

    def __init__(self, file: Path, classes: Sequence[str]):
        self.classes, self._model = classes, OnnxModel(file)

    def __call__(self, images: Tensor) -> Seen:
        pixels = (resized(images, self._model.size).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        found = self._model(pixels.cpu().numpy())
        return Seen(*(torch.from_numpy(part).to(images.device) for part in (found.logits, found.features)), None)


@dataclass(frozen=True)
class Teachers:
    """All teachers of one training. `classes`: the student's."""

    members: Sequence[Teacher]
    classes: Sequence[str]
    params: DistillParams
    multilabel: bool

    def __call__(self, x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Answers:
        """Their answers to x (B, 3, S, S), the student's input, scaled with `mean` and `std` (3,)."""
        shared = shared_classes(self.classes, [member.classes for member in self.members])
        centre, scale = (torch.tensor(part, device=x.device).view(1, 3, 1, 1) for part in (mean, std))
        with torch.no_grad():
            images, found = x * scale + centre, []
            for member in self.members:
                seen = member(images)
                columns = torch.tensor([list(member.classes).index(name) for name in shared], device=x.device)
                found.append(seen._replace(logits=seen.logits[:, columns]))
            places = torch.tensor([list(self.classes).index(name) for name in shared], device=x.device)
            return mean_answers(found, places, self.params, self.multilabel)


def shared_classes(student: Sequence[str], teachers: Sequence[Sequence[str]]) -> list[str]:
    """The student's classes that every teacher knows, in its order. Raises EvergreenError for fewer than LEAST."""
    shared = [name for name in student if all(name in known for known in teachers)]
    if len(shared) < LEAST:
        raise EvergreenError(
            f"train_backbone.distill.teachers: student and teachers share {len(shared)} classes, expected at least "
            f"{LEAST}: the student's are {', '.join(student[:10])}, the teachers' "
            f"{'; '.join(', '.join(known[:10]) for known in teachers)}"
        )
    return shared


def resized(images: Tensor, size: int) -> Tensor:
    """images (B, 3, S, S) at `size` pixels per side."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def bundle_teacher(root: Path, digest: str, device: torch.device) -> Teacher:
    """The model in the bundle `digest` of the cache. Raises StageInputError if it is missing or damaged."""
    from safetensors.torch import load_file

    folder = cache_dir("bundles", root) / digest
    try:
        if bundle.digest(folder) != digest:
            raise bundle.BundleDamaged(f"the bundle in {folder} is another one")
        bundle.verify(folder)
    except bundle.BundleDamaged as error:
        raise StageInputError(
            f"train_backbone.distill.teachers names the bundle {digest}, which is not whole in {folder.parent} "
            f"({error}): `evergreen retrain` fetches it from the release store; `evergreen distill` takes any folder"
        ) from error
    about = bundle.read(folder)
    try:
        state = load_file(folder / "weights.safetensors")
        body = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
        network = plain_network(about["backbone"]["backbone"], body, about["preprocess"]["resolution"])
        weight, bias = state["head.weight"], state["head.bias"]
    except (EvergreenError, KeyError, OSError, RuntimeError):  # not a plain network of timm
        return OnnxTeacher(folder / "model.onnx", about["classes"])
    settings = {"resolution": about["preprocess"]["resolution"], "mean": about["backbone"]["mean"]}
    return TorchTeacher(network, weight, bias, about["classes"], settings | {"std": about["backbone"]["std"]}, device)


def plain_network(backbone: str, body: State, size: int) -> Module:
    """The timm network `backbone` with the weights `body`, without its classifier.

    Raises KeyError if `body` holds other tensors: those of an ensemble, or of parts before the classifier.
    """
    network = cut_as(timm_models.create_model(backbone, "none", LEAST, size), body)
    last = timm_models.classifier(network)
    (place,) = [name for name, module in network.named_modules() if module is last]
    if body.keys() != network.state_dict().keys():
        raise KeyError(f"not the tensors of {backbone}")
    network.reset_classifier(0)
    network.load_state_dict({name: value for name, value in body.items() if not name.startswith(f"{place}.")})
    return network


def pretrained_teacher(
    name: str, features: np.ndarray, targets: np.ndarray, classes: Sequence[str], size: int, device: torch.device
) -> Teacher:
    """The pretrained network `name`, with the best linear classifier on its `features` (N, D) of training images."""
    network = timm_models.create_model(name, "auto", 0, size)
    fitted = probe.fit(features, targets, len(classes))
    mean, std = timm_models.normalisation(name)
    about = {"resolution": size, "mean": mean, "std": std}
    weight, bias = torch.from_numpy(fitted.weight), torch.from_numpy(fitted.bias)
    return TorchTeacher(network, weight, bias, classes, about, device)


def read_teachers(
    root: Path,
    train: pa.Table,
    classes: Sequence[str],
    task: str,
    params: DistillParams,
    images: ImagesParams,
    device: torch.device,
) -> Teachers | None:
    """The teachers that `params` names, for a training on the rows `train`; None without any.

    Raises EvergreenError if one is missing, or shares too few classes with the student.
    """
    if not params.teachers:
        return None
    members: list[Teacher] = []
    for name in params.teachers:
        if DIGEST.fullmatch(name):
            members.append(bundle_teacher(root, name, device))
            continue
        features = pretrained_features(root, train, embed=EmbedParams(backbone=name), images=images)
        targets = encode(train["label"], classes, task)
        members.append(pretrained_teacher(name, features, targets, classes, images.resolution, device))
    shared_classes(classes, [member.classes for member in members])
    if params.attention and all(isinstance(member, OnnxTeacher) for member in members):
        raise EvergreenError(
            f"train_backbone.distill.attention is {params.attention:g}, but no teacher shows where it looks: each is "
            "an ensemble, an adopted model, or has parts of its own before the classifier. Set it to 0, or add a timm "
            "model to distill.teachers"
        )
    return Teachers(members, classes, params, task == "multilabel")
