"""Is a model that is only as good as the champion promoted because people labelled what the champion found hard?

    nice python -m benchmarks.biased_queue KEPT [--trials 2000] [--quick]

Simulated images have a difficulty of their own. Each model answers an image by its difficulty and by luck of its own,
and is the less sure the nearer it was to the other answer. The champion has a test set of imported images. Then
production: each day people label 100 answers that the champion was least sure of and the audit sample of the day. A
challenger is judged by the gate (tasks.gate.judge with its defaults, `when_equal: hold`) after a week:

- now: labels of the queue are trained on, the audit sample is divided between calibration and test
- before: all labels are divided between train, calibration and test, and the newest batch is judged by itself

The challenger is either equal to the champion or 3 points better, on images of all kinds alike. Every trial is kept in
KEPT, and a second call goes on where the first one was stopped. The bound is exact and one-sided (Clopper & Pearson).

Expected: `biased_equal_promoted` <= .02 now; before, an equal challenger was promoted far more often. 15 minutes of one
core.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.record import Figure, report
from benchmarks.scratch import say
from monitoring.review import audit
from tasks.common.params import GateParams, ReviewParams
from tasks.common.schemas import MEASURING, predictions_schema
from tasks.gate.evidence import Contender, Trial
from tasks.gate.judge import judge
from tasks.scoring.metrics import accuracy, balanced_accuracy

CLASSES = [f"class {number}" for number in range(5)]
IMPORTED = 1_000  # test images of the import
DAYS, ANSWERS, QUEUED = 7, 2_000, 100  # answers a day, labels that the queue asks for a day
HELD_OUT = 0.15  # share of labels in the test split, where they are divided
RULES, GAINS = ("now", "before"), (0.0, 0.03)
MAIN = ("now", 0.0)  # what has a goal: the others take a quarter of the trials
BATCH = 25  # trials between two writes


@dataclass(frozen=True)
class Images:
    """N images: true class (N,), whether champion and challenger are right (N,), how sure the champion is (N,)."""

    true: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray
    sure: np.ndarray

    def take(self, rows: np.ndarray) -> "Images":
        return Images(self.true[rows], self.champion[rows], self.challenger[rows], self.sure[rows])


def draw(rng: np.random.Generator, count: int, gain: float) -> Images:
    """`count` images: the champion is right on 85 % of them, the challenger on 85 % and `gain` more."""
    difficulty, spread = rng.normal(size=count), np.hypot(1.0, 0.7)
    margins = [
        mean * spread - difficulty + 0.7 * rng.normal(size=count) for mean in (_quantile(0.85), _quantile(0.85 + gain))
    ]
    return Images(rng.integers(0, len(CLASSES), count), margins[0] > 0, margins[1] > 0, np.abs(margins[0]))


def _quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


def labelled(rng: np.random.Generator, gain: float, rule: str) -> tuple[Images, np.ndarray, np.ndarray]:
    """The test images after a week, how each was picked (N,), and its batch (N,)."""
    parts = [draw(rng, IMPORTED, gain)]
    picked, batch = [np.full(IMPORTED, "representative", object)], [np.zeros(IMPORTED, int)]
    review = ReviewParams()
    for day in range(1, DAYS + 1):
        answers = draw(rng, ANSWERS, gain)
        digits = rng.bytes(32 * ANSWERS).hex()
        ids = [digits[at : at + 64] for at in range(0, len(digits), 64)]
        rate, _ = audit.rates({"camera": ANSWERS}, {}, 1.0, review)
        why = np.full(ANSWERS, "", object)
        why[np.argsort(answers.sure)[:QUEUED]] = "queue"
        why[audit.uniform(ids) < rate] = "audit"
        if rule == "now":  # the queue's labels fill train, so the audit's fill calibration and test
            tested = np.flatnonzero(np.isin(why, MEASURING) & (rng.random(ANSWERS) < 0.5))
        else:
            tested = np.flatnonzero((why != "") & (rng.random(ANSWERS) < HELD_OUT))
            why[:] = "representative"
        parts.append(answers.take(tested))
        picked.append(why[tested])
        batch.append(np.full(len(tested), day))
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in Images.__annotations__)
    return Images(*columns), np.concatenate(picked), np.concatenate(batch)


def promoted(seed: int, gain: float, rule: str) -> bool:
    """Does the gate promote the challenger of one trial?"""
    rng = np.random.default_rng([seed, round(1000 * gain)])
    images, picked, batch = labelled(rng, gain, rule)
    answers = [np.where(right, images.true, (images.true + 1) % len(CLASSES)) for right in
               (images.challenger, images.champion)]  # fmt: skip
    new, old = (_predictions(images.true, answer, picked, batch) for answer in answers)
    trial = Trial(CLASSES, "multiclass", dict.fromkeys(CLASSES, 1_000), None)
    metrics = _metrics(images.true, answers[0])
    return judge(Contender("c", new, metrics), Contender("v1", old, {}), trial, GateParams()).outcome == "promote"


def _predictions(true: np.ndarray, answer: np.ndarray, picked: np.ndarray, batch: np.ndarray) -> pa.Table:
    n, classes = len(true), len(CLASSES)
    probabilities = np.full((n, classes), 0.2 / (classes - 1), np.float32)
    probabilities[np.arange(n), answer] = 0.8
    made = {
        "id": [f"{row:08d}" for row in range(n)],
        "split": ["test"] * n,
        "batch": [f"b-{number}" for number in batch],
        "label": [CLASSES[k] for k in true],
        "picked": list(picked),
        "probabilities": list(probabilities),
    }
    schema = predictions_schema("multiclass")
    return pa.table([pa.array(made.get(f.name, [None] * n), f.type) for f in schema], schema=schema)


def _metrics(true: np.ndarray, answer: np.ndarray) -> dict:
    test = {"balanced_accuracy": balanced_accuracy(true, answer, len(CLASSES)), "debiased_ece": 0.02}
    test["accuracy"] = accuracy(true, answer, len(CLASSES))
    fast = {"latency_ms": {"p50": 4.0, "p99": 6.0}, "parity": {"max_difference": 1e-6}, "size_mb": 14.0}
    return {"test": test, "hard": None, "corruptions": {}, **fast}


def kept_trials(kept: Path, trials: int, gain: float, rule: str) -> list[bool]:
    """The outcomes of `trials` trials, those in `kept` first."""
    file = kept / f"{rule}-{gain:g}.json"
    done = json.loads(file.read_text()) if file.is_file() else []
    kept.mkdir(parents=True, exist_ok=True)
    while len(done) < trials:
        ends = min(trials, len(done) + BATCH)
        done += [promoted(seed, gain, rule) for seed in range(len(done), ends)]
        file.write_text(json.dumps(done))
        say(f"{rule}, {100 * gain:+.0f} points: {sum(done)} of {len(done)} promoted")
    return done[:trials]


def upper_bound(count: int, n: int, level: float = 0.95) -> float:
    """The exact one-sided upper bound of a share, `count` of `n`."""
    from scipy.special import betaincinv

    return 1.0 if count == n else float(betaincinv(count + 1, n - count, level))


def figures_of(found: dict[tuple[str, float], list[bool]]) -> list[Figure]:
    def share(rule: str, gain: float) -> str:
        done = found[rule, gain]
        return f"{sum(done)} of {len(done)}"

    equal, better = found["now", 0.0], found["now", 0.03]
    return [
        Figure(
            name="biased_equal_promoted",
            value=upper_bound(sum(equal), len(equal)),
            unit="upper 95 % bound of the share",
            goal=0.02,
            better="lower",
            peer=f"all labels divided: {share('before', 0.0)}",
            seeds=len(equal),
            spread=f"{share('now', 0.0)} promoted",
        ),
        Figure(
            name="biased_power_3_points",
            value=sum(better) / len(better),
            unit="promoted",
            goal=None,
            better="higher",
            peer=f"all labels divided: {share('before', 0.03)}",
            seeds=len(better),
            spread=f"{share('now', 0.03)} promoted",
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for the outcomes of trials")
    parser.add_argument("--trials", type=int, default=2_000, help="of the equal challenger; a quarter for all else")
    parser.add_argument("--quick", action="store_true", help="a few trials; records nothing")
    options = parser.parse_args(arguments)
    trials = 4 if options.quick else options.trials
    found = {
        (rule, gain): kept_trials(options.kept, trials if (rule, gain) == MAIN else max(1, trials // 4), gain, rule)
        for rule in RULES
        for gain in GAINS
    }
    report(
        "biased_queue", f"python -m benchmarks.biased_queue KEPT --trials {trials}", figures_of(found), options.quick
    )


if __name__ == "__main__":
    main()
