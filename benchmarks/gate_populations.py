"""Simulated pairs of models for benchmarks.gate: the evidence that a retraining gives the gate, by the thousand.

A population has N images with the logits of one model over K classes. A model of the simulation answers by these logits
plus noise of its own, as another seed of the same recipe would: two such models are equal in truth and differ by luck.
A better model has an advantage on the truth, so large that its balanced accuracy over the whole population is the
wanted gain higher. A trial draws test images and a hard set, with cameras, slices, groups and batches.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.schemas import predictions_schema
from tasks.gate.evidence import Contender, Trial
from tasks.scoring.calibration_noise import calibration_noise
from tasks.scoring.metrics import accuracy, balanced_accuracy, debiased_ece, log_loss

HARD, CORRUPTED = 80, 300  # images of the hard set, and of the corrupted test images
CORRUPTIONS = {"dark": 1.0, "blur": 1.5, "noise": 2.0, "jpeg": 0.5}  # noise on the logits beyond a model's own
CAMERAS = (0.4, 0.25, 0.15, 0.1, 0.07, 0.03)  # share of images of each source
BATCHES, DIM = 4, 0.2  # equal batches of test images; share of images of the slice light=dim
SEARCH = 20_000  # images on which a gain is measured
BINS = 15  # of the calibration error


@dataclass(frozen=True, eq=False)
class Population:
    """Images to draw from, and how two models of one recipe differ on them."""

    name: str
    logits: np.ndarray  # (N, K)
    targets: np.ndarray  # (N,) class indices or (N, K) of 0 and 1
    noise: float  # standard deviation of a model's own noise on the logits
    shared: float = 0.0  # share of this noise that both models have in common
    grouped: int = 1  # images of one group; a model's noise on them is nearly the same
    recorded: bool = True  # whether the groups are in the data

    @property
    def task(self) -> str:
        return "multiclass" if self.targets.ndim == 1 else "multilabel"

    @property
    def classes(self) -> list[str]:
        return [f"class {number:02d}" for number in range(self.logits.shape[1])]

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        scaled = logits / temperature
        if self.task == "multilabel":
            return 1 / (1 + np.exp(-scaled))
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(axis=1) if self.task == "multiclass" else logits >= 0

    def noisy(self, rows: np.ndarray, common: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, K) logits of one model. common: noise of the recipe (n, K); groups: (n,) numbers."""
        own = rng.normal(size=common.shape)
        if self.grouped > 1:
            own = np.sqrt(0.9) * rng.normal(size=common.shape)[groups] + np.sqrt(0.1) * own
        return self.logits[rows] + self.noise * (np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own)

    def towards(self, rows: np.ndarray) -> np.ndarray:
        """(n, K) the direction of an advantage on the truth."""
        targets = self.targets[rows]
        return np.eye(self.logits.shape[1])[targets] if self.task == "multiclass" else 2.0 * targets - 1

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, one model's logits) of many images."""
        rng = np.random.default_rng(3)
        rows = rng.choice(len(self.logits), SEARCH)
        return rows, self.noisy(rows, rng.normal(size=(SEARCH, self.logits.shape[1])), np.arange(SEARCH), rng)

    @cached_property
    def temperature(self) -> float:
        """The temperature at which the models are calibrated, as stage `calibrate` would find it."""
        rows, logits = self.sample
        tried = np.geomspace(0.3, 4, 50)
        losses = [log_loss(self.probabilities(logits, one), self.targets[rows]) for one in tried]
        return float(tried[np.argmin(losses)])

    @cached_property
    def _advantages(self) -> dict[float, float]:
        return {0.0: 0.0}

    def advantage(self, gain: float) -> float:
        """What the truth's logit must gain for a balanced accuracy `gain` higher."""
        if gain not in self._advantages:
            rows, logits = self.sample
            truth, towards, low, high = self.targets[rows], self.towards(rows), -4.0, 4.0
            wanted = balanced_accuracy(truth, self.answers(logits), logits.shape[1]) + gain
            for _ in range(25):
                middle = (low + high) / 2
                score = balanced_accuracy(truth, self.answers(logits + middle * towards), logits.shape[1])
                low, high = (middle, high) if score < wanted else (low, middle)
            self._advantages[gain] = (low + high) / 2
        return self._advantages[gain]

    @cached_property
    def difficult(self) -> np.ndarray:
        """The third of the images that the model is least sure of."""
        best = np.sort(self.logits, axis=1)
        sure = best[:, -1] - best[:, -2] if self.task == "multiclass" else np.abs(self.logits).min(axis=1)
        return np.argsort(sure)[: len(sure) // 3]


def real(file: Path, **more) -> Population:
    """CIFAR-10 as a trained ResNet-18 sees it: columns `probabilities` and `true` of the Parquet `file`."""
    table = pq.read_table(file)
    values = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    logits = np.log(np.clip(values.astype(np.float64), 1e-6, 1))
    return Population(logits=logits, targets=table["true"].to_numpy().astype(np.int64), **more)


def simulated(classes: int = 10, images: int = 50_000, tail: float = 1.0, **more) -> Population:
    """Images of differing difficulty; the most frequent class has `tail` times the images of the rarest."""
    rng = np.random.default_rng(1)
    share = tail ** (-np.arange(classes) / (classes - 1))
    targets = rng.choice(classes, images, p=share / share.sum())
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), targets] += rng.normal(5.5, 2.5, images)
    return Population(logits=logits, targets=targets, **more)


def simulated_labels(classes: int = 8, images: int = 50_000, **more) -> Population:
    """Several labels an image: the first on half of the images, the last on one in fifteen."""
    rng = np.random.default_rng(2)
    targets = (rng.random((images, classes)) < np.linspace(0.5, 0.07, classes)).astype(np.int64)
    return Population(logits=(2 * targets - 1) * rng.normal(2.5, 1.3, (images, classes)), targets=targets, **more)


@dataclass(frozen=True)
class Pair:
    """One trial: what tasks.gate.judge takes, and whether each model is right on each test image."""

    challenger: Contender
    champion: Contender
    trial: Trial
    new: np.ndarray  # (n,) bool
    old: np.ndarray  # (n,) bool


def draw(population: Population, images: int, gain: float, seed: int) -> Pair:
    """A challenger that is `gain` better than the champion, on `images` test images and a hard set."""
    rng = np.random.default_rng([seed, images, round(1000 * (1 + gain))])
    rows, groups = _images(population, images, rng)
    common = rng.normal(size=(len(rows), population.logits.shape[1]))
    better = population.advantage(gain) * population.towards(rows)
    logits = [population.noisy(rows, common, groups, rng) + more for more in (better, 0.0)]
    truth = population.targets[rows[:images]]
    columns = _columns(population, rows, groups, images, rng)
    contenders, right = [], []
    for name, values in zip(("challenger", "v1"), logits, strict=True):
        metrics = _metrics(population, truth, values[:images], rng)
        contenders.append(Contender(name, _table(population, columns, values), metrics))
        right.append((population.answers(values[:images]) == truth).reshape(images, -1).all(axis=1))
    truths = population.targets
    counts = np.bincount(truths, minlength=len(population.classes)) if truths.ndim == 1 else truths.sum(axis=0)
    trial = Trial(
        population.classes,
        population.task,
        dict(zip(population.classes, (counts * 5 * images // len(truths)).tolist(), strict=True)),
        "hard-simulated",
    )
    return Pair(contenders[0], contenders[1], trial, right[0], right[1])


def _images(population: Population, images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the population, number of each one's group) of the test images, then of the hard set."""
    many = -(-images // population.grouped)
    first = rng.choice(len(population.logits), many, replace=False)
    rows = np.concatenate([np.repeat(first, population.grouped)[:images], rng.choice(population.difficult, HARD)])
    groups = np.repeat(np.arange(many), population.grouped)[:images]
    return rows, np.concatenate([groups, many + np.arange(HARD)])


def _columns(population: Population, rows: np.ndarray, groups: np.ndarray, images: int, rng) -> dict:
    """The columns of predictions that both models have in common; a group has one camera, one light, one batch."""
    total, many = len(rows), int(groups.max()) + 1
    camera, dim = rng.choice(len(CAMERAS), many, p=CAMERAS)[groups], (rng.random(many) < DIM)[groups]
    batch = np.arange(total) * BATCHES // images  # the hard set comes last
    day, night = ([{"name": "light", "value": value}] for value in ("day", "dim"))
    named = np.array(population.classes, object)
    truth = population.targets[rows]
    labels = named[truth].tolist() if truth.ndim == 1 else [named[row > 0].tolist() for row in truth]
    return {
        "id": [f"{number:08d}" for number in range(total)],
        "split": ["test"] * images + ["hard"] * HARD,
        "batch": [f"b-{number}" for number in batch],
        "label": labels,
        "source": [f"camera {number}" for number in camera],
        "group": [f"g{number}" for number in groups] if population.recorded and population.grouped > 1 else None,
        "slice": [night if one else day for one in dim],
        "picked": ["representative"] * total,
    }


def _metrics(population: Population, truth: np.ndarray, logits: np.ndarray, rng: np.random.Generator) -> dict:
    """metrics/evaluate.json as far as the gate reads it."""
    chances, classes = population.probabilities(logits, population.temperature), population.classes
    corruptions = {}
    for name, noise in CORRUPTIONS.items():
        few = logits[:CORRUPTED]
        said = population.answers(few + noise * rng.normal(size=few.shape))
        share = accuracy(truth[: len(few)], said, len(classes))
        corruptions[name] = {"accuracy": share, "n": len(few), "kept": share}
    test = {
        "balanced_accuracy": balanced_accuracy(truth, population.answers(logits), len(classes)),
        "debiased_ece": debiased_ece(chances, truth, BINS),
        "ece_noise": _luck(population, len(truth)),
    }
    fast = {"latency_ms": {"p50": 4.0, "p99": 6.0}, "parity": {"max_difference": 1e-6}, "size_mb": 14.0}
    half = {"thresholds": dict.fromkeys(classes, 0.5)} if population.task == "multilabel" else {}
    return {"test": test, "corruptions": corruptions} | fast | half


_LUCK: dict[tuple[str, int], float] = {}


def _luck(population: Population, images: int) -> float:
    """tasks.scoring.calibration_noise of so many images, once for all trials."""
    key = population.name, images
    if key not in _LUCK:
        chances = population.probabilities(population.sample[1][:images], population.temperature)
        _LUCK[key] = calibration_noise(chances, population.task, [None] * len(chances), BINS)
    return _LUCK[key]


def _table(population: Population, columns: dict, logits: np.ndarray) -> pa.Table:
    chances = population.probabilities(logits, population.temperature).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(chances.ravel()), chances.shape[1]).cast(pa.list_(pa.float32()))
    schema = predictions_schema(population.task)

    def column(field: pa.Field) -> pa.Array:
        if field.name == "probabilities":
            return lists
        values = columns.get(field.name)
        return pa.nulls(len(chances), field.type) if values is None else pa.array(values, field.type)

    return pa.table([column(field) for field in schema], schema=schema)
