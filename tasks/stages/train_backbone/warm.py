"""Begin a training from the champion: what its method and its choice need besides the weights.

N samples, K classes, D feature dimensions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import Module, functional

from tasks.backbones import timm_models
from tasks.models import probe
from tasks.models.choice import CLEAR, score, standard_error
from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone import start
from tasks.stages.train_backbone.checkpoint import State, cpu_copy
from tasks.stages.train_backbone.feeding import Examples, Setting, prefetch, to_input
from tasks.stages.train_backbone.judging import predict
from tasks.stages.train_backbone.losses import sample_losses
from tasks.stages.train_backbone.phases import set_mode
from tasks.stages.train_backbone.start import Champion

MOST = 4096  # images of a split that a measurement before the training looks at
STEPS = 32  # batches whose gradients tell dash where the loss falls


@dataclass(frozen=True)
class Beginning:
    """How a training begins: its setting and its (train, calibration) sets; `figures` has the method that was taken
    and what was measured to choose it."""

    how: Setting
    sets: Sequence[Examples]
    figures: dict


def begin(
    root: Path, model: Module, classes: Sequence[str], sets: Sequence[Examples], how: Setting, number: int
) -> Beginning:
    """Put the champion's weights into `model`, created fresh on the CPU, where the settings say so.

    number: of the training among several seeds. A warm start takes fewer epochs, and its classifier is not a linear
    probe's: its sets have no features.
    """
    params = how.params
    if params.start == "pretrained" or params.start_bundle is None:
        return Beginning(how, sets, {"method": "pretrained"})
    champion = start.read_champion(root, params.start_bundle, start.classifier_name(model)).member(number)
    figures = put(model, champion, classes, *sets, how)
    if figures["method"] == "pretrained":
        return Beginning(how, sets, figures)
    without = [replace(one, features=None) for one in sets]
    return Beginning(replace(how, params=start.warm_params(params)), without, figures)


def put(
    model: Module, champion: Champion, classes: Sequence[str], train: Examples, calibration: Examples, how: Setting
) -> dict:
    """Make `model` start from `champion` as params.start says; returns the method and what was measured.

    With `auto` it stays as it is where linear classifiers on the pretrained network's features are clearly better on
    calibration images than those on the champion's.
    """
    fresh = cpu_copy(model.state_dict())
    rows = start.put_champion(model, champion, classes)
    method, figures = how.params.start, {"bundle": champion.digest, "kept_classes": len(rows)}
    learnt, held = sample(train.targets, how.params.seed), sample(calibration.targets, how.params.seed)
    if method == "auto" or len(rows) < len(classes):
        x = features(model, train.pixels, learnt, how)
        start.put_new_rows(model, x, train.targets[learnt], len(classes), rows)
    if method == "auto":
        method = start.AUTO
        if train.features is not None:
            own = x, features(model, calibration.pixels, held, how)
            other = train.features[learnt], calibration.features[held]
            figures |= compare(own, other, train.targets[learnt], calibration.targets[held], len(classes))
            method = "pretrained" if figures["lead"] < -CLEAR * figures["standard_error"] else method
    if method == "pretrained":
        model.load_state_dict(fresh)
    elif method != "champion":
        own = cpu_copy(model.state_dict())
        last = start.classifier_name(model)
        body = {name: value for name, value in own.items() if not name.startswith(f"{last}.")}
        if method == "dash":
            body = start.dash(body, fresh, start.moving_average(gradients(model, train, how)))
        else:
            body = start.shrink_perturb(body, fresh)
        model.load_state_dict(own | body)
    return {"method": method} | figures


def sample(targets: np.ndarray, seed: int) -> np.ndarray:
    """At most MOST of the rows of `targets`, each class with the same share, but at least 16 of its images."""
    if len(targets) <= MOST:
        return np.arange(len(targets))
    order = np.random.default_rng(seed).permutation(len(targets))
    chosen = np.zeros(len(targets), bool)
    chosen[order[:MOST]] = True
    members = np.eye(int(targets.max()) + 1, dtype=bool)[targets] if targets.ndim == 1 else targets > 0
    for column in members.T:
        chosen[order[column[order]][:16]] = True
    return np.flatnonzero(chosen)


def features(model: Module, pixels, rows: np.ndarray, how: Setting) -> np.ndarray:
    """(N, D) features of the images at `rows` by `model`; the processes share the work."""
    body = Features(model, how.side).to(how.ranks.device)
    found = predict(body, Rows(pixels, rows), replace(how, classes=timm_models.feature_dim(model))).numpy()
    model.to("cpu")
    return found


class Features(torch.nn.Module):
    """The network without its classifier, for images of any size."""

    def __init__(self, model: Module, side: int | None):
        super().__init__()
        self.model, self.side = model, side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return timm_models.features(self.model, at_side(x, self.side))


def at_side(x: torch.Tensor, side: int | None) -> torch.Tensor:
    """`x` (B, 3, S, S) as the network takes it: training images may be decoded larger than its input."""
    if side is None or x.shape[-1] == side:
        return x
    return functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)


class Rows:
    """Some rows of a table of images, read on demand."""

    def __init__(self, table, rows: np.ndarray):
        self.table, self.rows = table, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.table[self.rows[index]]


def compare(own: tuple, other: tuple, learnt: np.ndarray, held: np.ndarray, classes: int) -> dict:
    """How much better a linear classifier is on `own` (train, calibration) features than on `other` ones.

    learnt, held: targets of the two splits. Returns {champion_score, pretrained_score, lead, standard_error}.
    """
    weight = balanced(learnt, classes)
    logits = [probe.fit(x, learnt, classes, sample_weight=weight).logits(test) for x, test in (own, other)]
    scores = [score(held, found) for found in logits]
    return {
        "champion_score": scores[0],
        "pretrained_score": scores[1],
        "lead": scores[0] - scores[1],
        "standard_error": standard_error(held, *logits, seed=0),
    }


def balanced(y: np.ndarray, classes: int) -> np.ndarray:
    """(N,) weights that give every class the same total; of multi-label samples, those of their rarest label."""
    share = 1 / np.maximum(class_counts(y, classes), 1)
    return share[y] if y.ndim == 1 else np.maximum((y * share).max(axis=1), share.min())


def gradients(model: Module, train: Examples, how: Setting) -> Iterator[State]:
    """The gradient of each of up to STEPS batches of `train` at `model`, without augmentation, by names of parameters.

    The processes share each batch, and each gets the whole gradient.
    """
    params, ranks = how.params, how.ranks
    order = np.random.default_rng([params.seed, 0]).permutation(len(train.targets))[: STEPS * params.batch_size]
    batches = np.array_split(order, max(1, len(order) // params.batch_size))
    shares = [batch[ranks.rank :: ranks.world] for batch in batches]
    model.to(ranks.device).requires_grad_(True)
    set_mode(model, False)
    for batch, rows, mine in zip(batches, shares, prefetch(shares, train.pixels), strict=True):
        model.zero_grad()
        y = torch.from_numpy(train.targets[rows]).to(ranks.device)
        (sample_losses(model(at_side(to_input(mine, how), how.side)).float(), y).sum() / len(batch)).backward()
        used = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        yield cpu_copy({name: ranks.sum(slope) for name, slope in used.items()})
    model.zero_grad()
    model.to("cpu").eval()
