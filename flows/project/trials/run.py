"""Run the trials: mirrored images or not, which resolution, how to train.

The first two ask a linear probe on features of a sample, out of fold; the last trains briefly. Small rules decide.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from flows.project.trials.compare import Gain, credits, out_of_fold, paired_gain
from flows.project.trials.orientations import orientation_histograms
from flows.project.trials.sample import TrialSample
from flows.project.trials.training import (
    Candidate,
    best_candidate,
    candidates,
    parts,
    too_slow,
    train_once,
    try_trainings,
)
from tasks.common.params import Params, parse_params
from tasks.dataset.decode import resize

WORTH = (
    2.0  # points of balanced accuracy that the next larger resolution must gain: training takes up to 4 times longer
)
MIRROR_PIXELS = 64
BATCH = 64
Say = Callable[[str], None]


@dataclass
class Tried:
    """What the trials found: parameters to change ("section.key" -> value), why, and a line for each trial."""

    values: dict[str, object] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def run_trials(sample: TrialSample, params: Params, sizes: tuple[int, ...], say: Say) -> Tried:
    """Try the resolutions in `sizes` (ascending) and mirroring on `sample`; `say` shows progress."""
    tried = Tried()
    say(f"trying settings on {len(sample.targets)} of your images (--fast skips this)")
    _try_mirroring(sample, params, tried)
    features, per_image = _try_resolutions(sample, params, sizes, say, tried)
    _try_trainings(sample, with_values(params, tried.values), features, per_image, say, tried)
    return tried


def with_values(params: Params, values: dict[str, object]) -> Params:
    """`params` with `values` ("section.key" -> value)."""
    plain = params.model_dump(mode="json", by_alias=True)
    for path, value in values.items():
        section, key = path.split(".")
        plain[section][key] = value
    return parse_params(plain, "the fitted parameters")


def _try_mirroring(sample: TrialSample, params: Params, tried: Tried) -> None:
    pixels = _pixels(sample, MIRROR_PIXELS, params)
    x, mirrored = orientation_histograms(pixels), orientation_histograms(pixels[:, :, ::-1])
    before = credits(out_of_fold(x, sample.targets, sample.groups), sample.targets)
    after = credits(out_of_fold(x, sample.targets, sample.groups, mirrored), sample.targets)
    gain = paired_gain(before, after, sample.groups)
    wanted = params.train_backbone.augment
    text = f"a probe of shapes that trains on mirrored images too: {gain}"
    if "flip" in wanted and not mirroring_is_safe(gain):
        tried.values["train_backbone.augment"] = [name for name in wanted if name != "flip"]
        tried.why["train_backbone.augment"] = f"no flip: mirrored images look like other classes ({text})"
    verdict = "mirrored images" if mirroring_is_safe(gain) and "flip" in wanted else "no mirrored images"
    tried.lines.append(f"mirroring: {text} -> train with {verdict}")


def mirroring_is_safe(gain: Gain) -> bool:
    """Flips stay unless the interval lies wholly below zero: on most images they help a network more than a probe."""
    return gain.high >= 0


def _try_resolutions(
    sample: TrialSample, params: Params, sizes: tuple[int, ...], say: Say, tried: Tried
) -> tuple[np.ndarray, float]:
    """Returns the pretrained features (N, D) at the chosen resolution, and the seconds that one image took."""
    features: dict[int, np.ndarray] = {}
    per_image: dict[int, float] = {}
    scores: dict[int, np.ndarray] = {}
    for number, size in enumerate(sizes, 1):
        say(f"  resolution {size} ({number} of {len(sizes)})")
        features[size], per_image[size] = frozen_features(_pixels(sample, size, params), params)
        scores[size] = credits(out_of_fold(features[size], sample.targets, sample.groups), sample.targets)
    chosen, steps = choose_resolution(scores, sample.groups)
    tried.values["images.resolution"] = chosen
    figures = ", ".join(f"{size} px {100 * float(score.sum()):.1f}" for size, score in scores.items())
    tried.why["images.resolution"] = (
        f"balanced accuracy of a probe on pretrained features of {len(sample.targets)} images: {figures}; "
        f"a larger one must gain {WORTH:g} points, because training time grows with its square"
    )
    shown = "; ".join(f"{size} px {gain}" for size, gain in steps)
    tried.lines.append(f"resolution: {figures}{f' ({shown})' if shown else ''} -> {chosen} px")
    return features[chosen], per_image[chosen]


def _try_trainings(
    sample: TrialSample, params: Params, features: np.ndarray, per_image: float, say: Say, tried: Tried
) -> None:
    stage = params.train_backbone
    if stage.backbone != params.embed.backbone:
        return  # the features are another network's
    pixels = _pixels(sample, params.images.resolution, params)
    train, held = parts(sample.targets, sample.groups)
    if why_not := too_slow(len(train), stage, per_image):
        tried.lines.append(f"training: {why_not}")
        return

    def run_one(one: Candidate) -> np.ndarray:
        say(f"  training on {len(train)} images, {one.name}")
        changed = with_values(params, {f"train_backbone.{key}": value for key, value in one.values.items()})
        return train_once(pixels, features, sample.targets, train, held, changed.train_backbone)

    done = try_trainings(candidates(stage, sample.of), run_one, sample.groups[held])
    chosen = best_candidate(done)
    shown = "; ".join(
        f"{one.name} {100 * float(score.sum()):.1f}" if gain is None else f"{one.name} {gain}"
        for one, score, gain in done
    )
    text = f"balanced accuracy of {len(held)} held-out images after training on {len(train)}: {shown}"
    for key, value in chosen.values.items():
        path = f"train_backbone.{key}"
        tried.values[path] = value
        tried.why[path] = "; ".join(filter(None, [tried.why.get(path), text]))  # flips may be decided already
    tried.lines.append(f"training: {text} -> {chosen.name}")


def choose_resolution(scores: dict[int, np.ndarray], groups: np.ndarray) -> tuple[int, list[tuple[int, Gain]]]:
    """The resolution to train at, and each larger one's gain over the one chosen before it.

    `scores`: resolution, ascending -> credits (N,).
    """
    chosen, steps = next(iter(scores)), []
    for size in list(scores)[1:]:
        gain = paired_gain(scores[chosen], scores[size], groups)
        steps.append((size, gain))
        if gain.points >= WORTH and gain.low > 0:
            chosen = size
    return chosen, steps


def _pixels(sample: TrialSample, size: int, params: Params) -> np.ndarray:
    """(N, size, size, 3) uint8."""
    return np.stack([resize(image, size, params.images.fit) for image in sample.images])


def frozen_features(pixels: np.ndarray, params: Params) -> tuple[np.ndarray, float]:
    """(N, D) float32: the pretrained network's features of `pixels` (N, S, S, 3), and the seconds that one image took.

    The first batch, with which the network is made, does not count: 0 where all images fit into it.
    """
    from tasks.backbones import timm_models
    from tasks.backbones.features import compute_batches
    from tasks.backbones.frozen import frozen_network

    name, size = params.embed.backbone, pixels.shape[1]
    network = frozen_network(
        lambda: timm_models.create_model(name, "auto", 0, size),
        *timm_models.normalisation(name),
        size=size,
        batch_size=BATCH,
    )
    starts = range(0, len(pixels), BATCH)
    batches = ((slice(start, start + BATCH), pixels[start : start + BATCH]) for start in starts)
    found, ends = [], []
    for _, values in compute_batches(network, batches):
        found.append(values)
        ends.append(time.perf_counter())
    per_image = (ends[-1] - ends[0]) / (len(pixels) - len(found[0])) if len(found) > 1 else 0.0
    return np.concatenate(found).astype(np.float32), per_image
