"""What do the stages before training cost after 5 % new images, compared with starting from scratch?

    python -m benchmarks.incremental [FASHION_MNIST] [--rounds N] [--quick]

20,000 images are ingested and inspected, validated, embedded and cleaned. Then 1,000 more are ingested (timed
separately) and the four stages run again, in one fresh process, as in a retrain. From scratch is the same on the same
21,000 images with every cache empty. Rounds alternate between the two and start from the same files. The images are
articles of Fashion-MNIST's training part, as photos in front of a background (640 x 480 JPEGs) and as they are (28 x 28
PNGs). FASHION_MNIST is the folder with its idx.gz files (default: where Debian's package dataset-fashion-mnist
installs them).

The ratios are of wall times and include starting interpreters and importing libraries. For each kind the shortest of
all rounds counts, since other work on the machine only adds time. The cost after new images is mostly fixed (imports)
or depends on all rows (`clean`). So the ratio falls as images become more expensive to decode and
more numerous: `incremental_pretrain_ratio` is of the photos, `incremental_pretrain_ratio_28px` of the thumbnails.
Expected: 0.2 and 0.4; about 10 minutes on 2 cores.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import numpy as np

from benchmarks.fashion_mnist import photo, png, source_argument, write_manifest
from benchmarks.processes import python
from benchmarks.record import Figure, report
from benchmarks.scratch import say, scratch_project

Encode = Callable[[np.ndarray, int], bytes]
STAGES = ("inspect", "validate", "embed", "clean")
QUICK_STAGES = STAGES[:2]  # a quick pass skips the stages that import torch
RUN = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from flows.startup import collect_less_garbage
from tasks.stages.runner import run_stage
collect_less_garbage()
for name in sys.argv[2:]:
    run_stage(name, Path(sys.argv[1]))
    print("seconds", name, time.perf_counter() - start)
    start = time.perf_counter()
"""
INGEST = """
import sys
from pathlib import Path
from tasks.ingest.batch import ingest
from tasks.common.params import load_params
root = Path(sys.argv[1])
params = load_params(root / "params.yaml")
print(ingest(root, Path(sys.argv[2]), data=params.data, images=params.images, inspect=params.inspect).taken)
"""


def copy(project: Path, to: Path) -> Path:
    """A copy of `project` by hard links: Evergreen never writes into an existing file."""
    return shutil.copytree(project, to, copy_function=os.link)


def forget(project: Path) -> None:
    """Delete everything that a fresh clone does not have; keep data/, parameters and tombstones."""
    for name in (".evergreen", "artifacts", "metrics"):
        shutil.rmtree(project / name)


def run(project: Path, what: str, stages: Sequence[str] = STAGES) -> tuple[float, dict[str, float]]:
    """Wall seconds of the stages in one fresh process: in all, and of each (its imports included)."""
    used = python(RUN, project, *stages)
    lines = [line.split() for line in used.output.splitlines() if line.startswith("seconds ")]
    seconds = {name: float(value) for _, name, value in lines}
    say(f"{what}: {used.wall:.1f} s ({listed(seconds)})")
    return used.wall, seconds


def listed(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())


@dataclass
class Rounds:
    """(wall seconds, per stage) after new images and from scratch, and wall seconds of ingesting the new images."""

    old: int
    new: int
    size: float  # mean bytes per image
    warm: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    cold: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    ingest: list[float] = field(default_factory=list)


def measure(encode: Encode, old: int, source: Path | None, rounds: int, stages: Sequence[str], quick: bool) -> Rounds:
    new = old // 20
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as name:
        folder = Path(name)
        say(f"making {old + new} images")
        first = write_manifest(folder / "first.parquet", 0, old, source, encode)
        batch = write_manifest(folder / "batch.parquet", old, new, source, encode)
        found = Rounds(old, new, first.stat().st_size / old)
        say(f"ingesting {old} images of {found.size / 1000:.1f} kB")
        before = scratch_project(folder / "before", first, {"images": {"resolution": 32}} if quick else None)
        first.unlink()
        run(before, f"the first {old} images", stages)
        for number in range(rounds):
            project = copy(before, folder / f"round-{number}")
            found.ingest.append(python(INGEST, project, batch).wall)
            found.warm.append(run(project, f"{new} new images", stages))
            forget(project)
            found.cold.append(run(project, f"{old + new} images from scratch", stages))
            shutil.rmtree(project)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source_argument(parser)
    parser.add_argument("--quick", action="store_true", help="a few hundred images, one round; checks the script")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    old, rounds, stages = (600, 1, QUICK_STAGES) if options.quick else (20_000, options.rounds, STAGES)
    figures, kinds = [], (("", 0.2, photo), ("_28px", None, png))
    for suffix, goal, encode in kinds[1:] if options.quick else kinds:
        found = measure(encode, old, options.fashion_mnist, rounds, stages, options.quick)
        figures += figures_of(found, suffix, goal)
    report("incremental", "python -m benchmarks.incremental", figures, options.quick)


def figures_of(found: Rounds, suffix: str, goal: float | None) -> list[Figure]:
    ratios = [a[0] / b[0] for a, b in zip(found.warm, found.cold, strict=True)]
    (seconds, stages), (all_seconds, all_stages) = (min(runs, key=itemgetter(0)) for runs in (found.warm, found.cold))
    what = f"{found.old} images of {found.size / 1000:.1f} kB, then {found.new} more"
    return [
        Figure(
            name=f"incremental_pretrain_ratio{suffix}",
            value=seconds / all_seconds,
            unit="x",
            goal=goal,
            better="lower",
            peer=f"the same stages from empty caches; {what}",
            spread=f"{seconds:.1f} s / {all_seconds:.1f} s; single rounds {min(ratios):.3f} to {max(ratios):.3f} of "
            f"{len(ratios)}; stages {listed(stages)} s / {listed(all_stages)} s",
        ),
        Figure(
            name=f"incremental_ingest{suffix}_s",
            value=min(found.ingest),
            unit="s",
            goal=None,
            better="lower",
            peer=f"none; {what}, a whole process",
            spread=f"max {max(found.ingest):.1f} of {len(ratios)}",
        ),
    ]


if __name__ == "__main__":
    main()
