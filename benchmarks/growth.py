"""How do the seconds and the memory of the stages before training grow with the data set?

    python -m benchmarks.growth [--minutes M] [--quick]

Data sets of 1,000, 10,000, ... images (8 x 8 PNGs of 10 classes) go through ingest, inspect, validate and clean, each
step in its own process. Their features (256 numbers an image) are drawn and put into the cache where stage `embed`
would put them, because a network costs the same for each image. After
100,000 images, 1,000,000 follow if `--minutes` allow.

`growth_<step>_exponent` is the slope of log CPU seconds over log images between the two largest sizes: 1 is linear.
The smallest size is taken off both, and with it start and imports. `growth_<step>_bytes` is the memory for each further
image there. Expected: exponents of at most 1.1; about 30 minutes to 1,000,000 images on 2 cores.
"""

import argparse
import io
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.incremental import INGEST
from benchmarks.peak_memory import STAGE, mb, project
from benchmarks.processes import Usage, python
from benchmarks.record import Figure, report
from benchmarks.scratch import change_params, say
from tasks.backbones.features import feature_file, feature_folder
from tasks.common.params import load_params
from tasks.common.sealed import sealed_path
from tasks.dataset.pixels import npy_header
from tasks.dataset.shards import live_shards, read_columns
from tasks.models.pretrained import network_key

STEPS = ("ingest", "inspect", "validate", "clean")
QUICK_STEPS = STEPS[:2]
CLASSES, DIMENSIONS, BLOCK = 10, 256, 10_000
SIZES, QUICK_SIZES = (1_000, 10_000, 100_000, 1_000_000), (150, 300, 600)
Found = dict[int, dict[str, Usage]]  # images -> step -> what it uses
SETTINGS = {
    "images": {"resolution": 32},
    "embed": {"backbone": "test_efficientnet"},
    "validate": {
        "expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "width", "min_value": 8}}]
    },
}


def images(count: int) -> Iterator[pa.Table]:
    """Tables of images and labels; each image is another one, and no two are near-duplicates by chance."""
    rng = np.random.default_rng(0)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        pixels, labels = rng.integers(0, 256, (rows, 8, 8, 3), np.uint8), rng.integers(0, CLASSES, rows)
        encoded = [_png(one) for one in pixels]
        yield pa.table(
            {
                "image": pa.array([{"bytes": one, "path": None} for one in encoded]),
                "label": pa.array([f"class-{number}" for number in labels]),
            }
        )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def write_images(file: Path, count: int) -> Path:
    writer = None
    for table in images(count):
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    writer.close()
    return file


def plant_features(root: Path) -> None:
    """Put features into the cache, as if `embed` had run: classes that overlap, so that `clean` has work to do."""
    params = load_params(root / "params.yaml")
    folder = feature_folder(root, params.images, network_key(params.embed))
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(CLASSES, DIMENSIONS)).astype(np.float32) * 0.3
    for shard in live_shards(root / "data"):
        labels = read_columns(shard.path, ["label"])["label"].to_pylist()
        numbers = np.array([int(label.removeprefix("class-")) for label in labels])
        wrong = rng.random(len(numbers)) < 0.05  # so that `clean` has repairs to prove at every size
        numbers[wrong] = rng.integers(0, CLASSES, wrong.sum())
        with sealed_path(feature_file(folder, shard.name)) as temporary, open(temporary, "wb") as out:
            npy_header(out, np.float16, (len(numbers), DIMENSIONS))
            for start in range(0, len(numbers), BLOCK):
                part = numbers[start : start + BLOCK]
                noise = rng.standard_normal((len(part), DIMENSIONS), np.float32)
                out.write((centres[part] + noise).astype(np.float16).data)


def measure(root: Path, count: int, steps: tuple[str, ...]) -> dict[str, Usage]:
    """What each of `steps` uses for `count` images, in an empty project at `root`."""
    project(root)
    change_params(root, SETTINGS)
    manifest = write_images(root.with_suffix(".parquet"), count)
    used = {}
    for step in steps:
        if step == "clean":
            plant_features(root)
        code, argument = (INGEST, manifest) if step == "ingest" else (STAGE, step)
        used[step] = python(code, root, argument, sample=True)
        one = used[step]
        say(f"  {step}: {one.wall:.1f} s, {one.cpu:.1f} s of CPU, {mb(one.tree)}")
    manifest.unlink()
    return used


def measure_sizes(folder: Path, sizes: Sequence[int], seconds: float, steps: tuple[str, ...]) -> Found:
    """Images -> what each step uses, of three sizes at least; of more while `seconds` allow."""
    found: Found = {}
    end = time.monotonic() + seconds
    for number, count in enumerate(sizes):
        start = time.monotonic()
        say(f"{count:,} images")
        found[count] = measure(folder / str(count), count, steps)
        took = time.monotonic() - start
        if 2 <= number < len(sizes) - 1 and 12 * took > end - time.monotonic():
            say(f"{sizes[number + 1]:,} images would take longer than what is left")
            break
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=45, help="no 1,000,000 images if they would end later")
    parser.add_argument("--quick", action="store_true", help="a few hundred images; checks the script")
    options = parser.parse_args(arguments)
    steps, sizes = (QUICK_STEPS, QUICK_SIZES) if options.quick else (STEPS, SIZES)
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        found = measure_sizes(Path(folder), sizes, 60 * options.minutes, steps)
    report("growth", "python -m benchmarks.growth", figures_of(found), options.quick)


def figures_of(found: Found) -> list[Figure]:
    """Exponent and bytes of each step between the two largest sizes, from `measure_sizes`."""
    least, less, more = min(found), *sorted(found)[-2:]
    figures = []
    for step in found[more]:
        cpu = {count: used[step].cpu for count, used in found.items()}
        before, after = (max(cpu[count] - cpu[least], 0.01) for count in (less, more))
        sizes = ", ".join(f"{count:,}: {used[step].wall:.1f} s, {mb(used[step].tree)}" for count, used in found.items())
        figures.append(
            Figure(
                name=f"growth_{step}_exponent",
                value=math.log(after / before) / math.log((more - least) / (less - least)),
                unit="",
                goal=1.1,
                better="lower",
                peer=f"CPU of {more:,} against {less:,} images: {cpu[more]:.1f} s, {cpu[less]:.1f} s",
                spread=sizes,
            )
        )
        figures.append(
            Figure(
                name=f"growth_{step}_bytes",
                value=(found[more][step].tree - found[less][step].tree) / (more - less),
                unit="bytes an image",
                goal=None,
                better="lower",
                peer=f"peak memory of {more:,} against {less:,} images",
            )
        )
    return figures


if __name__ == "__main__":
    main()
