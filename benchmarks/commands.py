"""How long the README's two commands take in a fresh clone, set-up apart, and what the demo's loop gains.

    python -m benchmarks.commands [demo] [test] [--quick]

Clones this checkout's HEAD into an empty folder, runs `make setup`, then times `make demo` and `make test` there.
Expected on two free cores: demo_minutes at most 8, of which the part up to the refused batch at most 5
(demo_training_minutes); test_minutes at most 10. From the demo's own record: first_shift_to_retrain_s, from the first
image of the changed camera to a running retraining (labelling included), and accuracy_recovered_points, on traffic of
that camera which nobody labelled, new model minus old. A quick pass only clones and checks that both targets exist.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import FOLDER, Figure, report
from flows.git import git
from tasks.files import read_json

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"demo": 8.0, "test": 10.0}


def make(clone: Path, target: str, *options: str) -> float:
    """Minutes that `make target` takes in `clone`; its output goes to the terminal."""
    start = time.perf_counter()
    done = subprocess.run(["make", *options, target], cwd=clone, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"make {target} ended with {done.returncode} in a fresh clone")
    return (time.perf_counter() - start) / 60


def from_the_demo(played: dict) -> list[Figure]:
    """Figures that the demo wrote down itself."""
    before, after = played["accuracy_before"], played["accuracy_after"]
    return [
        Figure(
            name="demo_training_minutes", value=played["minutes_of_training_part"], unit="min", goal=5, better="lower"
        ),
        Figure(
            name="first_shift_to_retrain_s",
            value=played["first_shift_to_retrain_s"],
            unit="s",
            goal=None,
            better="lower",
        ),
        Figure(
            name="accuracy_recovered_points",
            value=100 * (after - before),
            unit="points",
            goal=None,
            better="higher",
            peer=f"the model before: {before:.1%}",
            spread=f"fashion: {after:.1%} of 250 images after",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*GOALS, []], default=[])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    targets = options.targets or list(GOALS)
    played: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "evergreen"
        git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
        if options.quick:
            minutes = {target: make(clone, target, "--dry-run") for target in targets}
        else:
            make(clone, "setup")
            minutes = {target: make(clone, target) for target in targets}
            if "demo" in minutes:
                played = read_json(clone / ".demo/.evergreen/demo.json")
                subprocess.run([clone / ".venv/bin/evergreen", "down"], cwd=clone / ".demo", check=True)
    figures = [
        Figure(name=f"{target}_minutes", value=value, unit="min", goal=GOALS[target], better="lower", peer="")
        for target, value in minutes.items()
    ]
    if played:
        figures += from_the_demo(played)
    kept = FOLDER / "commands.json"
    if kept.is_file() and not options.quick:  # one target measured alone leaves the other's figure
        measured = {figure.name for figure in figures}
        older = [Figure(**{key: entry[key] for key in Figure.model_fields}) for entry in read_json(kept)]
        figures += [figure for figure in older if figure.name not in measured]
    report("commands", "python -m benchmarks.commands", figures, options.quick)


if __name__ == "__main__":
    main()
