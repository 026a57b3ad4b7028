"""How long do short commands take to start: `evergreen --help` and `evergreen --version`, warm?

    python -m benchmarks.startup [--before CHECKOUT] [--quick]

--before is the path of another checkout of Evergreen: both are measured in turns, in the same run, and the ratio is
reported. Expected: `evergreen --help` in at most 0.2 s; a few seconds in all.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.record import Figure, report

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 7


def seconds(checkout: Path, *arguments: str) -> float:
    """Wall time of the command line of `checkout` in a new process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", *arguments]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    checkouts = [ROOT, *([options.before.resolve()] if options.before else [])]
    taken: list[list[float]] = [[] for _ in checkouts]
    for number in range(3 if options.quick else ROUNDS + 1):
        for checkout, found in zip(checkouts, taken, strict=True):
            found.append(seconds(checkout, "--help"))
            if number == 0:
                found.clear()  # drop the first: it compiles and fills the page cache
    own = median(taken[0])
    spread = f"{min(taken[0]):.3f} to {max(taken[0]):.3f} of {len(taken[0])}"
    figures = [Figure(name="help_s", value=own, unit="s", goal=0.2, better="lower", spread=spread)]
    if options.before:
        before = median(taken[1])
        peer = f"the checkout before: {before:.3f} s"
        ratio = Figure(name="help_ratio", value=own / before, unit="x", goal=None, better="lower", peer=peer)
        figures.append(ratio)
    report("startup", "python -m benchmarks.startup", figures, options.quick)


if __name__ == "__main__":
    main()
