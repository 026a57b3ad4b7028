"""Deliver photos as folders, the way people get them: first many, then 5 % more.

Each delivery is <folder>/{train,val,test}/<class>/<number>.jpg. Pictures smaller than a photo are enlarged to 640 x 480
with the noise of a sensor, so that they cost as much to read as photos of a camera.
"""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from joblib import Parallel, delayed
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.files import read_json, write_json

PHOTO = (640, 480)
NOISE = 4.0  # grey levels
NEW = 20  # one new photo for so many
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
PART = 500  # photos that one call encodes


def deliver(source: Path, count: int, folder: Path, label: str, truth: str, seed: int = 0) -> Path:
    """Write `count` photos to `folder`/first and `count` / 20 others to `folder`/new, once; returns `folder`.

    `source`: Parquet with the columns image and label. Labels of train and val are `label`'s, those of test `truth`'s.
    Raises DataError if it has too few rows.
    """
    about = {"source": source.name, "count": count, "label": label, "truth": truth, "seed": seed}
    done = folder / "delivered.json"
    if done.is_file() and read_json(done) == about:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    file = pq.ParquetFile(source)
    wanted = count + count // NEW
    if file.metadata.num_rows < wanted:
        raise DataError(f"{source} has {file.metadata.num_rows} images, {wanted} are needed: ask for fewer --photos")
    rng = np.random.default_rng(seed)
    rows = rng.choice(file.metadata.num_rows, wanted, replace=False)
    splits = rng.choice(list(SHARES), wanted, p=list(SHARES.values()))
    table = file.read(columns=sorted({"image", label, truth})).take(rows)
    labels = {name: table[name].to_pylist() for name in {label, truth}}
    targets = [
        folder / ("first" if number < count else "new") / split / labels[truth if split == "test" else label][number]
        for number, split in enumerate(splits)
    ]
    for target in set(targets):
        target.mkdir(parents=True, exist_ok=True)
    encoded = table["image"].combine_chunks().field("bytes")
    Parallel(n_jobs=-1 if wanted > PART else 1)(
        delayed(_write)(
            [targets[n] / f"{rows[n]:05d}.jpg" for n in part], [encoded[n].as_py() for n in part], rows[part]
        )
        for part in np.array_split(np.arange(wanted), max(1, wanted // PART))
    )
    write_json(done, about)
    return folder


def _write(files: list[Path], encoded: list[bytes], seeds: np.ndarray) -> None:
    for file, data, seed in zip(files, encoded, seeds, strict=True):
        file.write_bytes(photo(data, int(seed)))


def photo(data: bytes, seed: int) -> bytes:
    """`data` as a JPEG, at least as large as a photo."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.width < PHOTO[0]:
        large = np.asarray(image.resize(PHOTO, Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(seed).standard_normal(large.shape[:2], np.float32)[..., None] * NOISE
        image = Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
