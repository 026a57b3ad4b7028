"""Several trainings that differ only in their seed, and one network made of them.

- best: the one with the best calibration score
- soup: the mean of their weights (Wortsman et al. 2022, "Model soups")
- ensemble: a network whose features are those of its members side by side (Lakshminarayanan et al. 2017, "Simple and
  scalable predictive uncertainty estimation using deep ensembles"); its logits are the mean of theirs. Stage 2,
  calibration, export and serving treat it like any other network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import Module

from tasks.common.params import TrainBackboneParams
from tasks.models.ensemble import Ensemble
from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone.checkpoint import State
from tasks.stages.train_backbone.feeding import Examples, Setting
from tasks.stages.train_backbone.judging import judge
from tasks.stages.train_backbone.phases import Phase, best_epoch


@dataclass(frozen=True)
class Member:
    """One trained network: the model with its best epoch's weights, its history, and figures of how it began."""

    model: Module
    history: list[dict]
    beginning: dict


def one_seed(params: TrainBackboneParams, number: int) -> TrainBackboneParams:
    """`params` of training `number` (from 0) of several, as if it were the only one."""
    return params.model_copy(update={"seed": member_seed(params.seed, number), "seeds": 1, "combine": "best"})


def combine(members: Sequence[Member], sets: Sequence[Examples], how: Setting) -> tuple[Module, list[dict], dict]:
    """(the network, the history to show, figures of its start and seeds) of one or several trainings.

    The history is the best training's. The score of what several became is measured on the calibration split.
    """
    kept = [member.history[best_epoch(member.history) - 1] for member in members]
    scores = [row["calibration_score"] for row in kept]
    first = max(range(len(members)), key=scores.__getitem__)  # the first one on a tie
    figures = {"start": members[first].beginning}
    if len(members) == 1:
        return members[0].model, members[0].history, figures
    figures["seeds"] = seed_noise(scores) | {"combine": how.params.combine}
    model = combined([member.model for member in members], how.params.combine, first)
    if how.params.combine != "best":
        figures |= judged(model, *sets, how, kept[first])
    return model, members[first].history, figures


def member_seed(seed: int, number: int) -> int:
    """The seed of member `number` (from 0); the first is a training of one seed."""
    return seed if not number else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def soup(states: Sequence[State]) -> State:
    """The mean of each tensor; counters, which have no mean, are those of the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def seed_noise(scores: Sequence[float]) -> dict:
    """{scores, mean, spread}: spread is the standard deviation of one training's score, None for a single one."""
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return {"scores": [float(score) for score in scores], "mean": float(np.mean(scores)), "spread": spread}


def combined(models: Sequence[Module], how: Literal["best", "soup", "ensemble"], best: int) -> Module:
    """One network of `models`, which it may change; `best` is the number of the one with the best score."""
    if how == "ensemble":
        return Ensemble(models).eval()
    if how == "soup":
        models[0].load_state_dict(soup([model.state_dict() for model in models]))
        return models[0]
    return models[best]


def judged(model: Module, train: Examples, calibration: Examples, how: Setting, best: dict) -> dict:
    """The calibration figures of `model`, made of several, in the place of those of `best`, an epoch's row."""
    counts = class_counts(train.targets, how.classes)
    found = judge(model.to(how.ranks.device), calibration, how, Phase("all", 1, None), best["epoch"], counts)
    model.to("cpu")
    return {name: found[name] for name in ("calibration_score", "calibration_loss")}
