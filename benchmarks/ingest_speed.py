"""What does taking images in cost, beside only decoding them?

    python -m benchmarks.ingest_speed [--rounds N] [--quick]

- ingest_vs_decode_ratio: images a CPU second of `ingest` and `inspect` (two readings, two hashes, measures, near
  duplicates, splits, shards, children to decode in) over those of a bare loop of Pillow's `Image.open(f).load()` on
  the same files: 400 JPEGs of 1200 x 900 (quality 90), patchworks of parts of scikit-learn's two photos.
- ingest_small_images_per_second: images a CPU second of `ingest` and `inspect` on 28 x 28 PNGs.

CPU seconds are those of a whole process tree, user and system, so a busy machine or more cores do not flatter or
harm them; inspect.workers is 1. Of each kind all and a quarter are run, and the rate is that of the images between:
the start of interpreters and the first use of memory, two seconds, do not count (they do in the second ratio). Peers
alternate, each run is a fresh process with a fresh project; a shared core's other thread can double the CPU seconds
of a run, so each kind's least of all rounds is taken. Expected: a ratio of about 0.7; 2 minutes on 2 cores.
"""

import argparse
import importlib.util
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.processes import ROOT, python
from benchmarks.record import Figure, report
from benchmarks.scratch import say

FEW = 4  # a quarter fills a row group already: the memory of a writer is taken once

DECODE = """
import sys
from pathlib import Path
from PIL import Image
for file in sorted(Path(sys.argv[1]).glob("*/*"))[: int(sys.argv[2])]:
    Image.open(file).load()
"""

TAKE_IN = """
import sys
from pathlib import Path
from tasks import ingest, inspect
from tasks.params import load_params
params, root = load_params(sys.argv[1]), Path(sys.argv[3])
settings = params.inspect.model_copy(update={"workers": 1})
taken = ingest.ingest(root, Path(sys.argv[2]), data=params.data, images=params.images, inspect=settings).taken
inspect.run(root, images=params.images, inspect=settings)
print(taken)
"""


def photos(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` different JPEGs of 1200 x 900 in two class folders of `folder`: six parts of real photos each, in
    their own resolution (enlarged ones would hold less detail, and decode faster, than a photo)."""
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
    """`count` different grey PNGs of 28 x 28 in two class folders of `folder`, parts of a photo made small."""
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


def take_in(source: Path, images: int) -> float:
    """CPU seconds of ingest and inspect of the `images` files of `source` in an empty project."""
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as project:
        used = python(TAKE_IN, ROOT / "params.yaml", source, project)
    offered = sum(1 for file in source.glob("*/*") if file.is_file())
    if int(used.output.split()[-1]) < 0.95 * images or offered != images:
        raise SystemExit(f"{source}: {images} images expected, {offered} offered, taken: {used.output}")
    return used.cpu


def rate(whole: float, part: float, images: int, in_part: int) -> float:
    """Images a CPU second, by two runs: `whole` seconds for `images`, `part` seconds for `in_part` of them."""
    return (images - in_part) / max(whole - part, 1e-9)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, one round; checks the script")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    big, small, rounds = (24, 480, 1) if options.quick else (400, 4000, options.rounds)
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        say(f"making {big} photos and {small} thumbnails")
        sets = {
            "photos": (photos(Path(folder, "photos"), big), big),
            "few photos": (photos(Path(folder, "few-photos"), big // FEW, seed=1), big // FEW),
            "thumbnails": (thumbnails(Path(folder, "thumbnails"), small), small),
            "few thumbnails": (thumbnails(Path(folder, "few-thumbnails"), small // FEW, seed=1), small // FEW),
        }
        size = sum(file.stat().st_size for file in sets["photos"][0].glob("*/*")) / big
        python(DECODE, sets["few photos"][0], big)  # bytecode and file cache
        take_in(*sets["few photos"])
        runs: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds):
            for name, (source, images) in sets.items():
                runs[name].append(take_in(source, images))
                if name.endswith("photos"):
                    runs[name.replace("photos", "decode")].append(python(DECODE, source, images).cpu)
            say(f"round {number + 1}: " + ", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in runs.items()))
    peer = f"Pillow's open and load in a loop, {big} JPEGs of 1200 x 900, {size / 1000:.0f} kB each"
    report("ingest_speed", "python -m benchmarks.ingest_speed", figures_of(runs, big, small, peer), options.quick)


def figures_of(runs: dict[str, list[float]], big: int, small: int, peer: str) -> list[Figure]:
    """`runs`: CPU seconds of each kind of run, round by round; "few ..." is of one in FEW images."""

    def rates(name: str, images: int) -> list[float]:
        """By the least seconds of all rounds, then round by round (with the least of the few)."""
        whole, part = runs[name], min(runs[f"few {name}"])
        return [rate(seconds, part, images, images // FEW) for seconds in (min(whole), *whole)]

    ours, bare, thumbs = rates("photos", big), rates("decode", big), rates("thumbnails", small)
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    started = [min(runs["decode"]) / min(runs["photos"])]
    started += [b / a for a, b in zip(runs["photos"], runs["decode"], strict=True)]
    best = f"; best {ours[0]:.0f} / {bare[0]:.0f} images a CPU second"
    return [
        figure("ingest_vs_decode_ratio", ratios, "x", 0.7, peer, best),
        figure("ingest_vs_decode_with_start_ratio", started, "x", None, f"{peer}, process starts counted"),
        figure("ingest_small_images_per_second", thumbs, "images/CPU s", None, f"none; {small} PNGs of 28 x 28"),
    ]


def figure(name: str, values: list[float], unit: str, goal: float | None, peer: str, more: str = "") -> Figure:
    """`values`: by the least CPU seconds of all rounds, then round by round. Higher is better."""
    rounds = values[1:]
    spread = f"single rounds {min(rounds):.3g} to {max(rounds):.3g} of {len(rounds)}{more}"
    return Figure(name=name, value=values[0], unit=unit, goal=goal, better="higher", peer=peer, spread=spread)


if __name__ == "__main__":
    main()
