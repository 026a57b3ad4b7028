"""Production windows of Fashion-MNIST with and without injected shifts, answered by a real model.

The model is a linear head on frozen pretrained features (64 pixels), trained on 9 of the 10 classes, so that the tenth
can appear as a new one. Its reference, the null windows and the shifted windows come from disjoint images. Windows are
drawn from a pool of answered rows: a thousand windows cost a thousand draws, not a thousand trainings.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageFilter

from benchmarks.fashion_mnist import training_part
from benchmarks.scratch import timed
from monitoring.log.schema import log_schema
from tasks.backbones import timm_models
from tasks.common.errors import DataError
from tasks.common.files import sha256_bytes
from tasks.common.schemas import MEASURES
from tasks.dataset.decode import resize
from tasks.inference.ood import scores as ood
from tasks.inspection.measure import measure
from tasks.models import probe
from tasks.releases import reference

NEW = "Sandal"  # the class that no model here knows
SIZE = 64
BACKBONE = "tf_efficientnet_lite0"
STRENGTHS = ("weak", "medium", "strong")


def _pillow(change: Callable[[Image.Image, float], Image.Image]) -> Callable[[np.ndarray, float, int], np.ndarray]:
    return lambda image, value, seed: np.asarray(change(Image.fromarray(image), value))


def _noise(image: np.ndarray, value: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, value, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def _contrast(image: np.ndarray, value: float, seed: int) -> np.ndarray:
    return np.round((image - image.mean()) * value + image.mean()).clip(0, 255).astype(np.uint8)


def _zoom(image: Image.Image, value: float) -> Image.Image:
    side = image.width
    edge = side * (1 - value) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(edge, edge, side - edge, side - edge))


def _compress(image: Image.Image, value: float) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(value))
    return Image.open(buffer).convert("L")


IMAGE_SHIFTS: dict[str, tuple[Callable[[np.ndarray, float, int], np.ndarray], tuple[float, float, float]]] = {
    "brightness": (lambda image, value, seed: np.round(image * value).astype(np.uint8), (0.85, 0.7, 0.5)),
    "contrast": (_contrast, (0.85, 0.7, 0.5)),
    "blur": (_pillow(lambda image, value: image.filter(ImageFilter.GaussianBlur(value))), (0.4, 0.7, 1.1)),
    "noise": (_noise, (5.0, 12.0, 25.0)),
    "rotation": (_pillow(lambda image, value: image.rotate(value, Image.Resampling.BICUBIC)), (7.0, 15.0, 30.0)),
    "zoom": (_pillow(_zoom), (0.93, 0.85, 0.7)),
    "compression": (_pillow(_compress), (50.0, 20.0, 8.0)),
}
MIX_SHIFTS: dict[str, tuple[float, float, float]] = {
    "class mix": (2.0, 4.0, 8.0),  # one class becomes so many times as common
    "class missing": (0.5, 1.0, 2.0),  # classes
    "new class": (0.1, 0.25, 0.5),  # share of the window
}
KINDS = (*IMAGE_SHIFTS, *MIX_SHIFTS)


@dataclass(frozen=True)
class Model:
    """Pretrained features, a linear head, an out-of-distribution score; answers like the model of a bundle."""

    about: dict
    tensors: dict[str, np.ndarray]
    head: probe.Probe

    def answers(self, images: Sequence[np.ndarray], labels: Sequence[str]) -> pa.Table:
        """log_schema and the columns label and split, of (H, W) or (H, W, 3) uint8 images stored as PNG."""
        import torch

        network, (mean, std) = timm_models.create_model(BACKBONE, "auto", 0, SIZE), timm_models.normalisation(BACKBONE)
        columns: dict[str, list] = {name: [] for name in ("id", "features", *(field.name for field in MEASURES))}
        with torch.inference_mode():
            for start in range(0, len(images), 64):
                part = [Image.fromarray(image) for image in images[start : start + 64]]
                pixels = np.stack([resize(image.convert("RGB"), SIZE, "squash") for image in part])
                x = timm_models.to_input(pixels, mean, std, torch.device("cpu"))
                columns["features"] += list(timm_models.features(network, x).numpy())
                for image in part:
                    buffer = io.BytesIO()
                    image.save(buffer, "PNG", compress_level=1)
                    found = measure(buffer.getvalue(), 10**6)
                    columns["id"].append(sha256_bytes(buffer.getvalue()))
                    for field in MEASURES:
                        columns[field.name].append(getattr(found, field.name))
        features = np.array(columns["features"])
        logits = self.head.logits(features)
        probabilities = probe.softmax(logits)
        classes = self.about["classes"]
        columns |= {
            "probabilities": list(probabilities),
            "confidence": probabilities.max(axis=1),
            "prediction": [classes[k] for k in probabilities.argmax(axis=1)],
            "ood": ood.score(features, logits, self.about["ood"], self.tensors),
        }
        rows = len(images)
        arrays = [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type)
            for f in log_schema("multiclass")
        ]
        table = pa.table(arrays, schema=log_schema("multiclass"))
        table = table.append_column("label", pa.array(labels, pa.string()))
        return table.append_column("split", pa.array(["test"] * rows, pa.string()))


@dataclass(frozen=True)
class Cast:
    model: Model
    clean: pa.Table  # answered rows of the 9 classes, disjoint from what the model was trained on
    new: pa.Table  # answered rows of the tenth class
    shifted: dict[tuple[str, str], pa.Table]  # (kind, strength) -> rows

    def window(self, kind: str, strength: str, rows: int, rng: np.random.Generator, moved: int = 0) -> pa.Table:
        """`rows` different production rows after a shift. moved: seed that selects the classes of a change of mix."""
        if kind in IMAGE_SHIFTS:
            return draw(self.shifted[kind, strength], rows, rng)
        value = MIX_SHIFTS[kind][STRENGTHS.index(strength)]
        if kind == "new class":
            strange = rng.binomial(rows, value)
            return pa.concat_tables([draw(self.new, strange, rng), draw(self.clean, rows - strange, rng)])
        labels = np.array(self.clean["label"].to_pylist())
        classes = np.random.default_rng(moved).permutation(np.unique(labels))
        weight = np.ones(len(labels))
        if kind == "class mix":
            weight[labels == classes[0]] = value
        else:
            weight[np.isin(labels, classes[: int(np.ceil(value))])] = 0.5 if value < 1 else 0.0
        return draw(self.clean, rows, rng, weight)


def draw(table: pa.Table, rows: int, rng: np.random.Generator, weight: np.ndarray | None = None) -> pa.Table:
    """`rows` different rows at random."""
    p = None if weight is None else weight / weight.sum()
    return table.take(rng.choice(len(table), rows, replace=False, p=p))


def cast(clean: int, shifted: int, source: Path | None = None, trained: int = 1800, kinds=IMAGE_SHIFTS) -> Cast:
    """Train and answer: `clean` rows without a shift, `shifted` rows for every image shift and strength.

    source: folder with Fashion-MNIST's idx.gz files (default: the package's). Raises DataError if it is not there.
    """
    images, labels = _fashion(source)
    known = np.flatnonzero(labels != NEW)
    strange = np.flatnonzero(labels == NEW)[: max(shifted, 60)]
    need = trained + clean + shifted
    if len(known) < need:
        raise DataError(f"Fashion-MNIST has {len(known)} images of known classes, {need} are needed")
    train, pool, other = np.split(known[:need], [trained, trained + clean])
    with timed(f"a model of {trained} images"):
        model = fit_head(images[train], labels[train])
    with timed(f"answers for {clean} images"):
        answered = model.answers(images[pool], labels[pool].tolist())
        new = model.answers(images[strange], labels[strange].tolist())
    tables = {}
    for kind in kinds:
        change, values = IMAGE_SHIFTS[kind]
        for strength, value in zip(STRENGTHS, values, strict=True):
            with timed(f"{kind}, {strength}"):
                changed = [change(images[row], value, int(row)) for row in other]
                tables[kind, strength] = model.answers(changed, labels[other].tolist())
    return Cast(model, answered, new, tables)


def _fashion(source: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """(60000, 28, 28) uint8 training images of Fashion-MNIST in a fixed random order, and their class names."""
    images, labels = training_part(source)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def fit_head(images: Sequence[np.ndarray], labels: np.ndarray) -> Model:
    """A linear head on `images` (H, W) and their names; a fifth of them sets the out-of-distribution threshold."""
    classes = sorted(set(labels.tolist()))
    about = {"classes": classes, "task": "multiclass", "thresholds": dict.fromkeys(classes, 0.5)}
    blank = probe.Probe(np.zeros((len(classes), 1280), np.float32), np.zeros(len(classes), np.float32), False)
    energy = {"method": "energy", "task": "multiclass"}
    table = Model(about | {"ood": energy}, {}, blank).answers(images, labels.tolist())
    features = np.array(table["features"].to_pylist(), np.float32)
    held = len(features) // 5  # for the threshold of the out-of-distribution score
    y = np.array([classes.index(label) for label in labels])
    head = probe.fit(features[held:], y[held:], len(classes))
    training = ood.Training(features[held:], head.logits(features[held:]), y[held:])
    scores, tensors, _ = ood.fit("knn", training, features[:held], head.logits(features[:held]), 0.02, "multiclass")
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    return Model(about | {"ood": scores}, tensors, head)


def reference_table(rows: pa.Table) -> pa.Table:
    """Answered rows in the form of a bundle's reference.parquet."""
    return rows.select(reference.schema("multiclass").names)
