"""Light fine-tuning: few parameters of a pretrained network train, and the result is a plain network.

- lora: a change B A of low rank for each matrix (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models");
  a convolution over k x k places is the matrix of its flattened kernels
- bitfit: biases (Ben Zaken et al. 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
  Language-models")
- norm: scale and shift of normalisation layers (Frankle et al. 2021, "Training BatchNorm and Only BatchNorm")

The classifier trains with each of them. Fine-tuning all weights can harm rare classes of a transformer (Shi et al.
2024, "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts"). `merge` adds the changes of lora to the
weights, so that checkpoints of the best epoch, export and bundle know plain names and weights only.
"""

import torch
from torch import Tensor
from torch.nn import Conv2d, Linear, Module, Parameter
from torch.nn.utils import parametrize

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError, ParamsError
from tasks.common.params import TrainBackboneParams

RANK = 8
DOWN, UP = ".parametrizations.weight.0.down", ".parametrizations.weight.0.up"


def check_tuning(params: TrainBackboneParams) -> None:
    """Raise ParamsError for a tuning that does not go with the other settings."""
    if params.pretrained == "none" and params.tuning != "full":
        raise ParamsError(
            f"train_backbone.tuning: {params.tuning} trains few parameters of a pretrained network, but pretrained is "
            "none: set tuning to full, or pretrained to auto"
        )
    if params.tuning == "linear" and params.start != "pretrained":
        raise ParamsError(
            f"train_backbone.tuning: linear trains the classifier on the pretrained network, but start is "
            f"{params.start}: set start to pretrained, or choose another tuning"
        )
    frozen = params.epochs.frozen or params.tuning in ("linear", "auto")
    if params.pooling == "bilinear" and frozen and params.pretrained != "none":
        raise ParamsError(
            f"train_backbone.epochs.frozen is {params.epochs.frozen} and tuning is {params.tuning}, but with pooling: "
            "bilinear the classifier cannot train on stored features, which are averages: set epochs.frozen to 0, and "
            "tuning neither to linear nor to auto"
        )


class LowRank(Module):
    """weight + up @ down, in the shape of `weight` (O, ...): `down` (RANK, I) random, `up` (O, RANK) zero at first."""

    def __init__(self, weight: Tensor, generator: torch.Generator):
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.down = Parameter(torch.randn(RANK, columns, generator=generator) / columns**0.5)
        self.up = Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return changed(weight, self.down, self.up)


def changed(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """`weight` (O, ...) plus the product `up` (O, R) @ `down` (R, I), in its shape and memory order."""
    return weight + (up @ down).reshape(weight.shape)


def attach(model: Module, params: TrainBackboneParams) -> None:
    """For lora, give each matrix of the backbone its change of low rank; other tunings need nothing.

    Matrices that are hardly larger than the change, and convolutions in groups, stay as they are.
    """
    if params.tuning != "lora":
        return
    generator = torch.Generator().manual_seed(params.seed)
    heads = set(timm_models.head(model).modules())
    for module in list(model.modules()):
        plain = isinstance(module, Linear) or (isinstance(module, Conv2d) and module.groups == 1)
        if plain and module not in heads and min(len(module.weight), module.weight[0].numel()) > 2 * RANK:
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, generator))


def detach(model: Module) -> None:
    """Take the changes of `attach` off again: names and weights are as before it. `merge` has them."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def merge(untouched: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The plain state of the network: `untouched` with what training changed, `state`, under `attach`'s names.

    Nothing is read but the two mappings.
    """
    merged = dict(untouched)
    for name, value in state.items():
        if name.endswith(DOWN):
            plain = name.removesuffix(DOWN)
            merged[f"{plain}.weight"] = changed(untouched[f"{plain}.weight"], value, state[plain + UP])
        elif not name.endswith(UP):
            merged[name] = value
    return merged


def close_others(model: Module, params: TrainBackboneParams) -> None:
    """Turn gradients off for what the tuning does not train, of the parts that the phase has opened.

    Raises EvergreenError if nothing is left of the backbone that could train.
    """
    if params.tuning in ("full", "linear"):
        return
    trained = {id(value) for value in timm_models.head(model).parameters()}
    kinds = {"lora": _changes, "bitfit": _biases, "norm": _norms}
    light = {id(value) for value in kinds[params.tuning](model)}
    if not light:
        raise EvergreenError(
            f"train_backbone.tuning is {params.tuning}, but {params.backbone} has none of the parameters that it "
            "trains: choose another of full, lora, bitfit, norm, linear"
        )
    for value in model.parameters():
        if id(value) not in trained | light:
            value.requires_grad_(False)


def _changes(model: Module) -> list[Parameter]:
    return [value for module in model.modules() if isinstance(module, LowRank) for value in module.parameters()]


def _biases(model: Module) -> list[Parameter]:
    return [value for name, value in model.named_parameters() if name.rpartition(".")[2] == "bias"]


def _norms(model: Module) -> list[Parameter]:
    """Scales and shifts of norms: timm's own are not subclasses of torch's, but all have it in their name."""
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    return [value for module in norms for value in module.parameters(recurse=False)]
