"""Does peak memory grow with the data set?

    python -m benchmarks.peak_memory [FASHION_MNIST] [--quick]

Takes 2,000 and 20,000 images of Fashion-MNIST's training part through ingest, inspect, validate, embed and clean
(training works in batches), each in its own process. It samples the memory of each process tree, decoding children
included: the sum over its processes, with shared pages counted once and pages of mapped files counted while resident.
FASHION_MNIST is the folder with its idx.gz files (default: where Debian's package dataset-fashion-mnist installs
them).

`peak_memory_growth_10x` is the highest peak of the steps with 20,000 images over the highest with 2,000. Expected: at
most 1.2; about 4 minutes on 2 cores.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fashion_mnist import source_argument, write_manifest
from benchmarks.incremental import INGEST
from benchmarks.processes import ROOT, Usage, python
from benchmarks.record import Figure, report
from benchmarks.scratch import say

STEPS = ("ingest", "inspect", "validate", "embed", "clean")
QUICK_STEPS = STEPS[:2]  # a quick pass skips the steps that import Great Expectations and torch
STAGE = """import sys
from pathlib import Path
from tasks.stages.runner import run_stage
run_stage(sys.argv[2], Path(sys.argv[1]))
"""


def project(folder: Path) -> Path:
    """An empty project with this checkout's parameters."""
    folder.mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "tombstones.json").write_text("{}\n")
    return folder


def measure(root: Path, manifest: Path, steps: Sequence[str]) -> dict[str, Usage]:
    """What each of `steps` uses in the empty project at `root`."""
    used = {}
    for step in steps:
        code, argument = (INGEST, manifest) if step == "ingest" else (STAGE, step)
        used[step] = python(code, root, argument, sample=True)
        say(
            f"  {step}: {mb(used[step].tree)} (private {mb(used[step].tree_private)}, largest process "
            f"{mb(used[step].largest)}), {used[step].wall:.0f} s"
        )
    return used


def mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source_argument(parser)
    parser.add_argument("--quick", action="store_true", help="a few hundred images; checks the script")
    options = parser.parse_args(arguments)
    few = 150 if options.quick else 2_000
    steps = QUICK_STEPS if options.quick else STEPS
    found = []
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        for count in (few, 10 * few):
            say(f"{count} images")
            manifest = write_manifest(Path(folder, f"{count}.parquet"), 0, count, options.fashion_mnist)
            found.append(measure(project(Path(folder, str(count))), manifest, steps))
    report("peak_memory", "python -m benchmarks.peak_memory", figures_of(*found, few), options.quick)


def figures_of(less: dict[str, Usage], more: dict[str, Usage], few: int) -> list[Figure]:
    """Growth of the highest peak, and of each step's."""

    def growth(name: str, before: float, after: float, goal: float | None, peer: str, spread: str) -> Figure:
        value = after / before
        return Figure(name=name, value=value, unit="x", goal=goal, better="lower", peer=peer, spread=spread)

    def highest(used: dict[str, Usage], kind: str) -> tuple[str, int]:
        return max(((step, getattr(usage, kind)) for step, usage in used.items()), key=lambda pair: pair[1])

    figures = []
    for name, kind, goal in (
        ("peak_memory_growth_10x", "tree", 1.2),
        ("peak_private_memory_growth_10x", "tree_private", None),
        ("peak_largest_process_growth_10x", "largest", None),
    ):
        (step, before), (other, after) = highest(less, kind), highest(more, kind)
        spread = f"{mb(before)} in {step}, {mb(after)} in {other}"
        figures.append(growth(name, before, after, goal, f"{10 * few} against {few} images of 28 x 28", spread))
    for step in less:
        before, after = less[step], more[step]
        spread = f"{mb(before.tree)}, {mb(after.tree)}; private {mb(before.tree_private)}, {mb(after.tree_private)}"
        goal = 1.2 if step in ("inspect", "clean") else None
        figures.append(growth(f"peak_memory_growth_{step}", before.tree, after.tree, goal, "", spread))
    return figures


if __name__ == "__main__":
    main()
