"""Does `clean` find wrong labels better than cleanlab's defaults on the same features?

    python -m benchmarks.label_noise [--cifar10n FILE] [--quick]

Runs on the training rows of datasets/fashion, whose injected errors are listed in truth.parquet, and on redraws of
those errors. With --cifar10n it also runs on three times 10,000 images of CIFAR-10 with labels by people. FILE is a
Parquet file with the columns image {bytes}, clean_label, aggre (9 % wrong) and worse (40 % wrong). All methods see the
features of the same frozen backbone:

- clean: tasks.stages.clean.judge.judge_training as the stage calls it
- cleanlab, probe: find_label_issues() on the out-of-fold probabilities of clean's probe on the labels as given
- cleanlab, clean's: the same on the very probabilities that clean judges (its probe's second, weighted round)
- CleanLearning: cleanlab's own pipeline, scikit-learn's logistic regression in 5 folds

AUROC is of the quality score for wrong against right labels, F1 is of the flagged rows. The ratio is to the best peer
of each draw. Expected: AUROC about .98, ratio about 1.1 on fashion; about a minute on 2 cores, two more for CIFAR-10N.
"""

import argparse
import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, ROOT, say, timed
from tasks.common.errors import DataError
from tasks.common.params import Params, load_params
from tasks.models import probe
from tasks.models.folds import assign_folds, training_masks
from tasks.stages.clean import judge
from tasks.stages.clean.image_noise import fit_either_noise
from tasks.stages.clean.label_noise import fit_noise_model

DRAWS = 5
CIFAR_DRAWS, CIFAR_ROWS = 3, 10_000
QUICK = 4  # every QUICK-th row in a quick pass


@dataclass(frozen=True)
class LabelSet:
    """N labelled images: `x` (N, D) float16 features, `given` and `true` (N,) class numbers, `groups` (N,) names."""

    name: str
    x: np.ndarray
    given: np.ndarray
    true: np.ndarray
    groups: np.ndarray
    classes: list[str]

    @property
    def wrong(self) -> np.ndarray:
        return self.given != self.true


@dataclass(frozen=True)
class Result:
    """One method on one LabelSet."""

    auroc: float
    f1: float
    flagged: int


def fashion(params: Params, step: int = 1) -> LabelSet:
    """Every `step`-th training row of datasets/fashion/base.parquet."""
    table = pq.read_table(FASHION / "base.parquet", columns=["image", "label", "split", "source"])
    table = table.filter(pc.equal(table["split"], "train"))[::step]
    images = table["image"].combine_chunks().field("bytes").to_pylist()
    truth = dict(zip(*pq.read_table(FASHION / "truth.parquet").to_pydict().values(), strict=True))
    true = [truth[hashlib.sha256(data).hexdigest()] for data in images]
    classes = sorted(set(table["label"].to_pylist()))
    number = {name: index for index, name in enumerate(classes)}
    given = np.array([number[name] for name in table["label"].to_pylist()])
    groups = np.array(table["source"].to_pylist())
    return LabelSet("fashion", features(images, params), given, np.array([number[n] for n in true]), groups, classes)


def redraw(labels: LabelSet, seed: int) -> LabelSet:
    """Give wrong labels to other images; how often each class is mistaken for which stays the same."""
    rng = np.random.default_rng(seed)
    given = labels.given.copy()
    for number in range(len(labels.classes)):
        rows = np.flatnonzero(labels.true == number)
        given[rows] = labels.given[rng.permutation(rows)]
    return replace(labels, name=f"{labels.name}, redraw {seed}", given=given)


def cifar10n(file: Path, params: Params, rows: int, draw: int = 0) -> list[LabelSet]:
    """The columns worse and aggre of `rows` random images; no image is in two draws."""
    order = np.random.default_rng(0).permutation(pq.ParquetFile(file).metadata.num_rows)
    chosen = np.sort(order[draw * rows : (draw + 1) * rows])
    images, tables, start = [], [], 0
    for batch in pq.ParquetFile(file).iter_batches(2000, columns=["image", "clean_label", "aggre", "worse"]):
        here = batch.take(pa.array(chosen[(chosen >= start) & (chosen < start + len(batch))] - start))
        images += here.column("image").field("bytes").to_pylist()
        tables.append(pa.table(here.select(["clean_label", "aggre", "worse"])))
        start += len(batch)
    labels = pa.concat_tables(tables).to_pydict()
    classes = sorted(set(labels["clean_label"]))
    numbers = {name: np.array([classes.index(label) for label in column]) for name, column in labels.items()}
    x, alone = features(images, params), np.arange(len(images)).astype(str)
    return [
        LabelSet(f"cifar10n_{name}", x, numbers[name], numbers["clean_label"], alone, classes)
        for name in ("worse", "aggre")
    ]


def features(images: list[bytes], params: Params) -> np.ndarray:
    """(N, D) float16 features of the pretrained backbone, as stage `embed` computes them."""
    import torch

    from tasks.backbones import timm_models
    from tasks.dataset.decode import preprocess

    how, backbone, device = params.images, params.embed.backbone, timm_models.device()
    network, (mean, std) = (
        timm_models.create_model(backbone, "auto", 0, how.resolution).to(device),
        timm_models.normalisation(backbone),
    )
    parts = []
    with timed(f"features of {len(images)} images"), torch.inference_mode():
        for start in range(0, len(images), 64):
            pixels = np.stack(
                [preprocess(d, how.resolution, how.fit, how.max_pixels) for d in images[start : start + 64]]
            )
            x = timm_models.to_input(pixels, mean, std, device)
            parts.append(timm_models.features(network, x).cpu().numpy().astype(np.float16))
            if start % 2048 == 0:
                say(f"  {start} of {len(images)}")
    return np.concatenate(parts)


def compare(labels: LabelSet, params: Params) -> dict[str, Result]:
    """All methods on one set. Raises DataError if `clean` works differently than this script assumes."""
    folds, seed = params.clean.folds, params.clean.seed
    clusters = np.arange(len(labels.given)).astype(str)  # no near-duplicates in either set
    judged = judge.judge_training(
        labels.x, labels.given, labels.classes, labels.groups, clusters, folds, seed
    ).suspicion
    first, second = out_of_fold(labels, clusters, folds, seed)
    again = judge.judge_labels(labels.given, second, [fit_either_noise(labels.given, second, first)])
    if not np.allclose(again.quality, judged.quality, atol=1e-3):  # its rows lie in another order
        raise DataError(
            "benchmarks.label_noise.out_of_fold no longer does what tasks.stages.clean.judge.judge_training does"
        )
    found = {"clean": score(labels.wrong, judged.is_issue, judged.quality)}
    found["cleanlab, probe"] = cleanlab_defaults(labels, first)
    found["cleanlab, clean's"] = cleanlab_defaults(labels, second)
    found["CleanLearning"] = clean_learning(labels)
    for name, one in found.items():
        line = f"  {labels.name:18} {name:18} AUROC {one.auroc:.4f}  F1 {one.f1:.3f}"
        say(f"{line}  flagged {one.flagged}, wrong {labels.wrong.sum()}")
    return found


def out_of_fold(labels: LabelSet, clusters: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) of clean's two rounds: of its probes on the labels as given, then weighted by trust."""
    y, k = labels.given, len(labels.classes)
    members = y[:, None] == np.arange(k)
    fold = assign_folds(members, labels.groups, folds, seed)
    masks = np.vstack([training_masks(fold, clusters, members, folds), np.ones(len(y))]).astype(np.float32)
    probes = probe.fit_many(labels.x, y, k, masks, l2=judge.L2, iterations=judge.FIRST)
    first = probe.softmax(probe.select_logits(probes, labels.x, fold))
    trust = judge.judge_labels(y, first, [fit_noise_model(y, first, first)]).quality
    masks = masks * np.maximum(trust, judge.LEAST_WEIGHT).astype(np.float32)
    probes = probe.fit_many(labels.x, y, k, masks, l2=judge.L2, iterations=judge.SECOND, start=probes)
    return first, probe.softmax(probe.select_logits(probes, labels.x, fold))


def cleanlab_defaults(labels: LabelSet, probabilities: np.ndarray) -> Result:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    flagged = find_label_issues(labels.given, probabilities, n_jobs=1)  # more processes: the same result, more slowly
    return score(labels.wrong, flagged, get_label_quality_scores(labels.given, probabilities))


def clean_learning(labels: LabelSet) -> Result:
    from cleanlab.classification import CleanLearning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its logistic regression stops at 100 iterations, its default
        found = CleanLearning(seed=0).find_label_issues(labels.x.astype(np.float32), labels.given)
    return score(labels.wrong, found["is_label_issue"].to_numpy(), found["label_quality"].to_numpy())


def score(wrong: np.ndarray, flagged: np.ndarray, quality: np.ndarray) -> Result:
    from sklearn.metrics import f1_score, roc_auc_score

    return Result(float(roc_auc_score(wrong, -quality)), float(f1_score(wrong, flagged)), int(flagged.sum()))


def figures_of(results: list[dict[str, Result]], suffix: str = "") -> list[Figure]:
    """The two figures, over the draws in `results`."""
    peers = [name for name in results[0] if name != "clean"]
    auroc = [found["clean"].auroc for found in results]
    f1 = [found["clean"].f1 for found in results]
    ratio = [found["clean"].f1 / max(found[name].f1 for name in peers) for found in results]
    common = {"unit": "", "better": "higher", "seeds": len(results)}
    return [
        Figure(
            name=f"label_noise_auroc{suffix}",
            value=float(np.mean(auroc)),
            goal=None,
            peer="; ".join(f"{name} {np.mean([found[name].auroc for found in results]):.3f}" for name in peers),
            spread=_spread(auroc),
            **common,
        ),
        Figure(
            name=f"label_noise_f1_vs_cleanlab_ratio{suffix}",
            value=float(np.mean(ratio)),
            goal=1.0,
            peer="F1 of " + "; ".join(f"{n} {np.mean([found[n].f1 for found in results]):.3f}" for n in peers),
            spread=f"{_spread(ratio)}; F1 {np.mean(f1):.3f}, {_spread(f1)}",
            **common,
        ),
    ]


def _spread(values: list[float]) -> str:
    return f"min {min(values):.3f}, max {max(values):.3f} of {len(values)}" if len(values) > 1 else "one draw"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10n", type=Path, help="Parquet with image, clean_label, aggre, worse")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows, two draws; records nothing")
    options = parser.parse_args(arguments)
    params = load_params(ROOT / "params.yaml")
    shipped = fashion(params, QUICK if options.quick else 1)
    draws = [shipped] + [redraw(shipped, seed) for seed in range(1, 2 if options.quick else DRAWS)]
    figures = figures_of([compare(draw, params) for draw in draws])
    if options.cifar10n:
        rows, count = (500, 1) if options.quick else (CIFAR_ROWS, CIFAR_DRAWS)
        people = [cifar10n(options.cifar10n, params, rows, draw) for draw in range(count)]
        for sets in zip(*people, strict=True):  # worse, then aggre
            figures += figures_of([compare(labels, params) for labels in sets], f"_{sets[0].name}")
    command = "python -m benchmarks.label_noise"
    command += f" --cifar10n {options.cifar10n.name}" if options.cifar10n else ""
    report("label_noise", command, figures, options.quick)


if __name__ == "__main__":
    main()
