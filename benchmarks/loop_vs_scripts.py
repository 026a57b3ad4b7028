"""Is the whole loop faster than what people would write themselves, at equal training time?

    python -m benchmarks.loop_vs_scripts SET KEPT [--photos 5000] [--label aggre] [--truth clean_label] [--side 64]
                                         [--rounds 1] [--only ARM ...] [--quick]

SET is Parquet with the columns image and label: CIFAR-10 with labels by people, enlarged to photos. Every arm gets the
same class folders {train,val,test}/<class>: first --photos, then 5 % more. It builds a model, answers the new photos
and reports their drift, takes them in with their labels and trains again. Resolution, split, pretrained weights and
training seconds are the same.

- ours: `evergreen ingest`, `retrain`, `score`, `monitor` with the params.yaml that `evergreen init` writes
- a: torchvision's ImageFolder, timm, cleanlab on five trained folds, Great Expectations, Evidently and DVC in a Prefect
  flow; b: the same with frozen features for the folds, photos and features cached by file
- c: our stages as plain `dvc repro`, with a release and a drift report by a script

The peers' code is in benchmarks/scripts_peers/. Prefect's servers are up before the clock starts, and nothing else may
run. `loop_vs_best_script_ratio`: wall time from the first delivery to a model and a drift report.
`retrain_vs_best_script_ratio`: wall time from the new photos to the start of training. Both over the best peer's.
Each arm's result is one file in KEPT: a run that was stopped goes on where it was, other sizes join the figures.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.loops.arms import ARMS, Work, measure
from benchmarks.loops.figures import Results, figures_of, loop_seconds
from benchmarks.loops.photos import deliver
from benchmarks.record import report
from benchmarks.scratch import say
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json

QUICK_PHOTOS, QUICK_SIDE = 600, 32  # every class in each split, and new photos enough for the monitor
QUICK = {
    "train_backbone": {"epochs": {"frozen": 0, "last": 0, "all": 1}, "threads": 1},
    "evaluate": {"corruptions": ["dark"], "corruption_images": 20, "latency_runs": 3},
    "bundle": {"reference_rows": 40},
    "gate": {
        "first_model": {"test.balanced_accuracy": 0.0},
        "max_ece": 1.0,
        "min_corruption_kept": 0.0,
        "resamples": 200,
    },
}


def training_seconds(kept: Path, photos: int) -> list[float]:
    """Seconds that ours trained in build and retrain: what every peer gets. Raises EvergreenError without a result."""
    files = sorted(kept.glob(f"ours-{photos}-*.json"))
    if not files:
        raise EvergreenError(f"{kept} has no result of ours with {photos} photos: measure ours first, it sets the time")
    found = min((read_json(file) for file in files), key=loop_seconds)
    return [found[phase]["training"] for phase in ("build", "retrain")]


def kept_results(kept: Path) -> dict[int, Results]:
    """Number of photos -> arm -> the results in `kept`."""
    found: dict[int, Results] = {}
    for arm in ARMS:
        for file in sorted(kept.glob(f"{arm}-*-*.json")):
            found.setdefault(int(file.stem.split("-")[1]), {}).setdefault(arm, []).append(read_json(file))
    return {count: results for count, results in found.items() if "ours" in results}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path, help="Parquet file with image and label")
    parser.add_argument("kept", type=Path, help="folder for deliveries and one result per arm, size and round")
    parser.add_argument("--photos", type=int, default=5_000)
    parser.add_argument("--label", default="aggre", help="column of the labels to train on")
    parser.add_argument("--truth", default="clean_label", help="column of the labels of test")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ARMS, help="measure these alone")
    parser.add_argument("--quick", action="store_true", help="few small photos, one epoch; records nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.kept /= "quick"
    count, side = (min(options.photos, QUICK_PHOTOS), QUICK_SIDE) if options.quick else (options.photos, options.side)
    photos = deliver(options.set, count, options.kept / f"photos-{count}", options.label, options.truth)
    work = Work(photos.resolve(), side, QUICK if options.quick else {})
    arms = options.only or list(ARMS)
    for number in range(options.rounds):
        for arm in arms:
            file = options.kept / f"{arm}-{count}-{number}.json"
            if file.is_file():
                say(f"{arm}, {count} photos, round {number}: kept")
                continue
            seconds = [] if arm == "ours" else training_seconds(options.kept, count)
            # not in KEPT: `make bench` has it in this checkout, where `evergreen init` makes no project
            with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
                write_json(file, measure(arm, Path(folder) / "work", work, seconds))
    command = "python -m benchmarks.loop_vs_scripts cifar10n-train.parquet KEPT"
    command += f" --only {' '.join(options.only)}" if options.only else ""
    report("loop_vs_scripts", command, figures_of(kept_results(options.kept)), options.quick)


if __name__ == "__main__":
    main()
