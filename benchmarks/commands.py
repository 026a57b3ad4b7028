"""How long do the README's two commands take in a fresh clone, without set-up, and what does the demo's loop gain?

    python -m benchmarks.commands [demo] [test] [elpv] [--quick]

Clones this checkout's HEAD into an empty folder and runs `make setup`. Then it times `make demo` and `make test` there,
and `make demo DATA=elpv` if `elpv` is named. Expected on two free cores: demo_minutes at most 8, of which at most 5 up
to the refused batch (demo_training_minutes); test_minutes at most 10.

The demo's own record gives two more figures. first_shift_to_retrain_s is the time from the first image of the changed
camera to a running retraining, labelling included. accuracy_recovered_points is new model minus old on unlabelled
traffic of that camera (elpv: polycrystalline cells). A quick pass only clones and checks that the targets exist.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import FOLDER, Figure, report
from flows.repo.git import git
from tasks.common.files import read_json

ROOT = Path(__file__).resolve().parent.parent
MAKE = {"demo": ("demo",), "test": ("test",), "elpv": ("demo", "DATA=elpv")}


def make(clone: Path, *arguments: str) -> float:
    """Minutes that `make` takes in `clone`; its output goes to the terminal."""
    start = time.perf_counter()
    done = subprocess.run(["make", *arguments], cwd=clone, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"make {' '.join(arguments)} ended with {done.returncode} in a fresh clone")
    return (time.perf_counter() - start) / 60


def play(clone: Path, target: str) -> tuple[float, dict]:
    """(minutes that a demo takes in `clone`, the record it wrote); then stops its services."""
    minutes = make(clone, *MAKE[target])
    played = read_json(clone / ".demo/.evergreen/demo.json")
    subprocess.run([clone / ".venv/bin/evergreen", "down"], cwd=clone / ".demo", check=True)
    return minutes, played


def from_the_demo(target: str, minutes: float, played: dict) -> list[Figure]:
    """Figures of one demo; `played` is the record it wrote."""
    end = "" if target == "demo" else f"_{target}"
    before, after = played["accuracy_before"], played["accuracy_after"]
    training, waited = played["minutes_of_training_part"], played["first_shift_to_retrain_s"]
    return [
        Figure(name=f"demo_minutes{end}", value=minutes, unit="min", goal=None if end else 8, better="lower"),
        Figure(name=f"demo_training_minutes{end}", value=training, unit="min", goal=None if end else 5, better="lower"),
        Figure(name=f"first_shift_to_retrain_s{end}", value=waited, unit="s", goal=None, better="lower"),
        Figure(
            name=f"accuracy_recovered_points{end}",
            value=100 * (after - before),
            unit="points",
            goal=None,
            better="higher",
            peer=f"the model before: {before:.1%}",
            spread=f"{after:.1%} of {played['images_after']} images after",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*MAKE, []], default=[])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "evergreen"
        git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
        if not options.quick:
            make(clone, "setup")
        for target in options.targets or ("demo", "test"):
            if options.quick or target == "test":
                minutes = make(clone, *(["--dry-run"] if options.quick else []), *MAKE[target])
                figures.append(Figure(name=f"{target}_minutes", value=minutes, unit="min", goal=10, better="lower"))
            else:
                figures += from_the_demo(target, *play(clone, target))
    kept = FOLDER / "commands.json"
    if kept.is_file() and not options.quick:  # measuring one target keeps the figures of the other
        measured = {figure.name for figure in figures}
        older = [Figure(**{key: entry[key] for key in Figure.model_fields}) for entry in read_json(kept)]
        figures += [figure for figure in older if figure.name not in measured]
    report("commands", "python -m benchmarks.commands", figures, options.quick)


if __name__ == "__main__":
    main()
