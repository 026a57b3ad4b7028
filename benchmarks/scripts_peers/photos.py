"""The photos of a peer's project, photos/{train,val,test}/<class>/<file>.jpg, and how its network sees them."""

from pathlib import Path

import pandas as pd
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

PHOTOS = Path("photos")
MEAN = STD = (0.5, 0.5, 0.5)


def table() -> pd.DataFrame:
    """One row per photo: path, split, label, width, height, bytes. Reads the headers only."""
    rows = []
    for path in sorted(PHOTOS.glob("*/*/*.jpg")):
        with Image.open(path) as image:
            width, height = image.size
        _, split, label, _ = path.parts
        about = {"width": width, "height": height, "bytes": path.stat().st_size}
        rows.append({"path": str(path), "split": split, "label": label} | about)
    return pd.DataFrame(rows)


def changed(side: int) -> transforms.Compose:
    """For training: random crops and flips."""
    crop = transforms.RandomResizedCrop(side, scale=(0.5, 1.0))
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), *scaled()])


def plain(side: int) -> transforms.Compose:
    """For judging: the whole photo, squashed into a square."""
    return transforms.Compose([transforms.Resize((side, side)), *scaled()])


def scaled() -> list:
    return [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def read(split: str, transform) -> ImageFolder:
    """The photos of one split, decoded at every access."""
    return ImageFolder(str(PHOTOS / split), transform)
