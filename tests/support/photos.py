"""Real photos for tests: two that scikit-learn ships, and square cut-outs of them as photos of their own."""

import base64
import functools
import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image


@functools.cache
def photo(name: str = "china") -> Image.Image:
    """ "china" or "flower", 640 x 427 RGB."""
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    return Image.open(folder / f"{name}.jpg").convert("RGB")


def cutouts(count: int, side: int = 200, seed: int = 0) -> list[Image.Image]:
    """Parts of the photos on a grid with a little jitter; different ones share less than half of their area."""
    rng = np.random.default_rng(seed)
    places = [(name, x, y) for x in range(0, 440, 108) for y in range(0, 227, 108) for name in ("china", "flower")]
    if count > len(places):
        raise ValueError(f"{count} cut-outs wanted, the photos give {len(places)}")
    found = []
    for name, x, y in places[:count]:
        x, y = x + int(rng.integers(0, 8)), y + int(rng.integers(0, 8))
        found.append(photo(name).crop((x, y, x + side, y + side)))
    return found


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# 96 x 64 pixels, red on the left to blue on the right, turned by EXIF orientation 6; nothing installed writes HEIC
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaFtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAABxQABAAAAAAAAAGIAAgAAAAACJwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNj"
    "b2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAAQAAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAAAAAAAAABAAEFgQIDBIUA"
    "AAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAI5tZGF0AAAAXigBr1j5GoxQEmTFG7FR4kB5ecjFaxWi34+vuS7QHsohWhg6egkTeF43mccD5UOa"
    "C8rBqCv3RRKu3svmkGMTT012Kj3XJjKqT5CZmHcNC3qOwbUAxcyUZj3jnVy8gqAAAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA="
)


def tracks(objects: int, views: int, side: int = 48, seed: int = 0) -> dict[str, Image.Image]:
    """<class>/<object>_<view>.png -> image: places in two photos, seen a little off each time."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in ("china", "flower"):
        for number in range(objects):
            x, y = rng.integers(10, 530), rng.integers(10, 317)
            for view in range(views):
                left, top, width = x + rng.integers(-9, 10), y + rng.integers(-9, 10), rng.integers(84, 96)
                part = photo(name).crop((left, top, left + width, top + width)).resize((side, side))
                found[f"{name}/{number:05d}_{view:02d}.png"] = part
    return found
