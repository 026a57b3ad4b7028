"""Do the intervals of live accuracy hold, and how many labels do they save?

    python -m benchmarks.live_accuracy KEPT [--quick]

Simulates windows of 2,000 answers in cells of 10, 50 and 200 labels and an accuracy of .6, .9 and .99, under four kinds
of confidence: calibrated, overconfident, underconfident, and unrelated to being right. Whether an answer is right also
depends on something that its confidence does not show. People answer unclear images less often (a half to nineteen
twentieths of those asked). A queue has as many labels again, of answers that the model is unsure of or that look
unfamiliar, and people answer those that are wrong less often than those that are right.

An interval covers if it holds the share of right answers in its window. Results are kept in KEPT, one file per kind
and cell, so a killed run goes on where it was. Expected: `live_accuracy_coverage_min`, the worst of all cells and
kinds, at least .94; about 6 minutes of one core.
"""

import argparse
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.record import Figure, report
from benchmarks.scratch import say
from monitoring.live.estimate import interval, live_accuracy, prediction_powered
from tasks.common.files import read_json, write_json
from tasks.scoring.intervals import wilson

ANSWERS = 2_000
WINDOWS = 2_000
LABELS = (10, 50, 200)
ACCURACIES = (0.6, 0.9, 0.99)
KINDS = {"calibrated": (1.0, 0.0), "overconfident": (1.5, 0.7), "underconfident": (0.5, 0.0), "unrelated": (1.0, 0.0)}
SEEN, HIDDEN = 1.6, 0.7  # spread of the log odds of being right: what confidence shows, and what it does not
GOAL = 0.94
GRID = (0.6, 0.7, 0.8, 0.9, 1.0)  # shares of the labels that a random sample needs


class Traffic(NamedTuple):
    """A window: each answer's confidence, whether it is right, and what confidence does not show. All (N,)."""

    confidence: np.ndarray
    right: np.ndarray
    hidden: np.ndarray


def draw(rng: np.random.Generator, accuracy: float, kind: str, answers: int = ANSWERS) -> Traffic:
    """Answers that are right with probability `accuracy` on average."""
    seen, hidden = rng.normal(size=answers), rng.normal(size=answers)
    odds = middle(accuracy) + SEEN * seen
    right = rng.random(answers) < sigmoid(odds + HIDDEN * hidden)
    slope, shift = KINDS[kind]
    confidence = sigmoid(slope * odds + shift)
    return Traffic(rng.permutation(confidence) if kind == "unrelated" else confidence, right.astype(float), hidden)


def people(rng: np.random.Generator, traffic: Traffic, labels: int, willing: bool = False) -> np.ndarray:
    """Rows of the first `labels` answers that people labelled, asked in random order. willing: they label all."""
    rank = np.argsort(np.argsort(traffic.confidence)) / len(traffic.confidence)
    answered = rng.random(len(rank)) < (1.0 if willing else 0.5 + 0.45 * rank)
    order = rng.permutation(len(rank))
    return order[answered[order]][:labels]


def queue(rng: np.random.Generator, traffic: Traffic, labels: int) -> np.ndarray:
    """Rows of a queue that people labelled: unsure or unfamiliar, and wrong ones less often answered."""
    hard = np.maximum(1 - traffic.confidence, sigmoid(-2 * traffic.hidden))
    rows = np.argsort(-hard)[: 2 * labels]
    return rng.permutation(rows[rng.random(len(rows)) < 0.4 + 0.3 * traffic.right[rows]])[:labels]


def cell(kind: str, labels: int, accuracy: float, windows: int) -> dict[str, float]:
    """Share of windows whose interval holds, and the mean width, of ours and of its peers."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), labels, int(100 * accuracy)])
    held = dict.fromkeys(("ours", "pooled", "normal", "unweighted"), 0)
    width, random = 0.0, 0.0
    narrower = dict.fromkeys(GRID, 0.0)
    for _ in range(windows):
        traffic = draw(rng, accuracy, kind)
        truth, confidence = traffic.right.mean(), traffic.confidence
        audit = people(rng, traffic, labels)
        hard = np.setdiff1d(queue(rng, traffic, labels), audit)
        rows = np.concatenate([audit, hard])
        chance = np.where(np.arange(len(rows)) < len(audit), labels / ANSWERS, np.nan)
        ours = live_accuracy(confidence, confidence[rows], traffic.right[rows], chance)
        powered = prediction_powered(confidence, confidence[audit], traffic.right[audit], np.ones(len(audit)))
        found = {
            "ours": (ours.low, ours.high),
            "pooled": wilson(int(traffic.right[rows].sum()), len(rows), 1.96),
            "normal": (powered.value - 1.96 * powered.variance**0.5, powered.value + 1.96 * powered.variance**0.5),
            "unweighted": interval(traffic.right[audit].sum(), labels),
        }
        for name, (low, high) in found.items():
            held[name] += low <= truth <= high
        width += ours.high - ours.low
        picked = people(rng, traffic, labels, willing=True)
        random += np.diff(interval(traffic.right[picked].sum(), labels))[0]
        for share in GRID:
            part = picked[: round(share * labels)]
            one = live_accuracy(confidence, confidence[part], traffic.right[part], np.full(len(part), 0.1))
            narrower[share] += one.high - one.low
    return (
        {name: count / windows for name, count in held.items()}
        | {"width": width / windows, "random": random / windows}
        | {f"width_{share}": total / windows for share, total in narrower.items()}
    )


def label_share(found: dict[str, float]) -> float:
    """Labels for the width of a random sample's interval, as a share of its labels; interpolated, at most 1.2."""
    worth = [found[f"width_{share}"] ** -2 for share in GRID]  # about proportional to the labels
    slope, start = np.polyfit(GRID, worth, 1)
    return float(np.clip((found["random"] ** -2 - start) / slope, 0, 1.2))


def figures_of(cells: dict[str, dict[str, float]], windows: int) -> list[Figure]:
    """The worst coverage with its peers', and the share of labels. cells: "kind labels accuracy" -> of `cell`."""
    worst = {
        name: min(cells, key=lambda key, name=name: cells[key][name])
        for name in ("ours", "pooled", "normal", "unweighted")
    }
    low = {name: f"{cells[key][name]:.3f} ({key})" for name, key in worst.items()}
    shares = {key: label_share(one) for key, one in cells.items()}
    many = {key: share for key, share in shares.items() if key.startswith("calibrated 200")}
    shown = [key for key in shares if " 200 " in key and key not in many]
    others = ", ".join(f"{key} {shares[key]:.2f}" for key in shown)
    return [
        Figure(
            name="live_accuracy_coverage_min",
            value=cells[worst["ours"]]["ours"],
            unit="of windows",
            goal=GOAL,
            better="higher",
            peer=f"worst cell of queue and audit labels pooled {low['pooled']}; of a normal prediction-powered "
            f"interval {low['normal']}; of audit labels without strata {low['unweighted']}",
            seeds=windows,
            spread=f"worst of {len(cells)} cells: {worst['ours']}",
        ),
        Figure(
            name="live_accuracy_label_share",
            value=float(np.mean(list(many.values()))),
            unit="of the labels",
            goal=None,
            better="lower",
            peer="a random sample's Clopper-Pearson interval of the same width",
            seeds=windows,
            spread=", ".join(f"{key} {share:.2f}" for key, share in many.items()) + f"; {others}",
        ),
    ]


def sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))


@cache
def middle(accuracy: float) -> float:
    """The mean of the log odds with which answers are right with probability `accuracy`."""
    spread = np.hypot(SEEN, HIDDEN) * np.random.default_rng(0).normal(size=200_000)
    low, high = -10.0, 20.0
    for _ in range(40):
        half = (low + high) / 2
        low, high = (half, high) if sigmoid(half + spread).mean() < accuracy else (low, half)
    return low


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for results; a killed run goes on with what is there")
    parser.add_argument("--quick", action="store_true", help="20 windows in each cell of one kind; records nothing")
    options = parser.parse_args(arguments)
    windows, kinds = (20, list(KINDS)[:1]) if options.quick else (WINDOWS, list(KINDS))
    cells = {}
    for kind in kinds:
        for labels in LABELS:
            for accuracy in ACCURACIES:
                file = options.kept / f"{kind}-{labels}-{accuracy}-{windows}.json"
                if not file.is_file():
                    write_json(file, cell(kind, labels, accuracy, windows))
                cells[f"{kind} {labels} {accuracy}"] = read_json(file)
                say(f"{kind} {labels} {accuracy}: {cells[f'{kind} {labels} {accuracy}']['ours']:.3f}")
    report("live_accuracy", "python -m benchmarks.live_accuracy KEPT", figures_of(cells, windows), options.quick)


if __name__ == "__main__":
    main()
