"""Would judging training labels again, with the trained network's features, help the head?

    python -m benchmarks.judge_again KEPT [--seeds 1] [--quick]

Runs on datasets/fashion with its wrong labels (8 % of train), cleaning off. train_backbone fine-tunes the network on
the labels as given. Then the training labels are judged twice: with the pretrained features, as stage `clean` does it,
and with the network's own stage-1 features. Figures, of the stage-1 judgement with the pretrained one as peer:

- judge_again_auroc: how well the judgement ranks wrong training labels below right ones
- judge_again_noise_found: the noise that the labels bear out (plausible_noise) over the true noise
- judge_again_head_points: balanced accuracy (test, true labels) that a head on stage-1 features gains when all labels
  that look wrong are left out

Training rows are in-sample: the network has been fitted to their labels. Expected: a better ranking, but no evidence
of noise (0), because the network agrees with the labels that it was fitted to; and a smaller gain for the head. So
there is no second judgement between train_backbone and train_head. The trained features are kept in KEPT; about
4 CPU minutes a seed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.calibration import QUICK
from benchmarks.cleaning import score
from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, change_params, run_stages, scratch_project, small_set
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.files import atomic_path
from tasks.common.params import load_params
from tasks.dataset.shards import group_keys
from tasks.models.pretrained import pretrained_features
from tasks.models.stage1 import stage1_features
from tasks.scoring.targets import encode
from tasks.stages.clean.judge import judge_training
from tasks.stages.runner import run_stage

KINDS = ("stage1", "pretrained")


def train(seed: int, file: Path, quick: bool) -> None:
    """Fine-tune on the labels as given and write features, labels and truth of train and test to `file`."""
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        source = {"source": small_set(Path(folder) / "small.parquet", divisor=8)} if quick else {}
        project = scratch_project(Path(folder) / "project", changes=QUICK if quick else {}, **source)
        change_params(project, {"clean": {"max_changed_share": 0.0}, "train_backbone": {"seed": seed}})
        run_stages(project, "inspect", "validate", "embed", "clean")
        run_stage("train_backbone", project)
        params, (classes, task), found = load_params(project / "params.yaml"), classes_and_task(project), {}
        truth = dict(zip(*pq.read_table(FASHION / "truth.parquet").to_pydict().values(), strict=True))
        about = pq.read_table(project / "artifacts/inspect/samples.parquet", columns=["id", "group", "cluster"])
        for split in ("train", "test"):
            rows = training_rows(project)[split]
            place = pc.index_in(rows["id"], about["id"])
            found |= {
                f"stage1_{split}": stage1_features(project, rows, params.images)[:],
                f"pretrained_{split}": pretrained_features(project, rows, embed=params.embed, images=params.images)[:],
                f"given_{split}": encode(rows["label"], classes, task),
                f"true_{split}": encode([truth[i] for i in rows["id"].to_pylist()], classes, task),
                f"groups_{split}": group_keys(pa.table(about.take(place))),
            }
        with atomic_path(file) as temporary, open(temporary, "wb") as out:
            np.savez(out, **found)


def measure(file: Path) -> dict[str, dict[str, float]]:
    """Figures of both judgements of the training labels in `file`."""
    from sklearn.metrics import roc_auc_score

    data = np.load(file)
    given, true, groups = data["given_train"], data["true_train"], data["groups_train"]
    classes, found = int(given.max()) + 1, {}
    heads = {name: data[f"stage1_{name}"].astype(np.float32) for name in ("train", "test")}
    plain = score(heads["train"], given, heads["test"], data["true_test"], classes)
    for kind in KINDS:
        x = data[f"{kind}_train"].astype(np.float32)
        judged = judge_training(x, given, [str(k) for k in range(classes)], groups, groups, 5, 0)
        kept = ~judged.suspicion.is_issue
        kept |= ~np.isin(given, given[kept])  # no class goes as a whole
        found[kind] = {
            "auroc": float(roc_auc_score(given != true, -judged.suspicion.quality)),
            "noise_found": float((1 - judged.proven.quality).mean() / (given != true).mean()),
            "head_points": score(heads["train"][kept], given[kept], heads["test"], data["true_test"], classes) - plain,
        }
    return found


def figures_of(results: list[dict[str, dict[str, float]]]) -> list[Figure]:
    figures = []
    for name, unit in (("auroc", ""), ("noise_found", "of the true noise"), ("head_points", "points")):
        mine, peer = ([one[kind][name] for one in results] for kind in KINDS)
        figures.append(
            Figure(
                name=f"judge_again_{name}",
                value=float(np.mean(mine)),
                unit=unit,
                goal=None,
                better="higher",
                peer=f"pretrained features {np.mean(peer):.3f}",
                seeds=len(results),
                spread="each seed " + ", ".join(f"{value:.3f}" for value in mine),
            )
        )
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for the trained features")
    parser.add_argument("--seeds", type=int, default=1, help="trainings")
    parser.add_argument("--quick", action="store_true", help="an eighth of the images; records nothing")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(1 if options.quick else options.seeds):
        file = options.kept / f"judge-again-{'quick-' if options.quick else ''}{seed}.npz"
        if not file.is_file():
            train(seed, file, options.quick)
        results.append(measure(file))
    report(
        "judge_again",
        f"python -m benchmarks.judge_again KEPT --seeds {options.seeds}",
        figures_of(results),
        options.quick,
    )


if __name__ == "__main__":
    main()
