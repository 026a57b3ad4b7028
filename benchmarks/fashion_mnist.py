"""Many small real images: the training part of Fashion-MNIST as manifests of PNGs in Hugging Face's layout."""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.calibration import fashion_script
from tasks.errors import DataError
from tasks.files import atomic_path

FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")


def training_part(source: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(60000, 28, 28) uint8 images and their class names, in the files' order.

    `source` None: where Debian's package puts Fashion-MNIST. Raises DataError where it is not.
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


def write_manifest(file: Path, first: int, count: int, source: Path | None = None) -> Path:
    """Write images `first` .. `first + count` (28 x 28 PNG, columns image, label) to `file`.

    `source` as in `training_part`. Raises DataError where it has too few images.
    """
    images, labels = training_part(source)
    if first + count > len(images):
        raise DataError(f"{source or 'the package'} has {len(images)} training images, {first + count} are needed")
    rows = []
    for index in range(first, first + count):
        buffer = io.BytesIO()
        Image.fromarray(images[index]).save(buffer, "PNG")
        image = {"bytes": buffer.getvalue(), "path": f"train-{index:05d}.png"}
        rows.append({"image": image, "label": str(labels[index])})
    with atomic_path(file) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    return file


def source_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "fashion_mnist", type=Path, nargs="?", help="folder with Fashion-MNIST's idx.gz files (default: the package's)"
    )
