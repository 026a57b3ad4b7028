"""Fit the exported model's out-of-distribution score; measure what it finds and wrongly rejects.

N calibration images, S the side of the model's input in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.common.cores import on_all_cores
from tasks.common.params import CalibrateParams
from tasks.inference.onnx_model import Outputs
from tasks.inference.ood import scores as ood
from tasks.stages.calibrate import choice, probes
from tasks.stages.calibrate.choice import Finding, Seen

PROBED_IMAGES = 100  # calibration images that are mixed, shuffled, darkened ...: each costs seven runs of the network


@dataclass(frozen=True)
class Probed:
    """Calibration images, as the model reads them, from which probes are made."""

    pixels: np.ndarray  # (n, S, S, 3) uint8
    ids: Sequence[str]
    strata: np.ndarray  # (n,) numbers


@dataclass(frozen=True)
class FittedScore:
    """A fitted score: what goes into calibration.json, ood.safetensors and metrics/calibrate.json."""

    about: dict
    tensors: dict[str, np.ndarray]
    measured: dict


def fit_score(
    model: Callable[[np.ndarray], Outputs],
    probed: Probed,
    known: Seen,
    targets: np.ndarray,
    training: ood.Training,
    params: CalibrateParams,
    task: str,
) -> FittedScore:
    """The score that `params` ask for, or the best of all, with what it finds. known, targets: calibration split."""

    def seen(images: Mapping[str, np.ndarray]) -> dict[str, Seen]:
        outputs = on_all_cores(model, images.values())
        return {name: Seen(out.features, out.logits) for name, out in zip(images, outputs, strict=True)}

    near = seen(probes.near(probed.pixels, probed.strata))
    far = seen(probes.far(probed.pixels.shape[1]))
    shifted = seen(probes.shifted(probed.pixels, probed.ids))
    share = params.ood_false_rejection
    methods = choice.asked(params.ood_method)
    found = choice.compare(methods, training, known, targets, near, far, shifted, share, task)
    method = choice.choose(found)
    about, tensors, _ = ood.fit(method, training, known.features, known.logits, share, task)

    def flagged(images: Mapping[str, Seen]) -> dict[str, float]:
        return {
            name: float(np.mean(ood.score(one.features, one.logits, about, tensors) > about["threshold"]))
            for name, one in images.items()
        }

    measured = {
        "method": method,
        "asked": params.ood_method,
        "sentence": sentence(method, found, known.logits.shape[1]),
        "false_rejection": about["false_rejection"],
        "training": len(training.features),
        "flagged": flagged({**far, **near}),
        "shifted": flagged(shifted),
        "scores": choice.as_json(found),
    }
    return FittedScore(about, tensors, measured)


def sentence(method: str, found: Mapping[str, Finding], classes: int) -> str:
    """What the chosen score finds and rejects, for people; beside kNN's where that was compared."""
    one = found[method]
    near = "an image of a left-out class" if choice.class_groups(classes) else "an image between the classes"
    told = (
        f"{method} scores {near} above a known image in {one.near:.0f} % of pairs (50 is chance), and noise, flat "
        f"colours and textures in {one.far:.0f} %. It flags {one.shifted:.0f} % of known images that are darker, "
        "blurred, noisy or compressed."
    )
    if choice.KNOWN not in found or method == choice.KNOWN:
        return told
    other = found[choice.KNOWN]
    return told + f" With kNN these are {other.near:.0f}, {other.far:.0f} and {other.shifted:.0f} %."
