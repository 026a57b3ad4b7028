"""What people and programs do to a photo before it comes back: the copies that benchmarks.leaks plants."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _crop(low: float, high: float) -> Change:
    """Keep a window with a random share of each side between `low` and `high`."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        w, h = (max(8, round(side * rng.uniform(low, high))) for side in image.size)
        left, top = rng.integers(0, image.width - w + 1), rng.integers(0, image.height - h + 1)
        return image.crop((left, top, left + w, top + h))

    return change


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = rng.uniform(5, 15) * rng.choice([-1, 1])
    return image.rotate(
        angle, Image.Resampling.BICUBIC, fillcolor=rng.choice([0, 255]).item() if image.mode == "L" else (0, 0, 0)
    )


def _hue(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    hsv = np.asarray(image.convert("RGB").convert("HSV")).copy()
    hsv[..., 0] += np.uint8(rng.integers(12, 32) * rng.choice([-1, 1]) % 256)
    return Image.fromarray(hsv, "HSV").convert("RGB")


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.5))


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8))


def _text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A line of white text over two thirds of the width, as a preview has it."""
    text = Image.new("L", (240, 48))
    ImageDraw.Draw(text).text((4, 4), "PREVIEW 42", fill=255, font_size=40)
    width = max(12, round(0.66 * image.width))
    text = text.resize((width, max(4, width // 5)), Image.Resampling.BILINEAR)
    place = (int(rng.uniform(0, 0.34) * image.width), int(rng.uniform(0.1, 0.8) * image.height))
    image = image.copy()
    image.paste(255 if image.mode == "L" else (255, 255, 255), place, text)
    return image


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width = max(1, round(min(image.size) * rng.uniform(0.05, 0.15)))
    return ImageOps.expand(image, width, fill="white" if rng.random() < 0.5 else "black")


def _resize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(0.5, 2.0)
    return image.resize(tuple(max(8, round(side * scale)) for side in image.size), Image.Resampling.BILINEAR)


def _augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As a training augments: crop, flip, light, and a little rotation for half of them."""
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    image = _crop(0.7, 1.0)(image, rng)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return _light(image, rng)


KINDS: dict[str, Change] = {
    "jpeg": lambda image, rng: image,
    "webp": lambda image, rng: image,
    "resize": _resize,
    "crop 80-95 %": _crop(0.8, 0.95),
    "crop 50-80 %": _crop(0.5, 0.8),
    "mirror": lambda image, rng: ImageOps.mirror(image),
    "turned 90": lambda image, rng: image.transpose(
        rng.choice(
            [
                Image.Transpose.ROTATE_90,
                Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_270,
                Image.Transpose.FLIP_TOP_BOTTOM,
            ]
        )
    ),
    "rotated 5-15": _rotate,
    "light": _light,
    "hue": _hue,
    "grey": lambda image, rng: image.convert("L").convert(image.mode),
    "blur": lambda image, rng: image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5) * min(image.size) / 96)),
    "noise": _noise,
    "text": _text,
    "border": _border,
    "augmented": _augmented,
}


def copy_of(data: bytes, kind: str, seed: int) -> bytes:
    """The image `data`, changed as `kind` (a key of KINDS) says, as a new file."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    with Image.open(io.BytesIO(data)) as opened:
        changed = KINDS[kind](opened.convert("L" if opened.mode in ("1", "L") else "RGB"), rng)
    out = io.BytesIO()
    if kind == "webp":
        changed.save(out, "WEBP", quality=int(rng.integers(30, 80)))
    else:
        changed.save(out, "JPEG", quality=int(rng.integers(30, 75) if kind == "jpeg" else rng.integers(75, 96)))
    return out.getvalue()
