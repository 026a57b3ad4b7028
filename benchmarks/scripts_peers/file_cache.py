"""What is computed once per photo file: the shrunk photo, and the features of the pretrained network."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmarks.scripts_peers import network, photos

CACHE = Path("cache")


def cached(path: str, kind: str) -> Path:
    """Where `kind` of a photo lies: another size or time of its file is another photo."""
    about = os.stat(path)
    key = hashlib.sha1(f"{path} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()
    return CACHE / key[:2] / f"{key}.{kind}.npy"


def save(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    with open(temporary, "wb") as stream:
        np.save(stream, values)
    os.replace(temporary, file)


def shrunk(path: str, side: int) -> Image.Image:
    """The photo at twice the training resolution, so that random crops stay sharp."""
    file = cached(path, f"{2 * side}")
    if not file.exists():
        with Image.open(path) as image:
            image.draft("RGB", (2 * side, 2 * side))
            small = image.convert("RGB").resize((2 * side, 2 * side), Image.Resampling.BICUBIC)
        save(file, np.asarray(small))
    return Image.fromarray(np.load(file))


class Shrunk(ImageFolder):
    """The photos of one split, decoded from their files once only."""

    def __init__(self, split: str, side: int, transform):
        super().__init__(str(photos.PHOTOS / split), transform, loader=lambda path: shrunk(path, side))


def features(split: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) features of the frozen network and (N,) class numbers."""
    data = Shrunk(split, side, photos.plain(side))
    paths = [path for path, _ in data.samples]
    missing = [row for row, path in enumerate(paths) if not cached(path, f"features{side}").exists()]
    if missing:
        model = network.create_model(network.BACKBONE, "auto", 0, side)
        with torch.inference_mode():
            batches = network.load(torch.utils.data.Subset(data, missing), train=False)
            rows = (model(x.contiguous(memory_format=torch.channels_last)).numpy() for x, _ in batches)
            for row, values in zip(missing, (values for batch in rows for values in batch), strict=True):
                save(cached(paths[row], f"features{side}"), values)
    return np.stack([np.load(cached(path, f"features{side}")) for path in paths]), np.array(data.targets)
