"""What does ingest cost, compared with only decoding the images?

    python -m benchmarks.ingest_speed [--rounds N] [--quick]

- ingest_vs_decode_ratio: images per CPU second of `ingest` and `inspect` (two readings, two hashes, measures,
  near-duplicates, splits, shards, child processes that decode), over those of a bare loop of Pillow's
  `Image.open(f).load()` on the same files: 400 JPEGs of 1200 x 900 (quality 90), patchworks of parts of scikit-learn's
  two photos.
- ingest_small_images_per_second: images per CPU second of `ingest` and `inspect` on 28 x 28 PNGs.

CPU seconds are those of a whole process tree, user and system. inspect.workers is 1, and all processes share one core:
two threads of one core would slow each other down, and only ingest's two processes would pay for it. A process ingests
the same images several times, each time into an empty project. The first time pays for imports and for first memory,
which a virtual machine gets from its host at up to a millisecond per photo; it counts only in the second ratio. Of the
other times in all rounds the fastest counts, for both peers. Expected: a ratio of about 0.8; 3 minutes on 2 cores.
"""

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.processes import ROOT, python
from benchmarks.record import Figure, report
from benchmarks.scratch import say

DECODE = """
import sys
from pathlib import Path
from PIL import Image
from benchmarks.processes import tree_cpu
for _ in range(int(sys.argv[2])):
    before = tree_cpu()
    for file in sorted(Path(sys.argv[1]).glob("*/*")):
        Image.open(file).load()
    print(tree_cpu() - before)
"""

TAKE_IN = """
import sys, tempfile
from pathlib import Path
from benchmarks.processes import tree_cpu
from tasks.ingest.batch import ingest
from tasks.stages import inspect
from tasks.common.params import load_params
source, params = Path(sys.argv[1]), load_params(sys.argv[3])
settings = params.inspect.model_copy(update={"workers": 1})
for _ in range(int(sys.argv[2])):
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as project:
        before = tree_cpu()
        report = ingest(Path(project), source, data=params.data, images=params.images, inspect=settings)
        inspect.run(Path(project), images=params.images, inspect=settings)
        print(tree_cpu() - before)
    assert report.offered == sum(file.is_file() for file in source.glob("*/*")), report
    assert report.taken >= 0.95 * report.offered, report
"""


def photos(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` different JPEGs of 1200 x 900 in two class folders of `folder`, each of six parts of real photos.

    The parts have their own resolution: enlarged ones would have less detail than a photo and decode faster.
    """
    images = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    sources = [Image.open(images / f"{name}.jpg").convert("RGB") for name in ("china", "flower")]
    rng = np.random.default_rng(seed)
    for number in range(count):
        canvas = Image.new("RGB", (1200, 900))
        for place in range(6):
            x, y = int(rng.integers(0, 41)), int(rng.integers(0, 128))
            part = sources[int(rng.integers(2))].crop((x, y, x + 600, y + 300))
            if rng.random() < 0.5:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            part = ImageEnhance.Brightness(part).enhance(float(rng.uniform(0.7, 1.3)))
            canvas.paste(part, (600 * (place % 2), 300 * (place // 2)))
        file = folder / f"class-{number % 2}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(file, quality=90)
    return folder


def thumbnails(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` different grey PNGs of 28 x 28 in two class folders of `folder`: reduced parts of a photo."""
    images = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    photo = Image.open(images / "china.jpg").convert("L")
    rng = np.random.default_rng(seed)
    for number in range(count):
        side = int(rng.integers(56, 200))
        x, y = int(rng.integers(0, photo.width - side)), int(rng.integers(0, photo.height - side))
        file = folder / f"class-{number % 2}" / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((x, y, x + side, y + side)).resize((28, 28)).save(file)
    return folder


@contextmanager
def one_core() -> Iterator[None]:
    """All processes started inside this context share one core (Linux)."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@dataclass
class Runs:
    """CPU seconds of one kind of work on `images` images."""

    images: int
    warm: list[float] = field(default_factory=list)  # of every pass except the first of a process
    whole: list[float] = field(default_factory=list)  # of the start and first pass of a process

    def add(self, passes: list[float], process: float) -> None:
        """Add a process that took `process` seconds, of which `passes` are its passes."""
        self.warm += passes[1:]
        self.whole.append(process - sum(passes[1:]))

    def rates(self) -> list[float]:
        """Images per CPU second of the warm passes, the best first."""
        return sorted((self.images / seconds for seconds in self.warm), reverse=True)


def measure(code: str, source: Path, passes: int, runs: Runs) -> None:
    used = python(code, source, passes, ROOT / "params.yaml")
    runs.add([float(line) for line in used.output.split()], used.cpu)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, one round; checks the script")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    big, small, rounds, passes = (24, 480, 1, 2) if options.quick else (400, 4000, options.rounds, 5)
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder, one_core():
        say(f"making {big} photos and {small} thumbnails")
        large, tiny = photos(Path(folder, "photos"), big), thumbnails(Path(folder, "thumbnails"), small)
        size = sum(file.stat().st_size for file in large.glob("*/*")) / big
        work = {"photos": (TAKE_IN, large), "decode": (DECODE, large), "thumbnails": (TAKE_IN, tiny)}
        runs = {"photos": Runs(big), "decode": Runs(big), "thumbnails": Runs(small)}
        for number in range(rounds):
            for name, (code, source) in work.items():
                measure(code, source, passes, runs[name])
            best = (f"{name} {1000 / of.rates()[0]:.2f}" for name, of in runs.items())
            say(f"round {number + 1}: least CPU milliseconds an image so far: {', '.join(best)}")
    peer = f"Pillow's open and load in a loop, {big} JPEGs of 1200 x 900, {size / 1000:.0f} kB each"
    figures = figures_of(runs["photos"], runs["decode"], runs["thumbnails"], peer)
    report("ingest_speed", "python -m benchmarks.ingest_speed", figures, options.quick)


def figures_of(ours: Runs, bare: Runs, small: Runs, peer: str) -> list[Figure]:
    """The figures; `ours` and `bare` are of the same images."""
    one, other = ours.rates(), bare.rates()
    middle = (
        f"middle pass {median(one):.0f} / {median(other):.0f}, best {one[0]:.0f} / {other[0]:.0f} images a CPU second"
    )
    starts = f"process starts and first memory counted, one pass of {ours.images} images"
    thumbs = small.rates()
    return [
        figure("ingest_vs_decode_ratio", one[0] / other[0], "x", 0.7, peer, middle),
        figure(
            "ingest_vs_decode_with_start_ratio", min(bare.whole) / min(ours.whole), "x", None, f"{peer}, {starts}", ""
        ),
        figure(
            "ingest_small_images_per_second",
            thumbs[0],
            "images/CPU s",
            None,
            f"none; {small.images} PNGs of 28 x 28",
            f"middle pass {median(thumbs):.0f}",
        ),
    ]


def figure(name: str, value: float, unit: str, goal: float | None, peer: str, spread: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, goal=goal, better="higher", peer=peer, spread=spread)


if __name__ == "__main__":
    main()
