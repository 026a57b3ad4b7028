"""Many small real images: the training part of Fashion-MNIST as manifests of PNGs in Hugging Face's layout."""

import argparse
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.calibration import fashion_script
from tasks.errors import DataError
from tasks.files import atomic_path

FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")


def write_manifest(file: Path, first: int, count: int, source: Path | None = None) -> Path:
    """Write images `first` .. `first + count` (28 x 28 PNG, columns image, label) to `file`.

    `source` None: where Debian's package puts Fashion-MNIST. Raises DataError where it is not or has too few images.
    """
    script = fashion_script()
    source = source or script.SOURCE
    if missing := [name for name in FILES if not (source / name).is_file()]:
        raise DataError(
            f"{source} holds no {' and no '.join(missing)}: install Debian's package dataset-fashion-mnist "
            "(apt install dataset-fashion-mnist), or name the folder with Fashion-MNIST's idx.gz files"
        )
    pool = script.Pool(source, "train")
    if first + count > len(pool.images):
        raise DataError(f"{source} has {len(pool.images)} training images, {first + count} are needed")
    rows = []
    for index in range(first, first + count):
        buffer = io.BytesIO()
        Image.fromarray(pool.images[index]).save(buffer, "PNG")
        label = script.CLASSES[pool.labels[index]]
        rows.append({"image": {"bytes": buffer.getvalue(), "path": f"train-{index:05d}.png"}, "label": label})
    with atomic_path(file) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    return file


def source_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "fashion_mnist", type=Path, nargs="?", help="folder with Fashion-MNIST's idx.gz files (default: the package's)"
    )
