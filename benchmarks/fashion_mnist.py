"""Many real images: the training part of Fashion-MNIST as manifests in Hugging Face's layout.

Images are written as they are (28 x 28 PNGs), or as photos of the article in front of a background (640 x 480 JPEGs of
about 60 kB): these cost as much to decode as images of a camera, with the same labels.
"""

import argparse
import importlib.util
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from joblib import Parallel, delayed
from PIL import Image, ImageEnhance

from benchmarks.calibration import fashion_script
from tasks.common.errors import DataError
from tasks.common.files import atomic_path

FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")


def training_part(source: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(60000, 28, 28) uint8 images and their class names, in the files' order.

    `source` None: where Debian's package installs Fashion-MNIST. Raises DataError if it is not there.
    """
    script = fashion_script()
    source = source or script.SOURCE
    if missing := [name for name in FILES if not (source / name).is_file()]:
        raise DataError(
            f"{source} holds no {' and no '.join(missing)}: install Debian's package dataset-fashion-mnist "
            "(apt install dataset-fashion-mnist), or name the folder with Fashion-MNIST's idx.gz files"
        )
    pool = script.Pool(source, "train")
    return np.asarray(pool.images), np.array(script.CLASSES)[np.asarray(pool.labels)]


def png(image: np.ndarray, index: int) -> bytes:
    return _encoded(Image.fromarray(image), "PNG")


def photo(image: np.ndarray, index: int) -> bytes:
    """A 640 x 480 JPEG: the article of `image` (28 x 28), enlarged, in front of a part of a scikit-learn photo.

    `index` decides the part, its light and the article's place.
    """
    rng = np.random.default_rng(index)
    background = _backgrounds()[int(rng.integers(2))]
    side = float(rng.uniform(0.4, 0.88))  # of the background's 640 x 427
    width, height = int(640 * side), int(480 * side)
    x, y = int(rng.integers(0, 641 - width)), int(rng.integers(0, 428 - height))
    canvas = background.resize((640, 480), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = ImageEnhance.Brightness(canvas).enhance(float(rng.uniform(0.6, 1.2)))
    article = Image.fromarray(image).resize((320, 320), Image.Resampling.BICUBIC)
    place = int(rng.integers(0, 321)), int(rng.integers(0, 161))
    canvas.paste(article.convert("RGB"), place, article.point(lambda value: 255 if value > 24 else 0))
    return _encoded(canvas, "JPEG", quality=90)


@cache
def _backgrounds() -> list[Image.Image]:
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    return [Image.open(folder / f"{name}.jpg").convert("RGB") for name in ("china", "flower")]


def _encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def write_manifest(
    file: Path,
    first: int,
    count: int,
    source: Path | None = None,
    encode: Callable[[np.ndarray, int], bytes] = png,
) -> Path:
    """Write images `first` .. `first + count` (columns image, label) to `file`, each as `encode(image, number)`.

    `source` as in `training_part`. Raises DataError if it has too few images.
    """
    images, labels = training_part(source)
    if first + count > len(images):
        raise DataError(f"{source or 'the package'} has {len(images)} training images, {first + count} are needed")
    suffix = {png: "png", photo: "jpg"}[encode]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image_type), ("label", pa.string())])
    with atomic_path(file) as temporary, pq.ParquetWriter(temporary, schema) as writer, Parallel(n_jobs=-1) as pool:
        for start in range(first, first + count, 1000):
            part = range(start, min(start + 1000, first + count))
            encoded = pool(
                delayed(_encode_some)(encode, images[part.start : part.stop], part.start, n) for n in range(4)
            )
            rows = sorted((index, data) for some in encoded for index, data in some)
            table = [
                {"image": {"bytes": data, "path": f"train-{index:05d}.{suffix}"}, "label": str(labels[index])}
                for index, data in rows
            ]
            writer.write_table(pa.Table.from_pylist(table, schema=schema), row_group_size=100)
    return file


def _encode_some(encode, images: np.ndarray, first: int, remainder: int) -> list[tuple[int, bytes]]:
    """A quarter of `images`."""
    return [(first + n, encode(images[n], first + n)) for n in range(remainder, len(images), 4)]


def source_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "fashion_mnist", type=Path, nargs="?", help="folder with Fashion-MNIST's idx.gz files (default: the package's)"
    )
