"""Learn from teachers beside the labels: their softened answers, features and attention.

- answers: cross entropy with the teachers' mean probabilities at a temperature (Hinton et al. 2015, "Distilling the
  knowledge in a neural network"); the teachers see the same changed image as the student (Beyer et al. 2022)
- features: which images of a batch are alike (Tung & Mori 2019, "Similarity-preserving knowledge distillation"). It
  compares (B, B) matrices, so the networks may differ in width and no layer has to be learnt between them
- attention: where the last feature map is strong (Zagoruyko & Komodakis 2017, "Paying more attention to attention")

B images, K classes, C of them known to the teachers, D feature dimensions, (h, w) the last feature map.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, functional

from tasks.common.sections.training import DistillParams
from tasks.stages.train_backbone.feeding import Setting, autocast

GRID = 7  # attention maps are compared on so many places per side, or fewer


class Seen(NamedTuple):
    """What a network makes of B images: logits (B, K), features (B, D), attention (B, h, w) or None."""

    logits: Tensor
    features: Tensor
    attention: Tensor | None


class Answers(NamedTuple):
    """What the teachers say to B images. `places` (C,) are the student's classes that they know."""

    probabilities: Tensor  # (B, C), at the temperature
    alike: Tensor  # (B, B), see `similarity`
    attention: Tensor | None  # (B, g * g), see `attention_vector`
    places: Tensor


class Watched(Module):
    """`network`, whose forward returns what distillation compares. The classifier's answers stay the same."""

    def __init__(self, network: Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Seen:
        return look(self.network, x)


def look(network: Module, x: Tensor) -> Seen:
    """One pass of x (B, 3, S, S) through a timm network; without a classifier, the logits are the features.

    A network with parts of its own before the classifier has no single last map, so no attention.
    """
    if hasattr(network, "pooled_features"):
        features, attention = network.pooled_features(x), None
    else:
        maps = network.forward_features(x)
        features, attention = network.forward_head(maps, pre_logits=True), attention_map(network, maps)
    return Seen(network.get_classifier()(features), features, attention)


def attention_map(network: Module, maps: Tensor) -> Tensor | None:
    """(B, h, w): the mean square over the channels of the last feature map, or of a transformer's patches."""
    if maps.ndim == 4:  # Swin has its channels last
        last = maps.shape[3] == network.num_features != maps.shape[1]
        return maps.square().mean(3 if last else 1)
    if maps.ndim != 3:
        return None
    patches = maps[:, getattr(network, "num_prefix_tokens", 0) :]  # without the class token
    side = round(patches.shape[1] ** 0.5)
    return patches.square().mean(2).unflatten(1, (side, side)) if side * side == patches.shape[1] else None


def similarity(features: Tensor) -> Tensor:
    """(B, B): products of the B feature vectors, each row of length 1."""
    return functional.normalize(features @ features.T, dim=1)


def attention_vector(attention: Tensor, side: int) -> Tensor:
    """(B, side * side) of length 1 from maps (B, h, w), averaged to `side` places per side."""
    return functional.normalize(functional.adaptive_avg_pool2d(attention, side).flatten(1), dim=1)


def softened(logits: Tensor, temperature: float, multilabel: bool) -> Tensor:
    """Probabilities at `temperature`: of classes that exclude each other, or of each label on its own."""
    return (logits / temperature).sigmoid() if multilabel else (logits / temperature).softmax(1)


def mean_answers(seen: Sequence[Seen], places: Tensor, params: DistillParams, multilabel: bool) -> Answers:
    """The mean of the teachers `seen`, whose logits (B, C) are of the student's classes `places`."""
    probabilities = torch.stack([softened(one.logits.float(), params.temperature, multilabel) for one in seen]).mean(0)
    alike = torch.stack([similarity(one.features.float()) for one in seen]).mean(0)
    maps = [one.attention.float() for one in seen if one.attention is not None]
    attention = None
    if maps:
        side = min(GRID, *(map_.shape[1] for map_ in maps))
        attention = functional.normalize(torch.stack([attention_vector(one, side) for one in maps]).mean(0), dim=1)
    return Answers(probabilities, alike, attention, places)


def distilled_losses(
    of_labels: Tensor, student: Seen, teachers: Answers, params: DistillParams, multilabel: bool = False
) -> Tensor:
    """(B,) losses: those `of_labels` (B,) and of the teachers' answers, weighed, and of features and attention.

    The answers' loss is times the squared temperature, so that its gradient keeps its size (Hinton et al.).
    """
    logits = student.logits.float()[:, teachers.places] / params.temperature
    if multilabel:
        of_answers = functional.binary_cross_entropy_with_logits(logits, teachers.probabilities, reduction="none")
        of_answers = of_answers.mean(1)
    else:
        of_answers = -(teachers.probabilities * logits.log_softmax(1)).sum(1)
    losses = (1 - params.weight) * of_labels + params.weight * params.temperature**2 * of_answers
    if params.features:
        apart = (similarity(student.features.float()) - teachers.alike).square().sum(1) / len(of_labels)
        losses = losses + params.features * apart
    if params.attention and teachers.attention is not None and student.attention is not None:
        side = min(round(teachers.attention.shape[1] ** 0.5), student.attention.shape[1])
        theirs = teachers.attention.unflatten(1, (round(teachers.attention.shape[1] ** 0.5), -1))
        apart = attention_vector(student.attention.float(), side) - attention_vector(theirs, side)
        losses = losses + params.attention * apart.square().sum(1)
    return losses


def logits_of(found: Tensor | Seen) -> Tensor:
    """(B, K) float32 logits of what a network, watched or not, made of a batch."""
    return (found.logits if isinstance(found, Seen) else found).float()


def with_teachers(of_labels: Tensor, found: Tensor | Seen, x: Tensor, how: Setting) -> Tensor:
    """(B,) losses `of_labels` and, if the network is watched, of what the teachers say to its input x."""
    if not isinstance(found, Seen):
        return of_labels
    with autocast(how):
        answers = how.teachers(x, how.mean, how.std)
    return distilled_losses(of_labels, found, answers, how.params.distill, how.teachers.multilabel)
