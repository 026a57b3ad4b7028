"""Answer images with a bundle: its model, preprocessing and thresholds. Needs no torch.

    predictor = Predictor(Path("artifacts/bundle"))
    (answer,) = predictor.predict([Path("photo.jpg").read_bytes()])
    answer.label, answer.confidence, answer.plausible, answer.needs_review

N images, S the edge length of the model's input in pixels, K classes, D feature dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.dataset.decode import PREPROCESS, Undecodable, preprocess
from tasks.inference import coarse, conformal, thresholds
from tasks.inference.onnx_model import OnnxModel, Outputs
from tasks.inference.ood import scores as ood
from tasks.releases import bundle

BATCH = 64  # images decoded and in memory at once


@dataclass(frozen=True)
class Prediction:
    """The answer for one image. If the bytes are not a usable image, only `reason` and `detail` are set."""

    label: str | tuple[str, ...] | None = None  # a tuple, maybe empty, for multi-label models
    coarse: str | None = (
        None  # the group of classes that answers where `label` is unsure; None: it is sure, or no group
    )
    plausible: tuple[str, ...] | None = None  # classes that may be right, likeliest first; None: the bundle has no sets
    confidence: float | None = None  # calibrated probability that the answer is right
    probabilities: tuple[float, ...] | None = None  # (K,) in class order
    ood: float | None = None  # out-of-distribution score, high = unfamiliar
    is_ood: bool = False
    needs_review: bool = False  # unsure (see tasks.inference.thresholds) or unfamiliar: a person should look
    reason: str | None = None  # one of schemas.QUARANTINE_REASONS
    detail: str = ""
    features: np.ndarray | None = field(default=None, repr=False, compare=False)  # (D,) float32


class Predictor:
    """A loaded bundle. Threads may share it: ONNX Runtime's sessions can be run in parallel."""

    def __init__(self, bundle_dir: Path | str, threads: int = 1, known_as: str | None = None):
        """Check each file of the bundle against its manifest and load it. Raises BundleDamaged.

        threads: of ONNX Runtime. known_as: the digest under which answers are logged. A bundle from the release store
        goes by the one it was published with, also where an erasure has replaced its files since.
        """
        self.folder = folder = Path(bundle_dir)
        bundle.verify(folder)
        self.about = bundle.read(folder)
        self.digest = known_as or bundle.digest(folder)
        self.classes: list[str] = self.about["classes"]
        self.provisional: str | None = self.about.get("provisional")  # why answers are suggestions only; None: not so
        self._rule = thresholds.read_rule(self.about)
        self._model = OnnxModel(folder / "model.onnx", threads)
        self._tensors = ood.read_tensors(folder / "ood.safetensors")
        sets = self.about.get("conformal")  # a bundle of an older Evergreen has none
        self._bounds = np.array([sets["bounds"][name] for name in self.classes]) if sets else None

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """One Prediction per image, in order. A bad image does not affect the other answers."""
        found: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            found += self._predict_batch(images[start : start + BATCH])
        return found

    def predict_pixels(self, pixels: np.ndarray) -> Outputs:
        """The model's outputs for (N, S, S, 3) uint8 pixels from tasks.dataset.decode.preprocess."""
        return self._model(pixels)

    def ood(self, outputs: Outputs) -> np.ndarray:
        """(N,) out-of-distribution scores, high = unfamiliar; above about["ood"]["threshold"] is unfamiliar."""
        return ood.score(outputs.features, outputs.logits, self.about["ood"], self._tensors)

    def answers(self, outputs: Outputs) -> list[Prediction]:
        """One Prediction per row of the model's outputs."""
        probabilities = outputs.probabilities
        chosen = thresholds.answers(probabilities, self._rule)
        confidence = thresholds.confidence(probabilities, self._rule)
        sure = thresholds.sure(probabilities, self._rule)
        scores = self.ood(outputs)
        groups = self.about.get("hierarchy") or {"groups": {}, "threshold": 1.0}
        parents = coarse.answers(probabilities, sure, groups["groups"], self.classes, groups["threshold"])
        plausible = self._plausible(probabilities, chosen)
        unfamiliar = scores > self.about["ood"]["threshold"]
        return [
            Prediction(
                label=self._name(chosen[row]),
                coarse=None if unfamiliar[row] else parents[row],
                plausible=plausible[row],
                confidence=float(confidence[row]),
                probabilities=tuple(probabilities[row].tolist()),
                ood=float(scores[row]),
                is_ood=bool(unfamiliar[row]),
                needs_review=bool(unfamiliar[row] or not sure[row]),
                features=outputs.features[row],
            )
            for row in range(len(probabilities))
        ]

    def _predict_batch(self, images: Sequence[bytes]) -> list[Prediction]:
        spec = self.about["preprocess"]
        pixels, refused = [], {}
        for index, data in enumerate(images):
            try:
                pixels.append(preprocess(data, *(spec.get(key) for key in PREPROCESS)))
            except Undecodable as error:
                refused[index] = Prediction(reason=error.reason, detail=error.detail)
            except Exception as error:  # other errors of a decoder on hostile bytes: the other images continue
                refused[index] = Prediction(reason="undecodable", detail=f"{type(error).__name__}: {error}")
        shape = (len(pixels), spec["resolution"], spec["resolution"], 3)
        good = iter(self.answers(self._model(np.array(pixels, np.uint8).reshape(shape))))
        return [refused[index] if index in refused else next(good) for index in range(len(images))]

    def _plausible(self, probabilities: np.ndarray, chosen: np.ndarray) -> list[tuple[str, ...] | None]:
        if self._bounds is None:
            return [None] * len(probabilities)
        sets = conformal.plausible(probabilities, chosen, self._bounds)
        return [conformal.likeliest_first(self.classes, *row) for row in zip(probabilities, sets, strict=True)]

    def _name(self, chosen: np.ndarray) -> str | tuple[str, ...]:
        if self._rule.task == "multiclass":
            return self.classes[chosen]
        return tuple(self.classes[k] for k in np.flatnonzero(chosen))
