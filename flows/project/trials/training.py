"""Short trainings on the sample: does another learning rate, augmentation, length or depth win?"""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np

from flows.project.trials.compare import SEED, Gain, credits, paired_gain
from tasks.common.params import TrainBackboneParams
from tasks.models.folds import assign_folds

PARTS = 3  # one of so many parts of the sample is held out
MOST = 900  # images of the sample that are used: a training of 600 takes half a minute at 96 pixels on two cores
SECONDS = 180.0  # no further training starts if it would probably end later
BACKWARD = 3.0  # times the seconds of an image's features that training on it takes
LONGER = 2  # times as many epochs
WORTH = 2.0  # points of balanced accuracy that they must gain, because every training takes as much longer
TUNINGS = (  # how much of the network trains: not the number of images decides it
    ("linear", "only the classifier", 0.1),
    ("lora", "changes of low rank", 1.0),
)
TOGGLED = ("colour", "crop")  # augmentations to try with and without; mirroring has a trial of its own


@dataclass(frozen=True)
class Candidate:
    """A training to try: `values` replace those of the section train_backbone.

    `cost`: times the seconds of the suggested settings. `worth`: points that it must gain.
    """

    name: str
    values: dict[str, object]
    cost: float = 1.0
    worth: float = 0.0


def candidates(params: TrainBackboneParams, images: int) -> list[Candidate]:
    """The suggested settings first, then what may beat them. `images`: labelled ones of the whole set.

    More epochs are tried only where the trial sees nearly the whole set: a part of it needs more epochs than the whole.
    """
    rate, epochs = params.learning_rate, params.epochs.model_dump()
    found = [Candidate("as suggested", {})]
    found += [
        Candidate(f"learning rate {rate * factor:.2g}", {"learning_rate": rate * factor}) for factor in (3, 1 / 3)
    ]
    for name in TOGGLED:
        if name in params.augment:
            found.append(Candidate(f"without {name}", {"augment": [one for one in params.augment if one != name]}))
        else:
            found.append(Candidate(f"with {name}", {"augment": [*params.augment, name]}))
    if epochs["all"]:
        fewer = {**epochs, "last": epochs["last"] + epochs["all"], "all": 0}
        found.append(Candidate(f"only the last {params.last_blocks} blocks", {"epochs": fewer}))
    found += [Candidate(text, {"tuning": name}, cost=cost) for name, text, cost in TUNINGS if name != params.tuning]
    if images <= MOST:
        more = {phase: LONGER * count for phase, count in epochs.items()}
        found.append(Candidate(f"{sum(more.values())} epochs", {"epochs": more}, cost=LONGER, worth=WORTH))
    return found


def try_trainings(
    found: list[Candidate], train: Callable[[Candidate], np.ndarray], groups: np.ndarray, seconds: float = SECONDS
) -> list[tuple[Candidate, np.ndarray, Gain | None]]:
    """Train the candidates in turn; returns those that there was time for, with credits (N,) and gain over the first.

    `train` returns the credits of N held-out images, whose group names are `groups` (N,).
    """
    done: list[tuple[Candidate, np.ndarray, Gain | None]] = []
    began, longest = time.monotonic(), 0.0
    for one in found:
        started = time.monotonic()
        if done and started - began + longest * one.cost > seconds:
            continue
        scores = train(one)
        longest = max(longest, (time.monotonic() - started) / one.cost)
        done.append((one, scores, paired_gain(done[0][1], scores, groups, len(found) - 1) if done else None))
    return done


def too_slow(images: int, params: TrainBackboneParams, per_image: float, seconds: float = SECONDS) -> str | None:
    """Why no training is tried: two of them would not fit into `seconds`; None: they do. per_image: of its features."""
    epochs = params.epochs.model_dump()
    expected = BACKWARD * per_image * images * (epochs["last"] + epochs["all"])
    if 2 * expected <= seconds:
        return None
    return f"not tried: one on {images} images would take about {expected / 60:.0f} min on this machine"


def best_candidate(done: list[tuple[Candidate, np.ndarray, Gain | None]]) -> Candidate:
    """The suggested settings, unless another's whole interval is a gain that it is worth; then the largest gain."""
    better = [
        (gain.points, number)
        for number, (one, _, gain) in enumerate(done)
        if gain is not None and gain.low > 0 and gain.points >= one.worth
    ]
    return done[max(better)[1] if better else 0][0]


def parts(targets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, whole groups in one of them, of at most MOST samples."""
    members = targets[:, None] == np.arange(targets.max() + 1) if targets.ndim == 1 else targets > 0
    fold = assign_folds(members, groups, PARTS, SEED)
    rows = np.sort(np.random.default_rng(SEED).permutation(len(groups))[:MOST])
    train, held = rows[fold[rows] > 0], rows[fold[rows] == 0]
    taught = members[train].any(axis=0)
    return train, held[~(members[held] & ~taught).any(axis=1)]  # a class without a training image cannot be learnt


def train_once(
    pixels: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    params: TrainBackboneParams,
) -> np.ndarray:
    """Credits of the rows `held` after stage 1 on the rows `train`: `pixels` (N, S, S, 3), `features` (N, D)."""
    import torch

    from tasks.backbones import timm_models
    from tasks.stages.train_backbone.feeding import Examples, Setting
    from tasks.stages.train_backbone.judging import predict
    from tasks.stages.train_backbone.memory import freed_memory_kept
    from tasks.stages.train_backbone.processes import Ranks
    from tasks.stages.train_backbone.trainer import fit

    classes = int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1]
    torch.manual_seed(params.seed)
    model = timm_models.create_model(params.backbone, params.pretrained, classes, pixels.shape[1], params.drop_path)
    how = Setting(params, classes, *timm_models.normalisation(params.backbone), Ranks(0, 1, timm_models.device()))
    learnt, judged = (Examples(pixels[rows], features[rows], targets[rows]) for rows in (train, held))
    with freed_memory_kept(), redirect_stdout(io.StringIO()):  # the trials' own lines say enough
        state, _ = fit(model, learnt, judged, how)
        model.load_state_dict(state)
        logits = predict(model, judged.pixels, how).numpy()
    predicted = logits.argmax(axis=1) if targets.ndim == 1 else (logits > 0).astype(targets.dtype)
    return credits(predicted, targets[held])
