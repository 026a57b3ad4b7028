"""Is `clean`'s cut between right and wrong labels near the best, and does it scale?

    python -m benchmarks.label_cut KEPT [--probabilities FILE ...] [--cifar10n FILE] [--rows 1000000] [--quick]

Each FILE of `--probabilities` is a Parquet file with the columns given, true (class numbers) and probabilities (out of
sample, of any network). With --cifar10n the probabilities of a probe on the frozen backbone's features join them, of
10,000 images with the labels worse and aggre of people. The truth is for scoring only.

- cut_vs_better_peer_min: F1 of `find_wrong` minus the better of cleanlab's default and "argmax differs"; the worst set
- cut_f1_gap_max: F1 of the best cut of our ranking minus F1 of our cut; the worst set
- auroc_error_ratio: 1 - AUROC of stage `clean`'s quality (features allowed), over that of cleanlab's self-confidence
  from a plain probe on the same features and folds; the mean of worse and aggre
- clean_gap_recovered: accuracy of a head on held-out images, true labels: (repaired - given) / (true - given labels);
  repaired as stage `clean` does it without a person; the mean of worse and aggre
- cut_1m_x_100_ratio: seconds of `find_wrong` on --rows x 100 float32 probabilities in a memory-mapped file, over
  those of cleanlab's batched finder in the same run; peak memory of each in its own process

Results are kept in KEPT: a stopped run goes on where it was, and results of older code are measured again. Expected: at
least -.005, at most .05. The large set takes about three times as long as cleanlab's: fitting the noise models takes
a second, and a label in doubt is judged by both. About 15 CPU minutes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.cleaning import kept_set
from benchmarks.label_noise import LabelSet, cifar10n, out_of_fold
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, write_json
from tasks.common.params import Params, load_params
from tasks.models import probe
from tasks.models.folds import assign_folds
from tasks.stages.clean.cut import find_wrong
from tasks.stages.clean.image_noise import fit_either_noise
from tasks.stages.clean.judge import judge_training
from tasks.stages.clean.stage import repair

PEOPLE = 10_000  # images of CIFAR-10N
CLASSES = 100  # of the large set
FINDERS = ("find_wrong", "cleanlab_batched")


def cut_scores(given: np.ndarray, true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """F1 of our cut, of the best cut of our ranking, and of the peers."""
    from cleanlab.filter import find_label_issues

    wrong = given != true
    doubt = fit_either_noise(given, probabilities).wrong(given, probabilities)
    hits = np.cumsum(wrong[np.argsort(-doubt, kind="stable")])
    return {
        "noise": float(wrong.mean()),
        "ours": f1(find_wrong(given, probabilities), wrong),
        "best_cut": float((2 * hits / (np.arange(1, len(hits) + 1) + wrong.sum())).max()),
        "cleanlab": f1(find_label_issues(given, probabilities, n_jobs=1), wrong),
        "argmax": f1(probabilities.argmax(axis=1) != given, wrong),
    }


def f1(found: np.ndarray, wrong: np.ndarray) -> float:
    return float(2 * (found & wrong).sum() / max(found.sum() + wrong.sum(), 1))


def read_probabilities(file: Path, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(given, true, probabilities) of every `step`-th row of `file`."""
    table = pq.read_table(file, columns=["given", "true", "probabilities"])[::step]
    given, true = (np.array(table[name]).astype(int) for name in ("given", "true"))
    return given, true, np.array(table["probabilities"].to_pylist(), np.float32)


def probe_scores(labels: LabelSet, params: Params) -> dict:
    """Cut, ranking and gap of one set with features."""
    from sklearn.metrics import roc_auc_score

    folds, seed, alone = params.clean.folds, params.clean.seed, np.arange(len(labels.given)).astype(str)
    plain, _ = out_of_fold(labels, alone, folds, seed)
    quality = judge_training(
        labels.x, labels.given, labels.classes, labels.groups, alone, folds, seed
    ).suspicion.quality
    own = plain[np.arange(len(alone)), labels.given]
    ranks = {name: float(roc_auc_score(labels.wrong, -score)) for name, score in (("ours", quality), ("peer", own))}
    return {"cut": cut_scores(labels.given, labels.true, plain), "auroc": ranks, "gap": gap(labels, params)}


def gap(labels: LabelSet, params: Params) -> dict[str, float]:
    """Accuracy (percent) on a held-out fifth, true labels, of heads of the given, the repaired and the true labels."""
    members = labels.true[:, None] == np.arange(len(labels.classes))
    test = assign_folds(members, labels.groups, 5, 0) == 0
    x, given, true, groups = (
        labels.x[~test].astype(np.float32),
        *(values[~test] for values in (labels.given, labels.true, labels.groups)),
    )
    policy, names = params.clean, labels.classes
    judged = judge_training(x, given, names, groups, groups, policy.folds, policy.seed)
    decision, _, _ = repair(judged, x, given, names, groups, groups, policy)
    repaired = np.where(decision.actions == "relabel", judged.suspicion.predicted, given)
    kept = decision.actions != "drop"
    changed = decision.changed & (given == true)
    found = {"changed": float(decision.changed.mean()), "right_changed": float(changed.mean())}
    for name, y, rows in (("given", given, kept | True), ("repaired", repaired, kept), ("true", true, kept | True)):
        head = probe.fit(x[rows], y[rows], len(names))
        found[name] = 100 * float((head.logits(labels.x[test]).argmax(axis=1) == labels.true[test]).mean())
    return found


def large(folder: Path, rows: int) -> tuple[Path, Path]:
    """Files with labels (N,) and float32 probabilities (N, CLASSES) of `rows` samples; 10 % of the labels are wrong."""
    y_file, p_file = folder / f"large-{rows}-y.npy", folder / f"large-{rows}-p.npy"
    if not y_file.is_file():
        rng = np.random.default_rng(0)
        true = rng.integers(0, CLASSES, rows)
        out = np.lib.format.open_memmap(p_file, "w+", np.float32, (rows, CLASSES))
        for start in range(0, rows, 10_000):
            part = slice(start, min(start + 10_000, rows))
            logits = rng.normal(size=(part.stop - start, CLASSES)).astype(np.float32) * 1.5
            logits[np.arange(len(logits)), true[part]] += 6
            out[part] = probe.softmax(logits)
        out.flush()
        np.save(y_file, np.where(rng.random(rows) < 0.1, rng.integers(0, CLASSES, rows), true))
    return y_file, p_file


def time_finder(name: str, y_file: Path, p_file: Path) -> dict[str, float]:
    """Seconds and peak memory (MiB, above the imports) of one finder; run in a process of its own."""
    import resource

    from cleanlab.experimental.label_issues_batched import find_label_issues_batched

    y, probabilities = np.load(y_file), np.load(p_file, mmap_mode="r")
    find_wrong(y[:2000] % 10, np.ascontiguousarray(probabilities[:2000, :10]) + 0.01)  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    if name == "find_wrong":
        found = find_wrong(y, probabilities).sum()
    else:
        found = len(find_label_issues_batched(labels=y, pred_probs=probabilities, n_jobs=1, verbose=False))
    seconds = time.process_time() - start
    return {"seconds": seconds, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
            "found": int(found)}  # fmt: skip


def timed_apart(name: str, files: tuple[Path, Path]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.label_cut", "--time", name, *map(str, files)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def kept(file: Path, measure: Callable[[], dict]) -> dict:
    """The result in `file`, measured if there is none."""
    if not file.is_file():
        write_json(file, measure())
    return read_json(file)


def figures_of(cuts: dict[str, dict], probes: dict[str, dict], times: dict[str, dict]) -> list[Figure]:
    against = {name: one["ours"] - max(one["cleanlab"], one["argmax"]) for name, one in cuts.items()}
    below = {name: one["best_cut"] - one["ours"] for name, one in cuts.items()}
    peers = "; ".join(f"{n} cleanlab {one['cleanlab']:.3f}, argmax {one['argmax']:.3f}" for n, one in cuts.items())
    ours = "; ".join(f"{n} {one['ours']:.3f}" for n, one in cuts.items())
    figures = []

    def add(name: str, value: float, goal: float | None, better: str, peer: str, spread: str) -> None:
        figures.append(Figure(name=name, value=value, unit="", goal=goal, better=better, peer=peer, spread=spread))

    if cuts:
        add("cut_vs_better_peer_min", min(against.values()), -0.005, "higher", peers, f"F1 {ours}")
        add("cut_f1_gap_max", max(below.values()), 0.05, "lower", "the best cut, by truth", _each(below))
    if probes:
        ratio = {name: (1 - one["auroc"]["ours"]) / (1 - one["auroc"]["peer"]) for name, one in probes.items()}
        share = {name: _recovered(one["gap"]) for name, one in probes.items()}
        peer = "self-confidence, AUROC " + _each({name: one["auroc"]["peer"] for name, one in probes.items()})
        add("auroc_error_ratio", float(np.mean(list(ratio.values()))), 0.7, "lower", peer, _each(ratio))
        peer = "given labels 0, true labels 1"
        add("clean_gap_recovered", float(np.mean(list(share.values()))), None, "higher", peer, _each(share))
    mine, theirs = (times[name] for name in FINDERS)
    about = "; ".join(f"{name} {one['seconds']:.1f} CPU s, {one['mib']:.0f} MiB" for name, one in times.items())
    add("cut_1m_x_100_ratio", mine["seconds"] / theirs["seconds"], 1.5, "lower", about, "one run")
    return figures


def _recovered(one: dict[str, float]) -> float:
    """The share of the gap; 0 if the true labels are not better."""
    return (one["repaired"] - one["given"]) / (one["true"] - one["given"]) if one["true"] > one["given"] else 0.0


def _each(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, nargs="?", help="folder for features and results")
    parser.add_argument("--probabilities", type=Path, nargs="*", default=[], help="Parquet: given, true, probabilities")
    parser.add_argument("--cifar10n", type=Path, help="Parquet with image, clean_label, aggre, worse")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large set")
    parser.add_argument(
        "--time", nargs=3, metavar=("FINDER", "LABELS", "PROBABILITIES"), help="used by the script itself"
    )
    parser.add_argument("--quick", action="store_true", help="few rows; records nothing")
    options = parser.parse_args(arguments)
    if options.time:
        print(json.dumps(time_finder(options.time[0], *map(Path, options.time[1:]))))
        return
    if options.kept is None:
        parser.error("KEPT is missing: name a folder for features and results")
    options.kept.mkdir(parents=True, exist_ok=True)
    params = load_params(ROOT / "params.yaml")
    rows = 20_000 if options.quick else options.rows
    key = content_key(code_version("tasks.stages.clean.stage"), params.clean.model_dump(), options.quick)[:12]
    results = options.kept / "label-cut"
    cuts, probes = {}, {}
    for file in options.probabilities:
        data = read_probabilities(file, 25 if options.quick else 1)
        cuts[file.stem] = kept(results / f"{file.stem}-{key}.json", lambda d=data: cut_scores(*d))
        say(f"  {file.stem}: {cuts[file.stem]}")
    for place, name in enumerate(("worse", "aggre")) if options.cifar10n else ():
        count = 600 if options.quick else PEOPLE
        labels = kept_set(
            options.kept / f"cifar10n_{name}-{count}.npz",
            lambda p=place, c=count: cifar10n(options.cifar10n, params, c)[p],
        )
        probes[name] = kept(results / f"probe-{name}-{key}.json", lambda s=labels: probe_scores(s, params))
        cuts[f"probe_{name}"] = probes[name]["cut"]
        say(f"  {name}: {probes[name]}")
    files = large(options.kept, rows)
    times = {
        name: kept(results / f"{name}-{rows}-{key}.json", lambda n=name: timed_apart(n, files)) for name in FINDERS
    }
    say(f"  {rows} x {CLASSES}: {times}")
    command = " ".join(
        ["python -m benchmarks.label_cut KEPT --probabilities", *(f.name for f in options.probabilities)]
    )
    command += f" --cifar10n {options.cifar10n.name}" if options.cifar10n else ""
    report("label_cut", command, figures_of(cuts, probes, times), options.quick)


if __name__ == "__main__":
    main()
