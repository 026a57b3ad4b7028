"""Chooses how much of the pretrained network trains, by short trainings on some of the images.

The part's groups are divided: two thirds train, one third judges. Judged are the classifier alone, a light tuning and
full fine-tuning, each for the same few hundred steps at most. Where the linear probe errs hardly ever, nothing is
tried. N images, K classes, D feature dimensions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.nn import Module

from tasks.models import probe
from tasks.models.choice import Advantage, Candidate, advantage, score
from tasks.models.folds import assign_folds
from tasks.models.head import Head
from tasks.scoring.groups import group_numbers
from tasks.scoring.targets import class_counts
from tasks.stages.train_backbone.feeding import Examples, Inputs, Setting
from tasks.stages.train_backbone.judging import predict
from tasks.stages.train_backbone.phases import plan

STEPS = 200  # of each short training, at most
PARTS = 3  # one of so many parts judges
SMALL = 0.005  # errors of the linear probe (of balanced accuracy) that no training is needed for
FULL, LIGHT, LINEAR = "full", "lora", "linear"


@dataclass(frozen=True)
class Choice:
    """The chosen tuning, and what it was chosen by: the scores of the short trainings, and leads over `full`."""

    tuning: str
    scores: dict[str, float]
    leads: dict[str, tuple[float, float]]  # (lead, its standard error)
    images: int

    def sentence(self) -> str:
        """What was tried, for people."""
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.scores.items())
        return f"short trainings on {self.images} images, percent of balanced accuracy: {shown} -> {self.tuning}"


def decide(scores: Mapping[str, float], leads: Mapping[str, Advantage]) -> str:
    """`full`, unless another tuning is clearly ahead of it; then the one with the highest score.

    leads: of each other tuning over `full`. Only full fine-tuning gains from more steps than a trial has, and
    train_head takes the pretrained network where training did harm.
    """
    clear = [name for name, lead in leads.items() if lead.clear]
    return max(clear, key=scores.__getitem__, default=FULL)


def choose_tuning(
    make: Callable[[], Module], train: Examples, judged: Inputs, groups: Sequence[str | None], how: Setting
) -> Choice:
    """Train the candidates shortly on a part of `train`, and decide. `make` returns the untrained network.

    judged: the pixels of `train` at the input's side; groups: (N,) names, None is a group of its own.
    """
    from tasks.stages.train_backbone.trainer import fit

    numbers = group_numbers(groups)
    learnt, held = parts(train.targets, numbers, how)
    counts = class_counts(train.targets[learnt], how.classes)
    targets, of_groups = train.targets[held], [str(number) for number in numbers[held]]
    found = {LINEAR: _candidate(_probed(train, learnt, held, how.classes), targets, counts)}
    if 1 - found[LINEAR].score <= SMALL:
        return Choice(LINEAR, {LINEAR: found[LINEAR].score}, {}, len(learnt) + len(held))
    sets = [
        Examples(np.asarray(pixels[rows]), np.asarray(train.features[rows]), train.targets[rows])
        for pixels, rows in ((train.pixels, learnt), (judged, held))
    ]
    for name in (LIGHT, FULL):
        model = make()
        short = replace(how, params=how.params.model_copy(update={"tuning": name}))
        state, _ = fit(model, *sets, short)
        model.load_state_dict(state)
        found[name] = _candidate(predict(model, sets[1].pixels, short).numpy(), targets, counts)
    leads = {
        name: advantage(one, found[FULL], targets, of_groups, how.params.seed)
        for name, one in found.items()
        if name != FULL
    }
    scores = {name: one.score for name, one in found.items()}
    errors = {name: (lead.value, lead.error) for name, lead in leads.items()}
    return Choice(decide(scores, leads), scores, errors, len(learnt) + len(held))


def parts(targets: np.ndarray, groups: np.ndarray, how: Setting) -> tuple[np.ndarray, np.ndarray]:
    """(rows that learn, rows that judge) of targets (N,) or (N, K), ascending; `groups` (N,) stay whole.

    Learning rows are as many as STEPS batches over the training's epochs take. Classes without one are not judged.
    """
    members = targets[:, None] == np.arange(how.classes) if targets.ndim == 1 else targets > 0
    fold = assign_folds(members, groups.astype(str), PARTS, how.params.seed)
    epochs = max(1, sum(phase.epochs for phase in plan(how.params) if phase.opened != 0))
    most = max(how.classes, math.ceil(STEPS * how.params.batch_size / epochs)) * PARTS // (PARTS - 1)
    rows = np.sort(np.random.default_rng(how.params.seed).permutation(len(groups))[:most])
    learnt, held = rows[fold[rows] > 0], rows[fold[rows] == 0]
    taught = members[learnt].any(axis=0)
    return learnt, held[~(members[held] & ~taught).any(axis=1)]


def _probed(train: Examples, learnt: np.ndarray, held: np.ndarray, classes: int) -> np.ndarray:
    """(rows of `held`, K) logits of a linear probe on the stored features of `learnt`."""
    features = [np.asarray(train.features[rows], np.float32) for rows in (learnt, held)]
    return probe.fit(features[0], train.targets[learnt], classes).logits(features[1])


def _candidate(logits: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> Candidate:
    """Judged as if all classes were equally common, as train_head makes the classifier."""
    if targets.ndim == 1:
        logits = logits - np.log(np.maximum(counts, 1) / np.maximum(counts, 1).sum())
    none = np.zeros((0, 0), np.float32)
    return Candidate(Head(none, none), logits, score(targets, logits))
