"""Answers from class names alone, by a CLIP model (Radford et al. 2021): no image needs a label.

N images, K classes, D dimensions of the space that images and texts share.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.backbones.features import feature_table
from tasks.common.params import ImagesParams
from tasks.models import clip
from tasks.models.probe import Probe

PROMPTS = ("a photo of a {}.", "a close-up photo of a {}.", "a picture of a {}.", "{}")  # {}: the class
BATCH = 32  # images at once
WORDS = 200  # characters of a definition that a prompt takes: the text encoder reads about 77 tokens


def texts_of(name: str, meaning: str = "", prompts: Sequence[str] = PROMPTS) -> list[str]:
    """The texts that describe the class `name`; `meaning`: a few words about it, which each text then ends with."""
    name, meaning = name.replace("_", " ").strip(), " ".join(meaning.split())[:WORDS]
    found = [prompt.replace("{}", name) for prompt in prompts]
    return [*found, *(f"{text.rstrip('.')}: {meaning}" for text in found)] if meaning else found


def unit(x: np.ndarray) -> np.ndarray:
    """The rows of `x` (N, D) with length 1; rows of zeros stay."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def class_rows(texts: Sequence[np.ndarray]) -> np.ndarray:
    """(K, D): the mean of each class's text vectors (each of length 1 first), made length 1 (prompt ensemble)."""
    return unit(np.stack([unit(np.asarray(one, np.float32)).mean(axis=0) for one in texts]))


def zero_shot_probe(rows: np.ndarray, scale: float) -> Probe:
    """The linear classifier of unit image vectors whose logits are `scale` times the cosine with `rows` (K, D)."""
    return Probe((scale * rows).astype(np.float32), np.zeros(len(rows), np.float32), False)


def zero_shot(
    root: Path,
    samples: pa.Table,
    folder: Path,
    classes: Mapping[str, str],
    images: ImagesParams,
    prompts: Sequence[str] = PROMPTS,
) -> np.ndarray:
    """(N, K) probabilities of `samples` (columns shard, row) by the CLIP model in `folder` (clip.find_clip).

    classes: name -> a few words about it, or "". Image vectors are computed once per image and kept.
    """
    model = clip.Clip(folder)
    rows = class_rows([model.texts(texts_of(name, meaning, prompts)) for name, meaning in classes.items()])
    sized = images.model_copy(update={"resolution": clip.input_side(folder)})
    vectors = feature_table(root, samples, sized, clip.clip_key(folder), lambda: model, BATCH)
    return zero_shot_probe(rows, model.scale).probabilities(unit(vectors[:].astype(np.float32)))
