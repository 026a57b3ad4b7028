"""Does influence predict what fitting again changes, and does it find the labels that matter?

    python -m benchmarks.influence [--cifar10n FILE] [--quick]

Runs on the training rows of datasets/fashion with its injected wrong labels and redraws of them; with --cifar10n also
on draws of CIFAR-10 with labels by people. FILE is a Parquet file with the columns image {bytes}, clean_label, aggre
(9 % wrong) and worse (40 % wrong). Each set is divided: half teaches a linear head on features of the frozen backbone
with the labels as given, the rest has right labels: a third of it chooses what to relabel, two thirds measure.

- influence_refit_correlation: predicted against real change of the lead of wrong answers, over groups of rows that are
  left out, random ones and the most influential ones
- influence_wrong_in_9, _in_60: share of wrong labels among the first 9 or 60 rows that each method would have people
  look at. Methods: the product's choice (ranks of influence and of clean's doubt together), influence alone, relative
  influence (RelatIF, Barshan et al. 2020), cleanlab's self-confidence, rows near mistakes with another label, random
- influence_gain_60: log loss on the unseen part after people corrected these 60 labels
- influence_taught_wrong: share of wrong labels among the 9 rows that are named for each mistake
- influence_seconds: CPU seconds to fit, and to explain one mistake, with 50,000 rows, 512 features, 100 classes

Expected: a correlation of .99, more wrong labels among the first than cleanlab or influence finds alone; ten minutes.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.label_noise import LabelSet, cifar10n, fashion, redraw
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from tasks.common.params import Params, load_params
from tasks.models import causes, influence, probe, remedies
from tasks.models.influence import Taught
from tasks.models.remedies import HeldOut
from tasks.stages.clean import judge

DRAWS, CIFAR_ROWS, CIFAR_DRAWS = 3, 4_000, 2
QUICK = 6  # every QUICK-th row in a quick pass
L2 = 0.03
LOOKS = (9, 60)
GROUPS = 12  # that are left out, half of them random
OURS, ALONE, RELATIVE, CLEANLAB, NEAR, RANDOM = (
    "ours", "influence alone", "RelatIF", "cleanlab", "near mistakes", "random",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What one draw gives. wrong, gain: (method, looks) -> value."""

    predicted: list[float]
    real: list[float]
    wrong: dict[tuple[str, int], float]
    gain: dict[tuple[str, int], float]
    points: dict[tuple[str, int], float]
    taught: dict[str, float]
    share: float  # of wrong labels among all


def measure(labels: LabelSet, params: Params, seed: int) -> Measured:
    """All figures of one set."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels.given))
    train, chooses, unseen = np.split(order, [len(order) // 2, 2 * len(order) // 3])
    k = len(labels.classes)
    x, y, true = labels.x[train].astype(np.float32), labels.given[train], labels.true[train]
    taught = influence.teach(x, y, k, None, L2)
    held = {name: _held(labels, rows) for name, rows in (("chooses", chooses), ("unseen", unseen))}
    answers = taught.classifier.logits(held["unseen"].x).argmax(axis=1)
    wrong = np.flatnonzero(answers != held["unseen"].y)[:60]
    z = taught.standardised(held["unseen"].x[wrong])
    directions = (np.eye(k)[answers[wrong]] - np.eye(k)[held["unseen"].y[wrong]]).astype(np.float32)
    effects = influence.left_out(taught, influence.solve(taught, directions[:, :, None] * z[:, None, :]))
    predicted, real = _left_out(taught, effects, directions, held["unseen"].x[wrong], rng)
    scores = _scores(labels, train, taught, held["chooses"], params, rng)
    found, gain, points = {}, {}, {}
    for method, score in scores.items():
        for looks in LOOKS:
            rows = np.argsort(score, kind="stable")[:looks]
            found[method, looks] = float((y[rows] != true[rows]).mean())
            changes = [remedies.Change(int(row), np.eye(k, dtype=np.float32)[true[row]]) for row in rows]
            effect = remedies.effect(taught, changes, held["unseen"])
            gain[method, looks] = effect.loss_before - effect.loss_after
            points[method, looks] = 100 * (effect.after - effect.before)
        say(f"  {labels.name:18} {method:16} wrong {found[method, 9]:.2f} {found[method, 60]:.2f}  "
            f"log loss -{gain[method, 9]:.4f} -{gain[method, 60]:.4f}  points {points[method, 60]:+.2f}")  # fmt: skip
    return Measured(
        predicted, real, found, gain, points, _named(taught, effects, z, y != true), float((y != true).mean())
    )


def _held(labels: LabelSet, rows: np.ndarray) -> HeldOut:
    return HeldOut(labels.x[rows].astype(np.float32), labels.true[rows], labels.groups[rows].tolist())


def _left_out(
    taught: Taught, effects: np.ndarray, directions: np.ndarray, x: np.ndarray, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """(predicted, real) change of the lead of a wrong answer, for GROUPS groups of rows that are left out."""
    before = (taught.classifier.logits(x) * directions).sum(axis=1)
    predicted, real = [], []
    for group in range(min(GROUPS, len(x))):
        size = int(rng.integers(5, 40))
        n = len(taught.y)
        rows = rng.choice(n, size, replace=False) if group % 2 else np.argsort(effects[group])[:size]
        after = remedies.fit_again(taught, [remedies.Change(int(row), None) for row in rows])
        real.append(float((after.classifier.logits(x) * directions).sum(axis=1)[group] - before[group]))
        predicted.append(float(effects[group, rows].sum()))
    return predicted, real


def _scores(
    labels: LabelSet, train: np.ndarray, taught: Taught, held: HeldOut, params: Params, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Method -> (N,): the lowest is looked at first."""
    from cleanlab.rank import get_label_quality_scores

    y, n, k = labels.given[train], len(train), taught.classes
    clusters, folds = np.arange(n).astype(str), params.clean.folds
    quality = judge.judge_training(
        labels.x[train], y, labels.classes, labels.groups[train], clusters, folds, params.clean.seed
    ).suspicion.quality
    gradient = influence.loss_gradient(taught, held.x, held.y, np.ones(n_held := len(held.y)))
    harm = influence.left_out(taught, influence.solve(taught, gradient[None]))[0]
    fold = rng.permutation(n) % folds
    probes = probe.fit_many(taught.x, y, k, (fold != np.arange(folds)[:, None]).astype(np.float32), l2=L2)
    outside = probe.softmax(probe.select_logits(probes, taught.x, fold))
    changes = remedies.choose_changes(taught, held, quality, influence.targets(y, k), n)
    ours = np.full(n, float(n))
    ours[[change.row for change in changes]] = np.arange(len(changes))
    wrong = np.flatnonzero(taught.classifier.logits(held.x).argmax(axis=1) != held.y)
    near, similar = np.zeros(n), influence.cosine(taught, taught.standardised(held.x[wrong]))
    for place, image in enumerate(wrong[:n_held]):
        top = np.argsort(-similar[place])[: causes.ROWS]
        near[top[y[top] != held.y[image]]] += 1
    return {
        OURS: ours,
        ALONE: harm,
        RELATIVE: harm / on_itself(taught),
        CLEANLAB: get_label_quality_scores(y, outside),
        NEAR: -near + 1e-6 * rng.random(n),
        RANDOM: rng.random(n),
    }


def on_itself(taught: Taught) -> np.ndarray:
    """(N,): the square root of each row's influence on its own loss, from the Kronecker factors."""
    factors, found = taught.factors, np.empty(len(taught.y), np.float32)
    for part, z in taught.chunks():
        slopes = np.square((taught.probabilities[part] - taught.y[part]) @ factors.classes)
        found[part] = (slopes @ (1 / factors.values) * np.square(z @ factors.features)).sum(axis=1)
    return np.sqrt(np.maximum(found, 1e-12))


def _named(taught: Taught, effects: np.ndarray, z: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Method -> share of wrong labels among the rows that it names for each mistake."""
    itself, similar = on_itself(taught), influence.cosine(taught, z)
    orders = {OURS: effects, RELATIVE: effects / itself, "nearest": -similar}
    return {name: float(wrong[np.argsort(order, axis=1)[:, : causes.ROWS]].mean()) for name, order in orders.items()}


def seconds(rows: int, features: int, classes: int) -> tuple[float, float]:
    """CPU seconds (to fit and to factor the Hessian, to explain a mistake), on drawn features."""
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(classes, features)), rng.integers(classes, size=rows)
    x = (0.12 * centres[y] + rng.normal(size=(rows, features))).astype(np.float16)
    start = time.process_time()
    taught = influence.teach(x, y, classes, None, L2)
    _ = taught.factors
    fitted = time.process_time() - start
    start = time.process_time()
    causes.find_causes(taught, x[:4].astype(np.float32), np.eye(classes)[y[:4] - 1], np.eye(classes)[y[:4]])
    return fitted, (time.process_time() - start) / 4


def figures_of(draws: list[Measured], suffix: str) -> list[Figure]:
    """The figures of all draws of one set."""
    predicted, real = (np.concatenate([getattr(one, name) for one in draws]) for name in ("predicted", "real"))
    found = [
        Figure(name=f"influence_refit_correlation{suffix}", value=float(np.corrcoef(predicted, real)[0, 1]), unit="",
               goal=0.95, better="higher", peer=f"{len(real)} groups of 5 to 39 rows", seeds=len(draws))
    ]  # fmt: skip
    for looks in LOOKS:
        found.append(
            _against([one.wrong for one in draws], looks, f"influence_wrong_in_{looks}{suffix}", "share", CLEANLAB)
        )
    found.append(_against([one.gain for one in draws], LOOKS[1], f"influence_gain_60{suffix}", "log loss", CLEANLAB))
    found.append(_against([one.points for one in draws], LOOKS[1], f"influence_points_60{suffix}", "points", None))
    taught = {name: float(np.mean([one.taught[name] for one in draws])) for name in draws[0].taught}
    peers = "; ".join(f"{name} {value:.2f}" for name, value in taught.items() if name != OURS)
    share = float(np.mean([one.share for one in draws]))
    found.append(
        Figure(name=f"influence_taught_wrong{suffix}", value=taught[OURS], unit="share", goal=None, better="higher",
               peer=f"{peers}; all rows {share:.2f}", seeds=len(draws))
    )  # fmt: skip
    return found


def _against(draws: list[dict], looks: int, name: str, unit: str, goal: str | None) -> Figure:
    means = {method: float(np.mean([one[method, looks] for one in draws])) for method, at in draws[0] if at == looks}
    own = [one[OURS, looks] for one in draws]
    return Figure(
        name=name, value=means[OURS], unit=unit, goal=round(means[goal], 4) if goal else None, better="higher",
        peer="; ".join(f"{method} {value:.3g}" for method, value in means.items() if method != OURS),
        seeds=len(draws), spread=f"min {min(own):.3g}, max {max(own):.3g} of {len(own)}",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10n", type=Path, help="Parquet with image, clean_label, aggre, worse")
    parser.add_argument("--quick", action="store_true", help="a sixth of the rows, one draw; records nothing")
    options = parser.parse_args(arguments)
    params = load_params(ROOT / "params.yaml")
    shipped = fashion(params, QUICK if options.quick else 1)
    draws = [shipped] + [redraw(shipped, seed) for seed in range(1, 1 if options.quick else DRAWS)]
    figures = figures_of([measure(one, params, seed) for seed, one in enumerate(draws)], "")
    if options.cifar10n:
        rows, count = (400, 1) if options.quick else (CIFAR_ROWS, CIFAR_DRAWS)
        people = [cifar10n(options.cifar10n, params, rows, draw) for draw in range(count)]
        for sets in zip(*people, strict=True):
            found = [measure(one, params, seed) for seed, one in enumerate(sets)]
            figures += figures_of(found, f"_{sets[0].name}")
    fitted, explained = seconds(*((500, 32, 5) if options.quick else (50_000, 512, 100)))
    figures.append(
        Figure(name="influence_seconds", value=explained, unit="CPU s", goal=None, better="lower",
               peer=f"fit and factors once {fitted:.0f}", spread="a mistake; 50,000 rows, 512 features, 100 classes")
    )  # fmt: skip
    command = "python -m benchmarks.influence"
    command += f" --cifar10n {options.cifar10n.name}" if options.cifar10n else ""
    report("influence", command, figures, options.quick)


if __name__ == "__main__":
    main()
