"""What do the stages before training cost after 5 % new images, against starting from scratch?

    python -m benchmarks.incremental [FASHION_MNIST] [--rounds N] [--quick]

20,000 images of Fashion-MNIST's training part are ingested and inspected, validated, embedded and cleaned. Then
1,000 more are ingested (timed apart) and the four stages run again, in one fresh process as a retrain runs them.
From scratch is the same on the same 21,000 images with every cache empty. Rounds alternate the two, each starting
from the same files. FASHION_MNIST is the folder with its idx.gz files (default: where Debian's package
dataset-fashion-mnist puts them).

`incremental_pretrain_ratio` is the ratio of wall times, starts of interpreters and libraries included; of each kind
the shortest of all rounds, since others' work on the machine only ever adds. Expected: at most 0.2 (what is left is
importing torch, timm and Great Expectations); about 6 minutes on 2 cores.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from benchmarks.fashion_mnist import source_argument, write_manifest
from benchmarks.processes import python
from benchmarks.record import Figure, report
from benchmarks.scratch import say, scratch_project

STAGES = ("inspect", "validate", "embed", "clean")
QUICK_STAGES = STAGES[:2]  # a quick pass spares itself three starts of torch
RUN = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from flows import end_quickly
from tasks.stage import run_stage
end_quickly()
for name in sys.argv[2:]:
    run_stage(name, Path(sys.argv[1]))
    print("seconds", name, time.perf_counter() - start)
    start = time.perf_counter()
"""
INGEST = """
import sys
from pathlib import Path
from tasks.ingest import ingest
from tasks.params import load_params
root = Path(sys.argv[1])
params = load_params(root / "params.yaml")
print(ingest(root, Path(sys.argv[2]), data=params.data, images=params.images, inspect=params.inspect).taken)
"""


def copy(project: Path, to: Path) -> Path:
    """A copy of `project` by hard links: no code of ours ever writes into an existing file."""
    return shutil.copytree(project, to, copy_function=os.link)


def forget(project: Path) -> None:
    """Back to what a fresh clone has: data/, parameters, tombstones."""
    for name in (".evergreen", "artifacts", "metrics"):
        shutil.rmtree(project / name)


def run(project: Path, what: str, stages: Sequence[str] = STAGES) -> tuple[float, dict[str, float]]:
    """Wall seconds of the stages in one fresh process: all, and of each (its imports included)."""
    used = python(RUN, project, *stages)
    lines = [line.split() for line in used.output.splitlines() if line.startswith("seconds ")]
    seconds = {name: float(value) for _, name, value in lines}
    say(f"{what}: {used.wall:.1f} s ({listed(seconds)})")
    return used.wall, seconds


def listed(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source_argument(parser)
    parser.add_argument("--quick", action="store_true", help="a few hundred images, one round; checks the script")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    old, rounds = (600, 1) if options.quick else (20_000, options.rounds)
    new, stages = old // 20, QUICK_STAGES if options.quick else STAGES
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as name:
        folder = Path(name)
        first = write_manifest(folder / "first.parquet", 0, old, options.fashion_mnist)
        batch = write_manifest(folder / "batch.parquet", old, new, options.fashion_mnist)
        say(f"ingesting {old} images")
        before = scratch_project(folder / "before", first, {"images": {"size": 32}} if options.quick else None)
        run(before, f"the first {old} images", stages)
        warm, cold, taking = [], [], []
        for number in range(rounds):
            project = copy(before, folder / f"round-{number}")
            taking.append(python(INGEST, project, batch).wall)
            warm.append(run(project, f"{new} new images", stages))
            forget(project)
            cold.append(run(project, f"{old + new} images from scratch", stages))
            shutil.rmtree(project)
    ratios = [a[0] / b[0] for a, b in zip(warm, cold, strict=True)]
    (seconds, stages), (all_seconds, all_stages) = min(warm, key=itemgetter(0)), min(cold, key=itemgetter(0))
    figures = [
        Figure(
            name="incremental_pretrain_ratio",
            value=seconds / all_seconds,
            unit="x",
            goal=0.2,
            better="lower",
            peer=f"the same stages from empty caches; {old} images, then {new} more",
            spread=f"{seconds:.1f} s / {all_seconds:.1f} s; single rounds {min(ratios):.3f} to {max(ratios):.3f} of "
            f"{rounds}; stages {listed(stages)} s / {listed(all_stages)} s",
        ),
        Figure(
            name="incremental_ingest_s",
            value=min(taking),
            unit="s",
            goal=None,
            better="lower",
            peer=f"none; {new} images into {old}, a whole process",
            spread=f"max {max(taking):.1f} of {rounds}",
        ),
    ]
    report("incremental", "python -m benchmarks.incremental", figures, options.quick)


if __name__ == "__main__":
    main()
