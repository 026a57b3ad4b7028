"""Turn a model's logits into calibrated probabilities, without moving an answer. N images, K classes.

Multi-class, of logits z:

    q = softmax(z / T)                           T: one temperature for all
    q = softmax(s z / T), s = sum of s_k q_k     s_k: sharpness of a class, weighed by how likely the class is
    m = (1 - e) q + e / K                        e: Laplace smoothing, since n images prove no more than 1 - 1 / n
    p_k = m_k exp(b_k), divided by their sum     b_k: how frequent the class is

`none` has T = 1, `temperature` has T and e, `classwise` has everything. tasks.stages.calibrate.fitting fits them.

The answer must not change with the calibration: the head was balanced and chosen for its answers, while b_k learns
how frequent classes are, which would give up rare ones. Vector scaling, softmax(a_k z_k + b_k), changes the answer and
no weights restore it. Here s is one number per image, so p_k exp(-b_k) has the order of z: `undo` is what
tasks.inference.thresholds multiplies with to give exactly the head's answer.

Multi-label: sigmoid(s_k z_k / T + b_k) for each label by itself (Platt scaling), smoothed towards 1/2. Its thresholds
are fitted on these probabilities, so nothing needs to be undone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.inference.temperature import probabilities

METHODS = ("none", "temperature", "classwise")


@dataclass(frozen=True)
class Scaling:
    """A fitted calibration of K classes."""

    method: str = "none"  # one of METHODS
    temperature: float = 1.0
    smoothing: float = 0.0  # e
    sharpness: np.ndarray = field(default_factory=lambda: np.ones(1))  # (K,), or (1,) for all
    bias: np.ndarray = field(default_factory=lambda: np.zeros(1))  # (K,), or (1,) for all

    @property
    def classwise(self) -> bool:
        return self.method == "classwise"

    def undo(self, classes: int) -> np.ndarray:
        """(K,) multi-class weights with which probabilities give the answer of the logits."""
        return np.exp(-np.broadcast_to(self.bias, classes))


def scale(logits: np.ndarray, scaling: Scaling, task: str) -> np.ndarray:
    """(N, K) calibrated probabilities, float64, of `logits` (N, K)."""
    if task == "multilabel":
        scaled = logits.astype(np.float64) * scaling.sharpness + scaling.bias * scaling.temperature
        found = probabilities(scaled, scaling.temperature, task)
        return (1 - scaling.smoothing) * found + scaling.smoothing / 2
    found = probabilities(logits, scaling.temperature, task)
    if scaling.classwise:
        sharp = (found @ np.broadcast_to(scaling.sharpness, logits.shape[1]))[:, None]
        found = probabilities(logits * sharp, scaling.temperature, task)
    found = (1 - scaling.smoothing) * found + scaling.smoothing / logits.shape[1]
    if scaling.classwise:
        found = found * np.exp(scaling.bias)
        found /= found.sum(axis=1, keepdims=True)
    return found


def to_json(scaling: Scaling, classes: Sequence[str]) -> dict[str, Any]:
    """`scaling` of calibration.json and bundle.json."""
    about: dict[str, Any] = {"method": scaling.method, "temperature": scaling.temperature}
    about["smoothing"] = scaling.smoothing
    if scaling.classwise:
        about["sharpness"] = dict(zip(classes, scaling.sharpness.tolist(), strict=True))
        about["bias"] = dict(zip(classes, scaling.bias.tolist(), strict=True))
    return about


def read_scaling(about: Mapping) -> Scaling:
    """The scaling in calibration.json or bundle.json `about`; before schema 3 there was a temperature alone."""
    found = about.get("scaling") or {"method": "temperature", "temperature": about["temperature"]}
    if found["method"] != "classwise":
        return Scaling(found["method"], found["temperature"], found.get("smoothing", 0.0))
    parts = (np.array([found[name][one] for one in about["classes"]]) for name in ("sharpness", "bias"))
    return Scaling("classwise", found["temperature"], found["smoothing"], *parts)
