"""Where a training starts: the pretrained network, or the champion's weights (a *warm start*).

Read from the bundle that `train_backbone.start_bundle` pins, so a training depends on that bundle and not on what is
live. K classes, D feature dimensions. A state maps names of a network's parameters and buffers to tensors.

- champion: the champion's weights as they are
- shrink_perturb: the network's displacement from the fresh one, times SHRINK (Ash & Adams 2020, "On warm-starting
  neural network training")
- dash: the displacement of each unit, times how well it points where the loss falls, at least LEAST (Shin et al. 2024,
  "DASH: Warm-starting neural network training in stationary settings without loss of plasticity")

Both papers shrink towards zero and add noise. Here weights shrink towards the fresh network, which is the pretrained
one or a random one: frozen BatchNorm statistics fit its weights, and not weights of half the size.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, functional

from tasks.backbones import timm_models
from tasks.common.errors import StageInputError
from tasks.common.files import read_json, sha256_file
from tasks.common.paths import cache_dir
from tasks.common.sections.training import TrainBackboneParams, UnfreezePhases
from tasks.models import probe
from tasks.models.ensemble import member_count, member_state
from tasks.stages.train_backbone.checkpoint import State

SHRINK = 0.6  # share of the displacement that shrink_perturb keeps
LEAST = 0.3  # and dash at least (lambda of its paper)
AUTO = "shrink_perturb"  # the method of `auto`
SMOOTHING = 0.3  # of dash's moving average of gradients (alpha of its paper)
PREFIX = "backbone."  # of the network's tensors in a bundle


@dataclass(frozen=True)
class Champion:
    """The network in bundle `digest`: `body`, its state without the classifier; `weight` (K, D) and `bias` (K,) or
    None of its own classifier; `classes`, K names, or None if unknown."""

    digest: str
    body: State
    weight: Tensor
    bias: Tensor | None
    classes: list[str] | None

    def member(self, number: int) -> "Champion":
        """The network that training `number` (from 0) of several starts from: an ensemble has one for each."""
        if not (count := member_count(self.body)):
            return self
        place, width = number % count, self.weight.shape[1] // count
        body = member_state(self.body, place)
        weight = self.weight[:, place * width : (place + 1) * width] * count  # its logits were a mean
        return replace(self, body=body, weight=weight)


def read_champion(root: Path, digest: str, classifier: str) -> Champion:
    """The network in bundle `digest`, which a run has put into the cache. Raises StageInputError without it.

    classifier: its name in a network of train_backbone.backbone.
    """
    from safetensors.torch import load_file

    folder = cache_dir("bundles", root) / digest
    file = folder / "weights.safetensors"
    if not file.is_file():
        raise StageInputError(
            f"train_backbone.start_bundle in params.yaml names {digest}, which is not in {folder.parent}: "
            "`evergreen retrain` fetches it from the release store. Set it to null to start from the pretrained network"
        )
    expected = json.loads((folder / "MANIFEST.json").read_bytes())["files"][file.name]["sha256"]
    if (found := sha256_file(file)) != expected:
        raise StageInputError(
            f"{file} has sha256 {found}, expected {expected}: delete {folder}, and `evergreen retrain` fetches it again"
        )
    about = read_json(folder / "bundle.json")
    state = {name.removeprefix(PREFIX): value for name, value in load_file(file).items() if name.startswith(PREFIX)}
    last = "classifier" if member_count(state) else classifier
    weight, bias = state.pop(f"{last}.weight"), state.pop(f"{last}.bias", None)
    classes = about["backbone"].get("classes", about["classes"])
    return Champion(digest, state, weight, bias, classes if len(classes) == len(weight) else None)


def shrink_perturb(champion: State, fresh: State, keep: float = SHRINK) -> State:
    """`fresh` plus `keep` times the displacement of `champion` from it; both have the same names and shapes."""
    return {name: _between(fresh[name], value, keep) for name, value in champion.items()}


def dash(champion: State, fresh: State, slopes: State, least: float = LEAST) -> State:
    """As `shrink_perturb`, with a share of its own for each unit (the first axis of a weight).

    slopes: gradients of the loss by the names of parameters. A unit keeps the cosine between its displacement and the
    falling loss, and at least `least`. Vectors (biases, norms) and buffers keep all.
    """
    result = {}
    for name, value in champion.items():
        keep: float | Tensor = 1.0
        if name in slopes and value.ndim > 1:
            moved = (value - fresh[name]).flatten(1)
            cosine = functional.cosine_similarity(moved, -slopes[name].flatten(1), dim=1)
            keep = cosine.clamp(min=least).view(-1, *[1] * (value.ndim - 1))
        result[name] = _between(fresh[name], value, keep)
    return result


def _between(fresh: Tensor, champion: Tensor, keep: float | Tensor) -> Tensor:
    return fresh + keep * (champion - fresh) if champion.is_floating_point() else champion.clone()


def moving_average(slopes: Iterator[State], smoothing: float = SMOOTHING) -> State:
    """The exponential moving average of gradients, the newest with weight `smoothing`."""
    mean: State = {}
    for one in slopes:
        mean = {name: mean.get(name, value) * (1 - smoothing) + value * smoothing for name, value in one.items()}
    return mean


def kept_rows(before: Sequence[str], classes: Sequence[str]) -> list[tuple[int, int]]:
    """(row of each class of `classes` that `before` has, its row in `before`)."""
    places = {name: place for place, name in enumerate(before)}
    return [(row, places[name]) for row, name in enumerate(classes) if name in places]


def with_rows(champion: Tensor, fresh: Tensor, rows: Sequence[tuple[int, int]]) -> Tensor:
    """`fresh` (K, ...) with the rows of `champion` (its K, ...) that stand for the same classes."""
    result = fresh.clone()
    for row, before in rows:
        result[row] = champion[before]
    return result


def classifier_name(model: Module) -> str:
    last = timm_models.classifier(model)
    return next(name for name, module in model.named_modules() if module is last)


def check_same(champion: Champion, fresh: State, classifier: str) -> None:
    """Raise StageInputError unless `fresh`, a network's state, has the tensors of the champion's."""
    wanted = {name: value.shape for name, value in fresh.items() if not name.startswith(f"{classifier}.")}
    found = {name: value.shape for name, value in champion.body.items()}
    if found != wanted:
        first = next(name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name))
        raise StageInputError(
            f"bundle {champion.digest} holds another network than train_backbone.backbone makes ({first}: "
            f"{tuple(found.get(first, ()))}, expected {tuple(wanted.get(first, ()))}): set "
            "train_backbone.start: pretrained, or the backbone and images.resolution that the champion has"
        )


def put_champion(model: Module, champion: Champion, classes: Sequence[str]) -> list[tuple[int, int]]:
    """Give `model` the champion's weights; returns `kept_rows`: other rows of the classifier stay as they are."""
    fresh, last = model.state_dict(), classifier_name(model)
    check_same(champion, fresh, last)
    rows = kept_rows(champion.classes or [], classes)
    head = {f"{last}.weight": with_rows(champion.weight, fresh[f"{last}.weight"], rows)}
    if f"{last}.bias" in fresh and champion.bias is not None:
        head[f"{last}.bias"] = with_rows(champion.bias, fresh[f"{last}.bias"], rows)
    model.load_state_dict(champion.body | head, strict=False)
    return rows


def put_new_rows(model: Module, x: np.ndarray, y: np.ndarray, classes: int, rows: Sequence[tuple[int, int]]) -> None:
    """Fit the classifier's rows of classes that the champion did not know, on the features `x` (N, D) of `model`."""
    new = sorted(set(range(classes)) - {row for row, _ in rows})
    if not new:
        return
    fitted, last = probe.fit(x, y, classes), timm_models.classifier(model)
    with torch.no_grad():
        last.weight[new] = torch.from_numpy(fitted.weight)[new].to(last.weight)
        if last.bias is not None:
            last.bias[new] = torch.from_numpy(fitted.bias)[new].to(last.bias)


def warm_params(params: TrainBackboneParams) -> TrainBackboneParams:
    """`params` for a warm start: `warm_epochs` of the epochs, and none for the classifier alone, which knows its
    classes. So where `tuning: auto` chose the classifier alone, everything trains."""
    share, epochs = params.warm_epochs, params.epochs
    short = {name: math.ceil(share * getattr(epochs, name)) for name in ("last", "all")}
    tuning = "full" if params.tuning == "linear" else params.tuning
    return params.model_copy(update={"tuning": tuning, "epochs": UnfreezePhases(frozen=0, **short)})
