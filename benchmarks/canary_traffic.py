"""Simulated traffic of a rollout: two models, a mix of classes, late labels for a share of the images.

The champion is right with probability ACCURACY, else it names one of the other classes. An equal challenger errs as
often, on images of its own. A collapsed one never answers class `lost`: it names another class there. A swapped one
answers two classes for one another, so only labels show it.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np

from flows.rollout.decide import Decision, decide
from flows.rollout.evidence import Evidence
from flows.rollout.measure import evidence_of
from tasks.common.params import ReleaseParams
from tasks.releases.rollout import Rollout, StepEnd

CLASSES = [f"class {number}" for number in range(10)]
SHARES = np.array([0.2, 0.15, 0.15, 0.1, 0.1, 0.1, 0.06, 0.06, 0.05, 0.03])
ACCURACY = 0.9
START = datetime(2026, 11, 28, tzinfo=UTC)
A_SECOND = 10  # requests
BUNDLES = {"live": "a" * 64, "new": "b" * 64}

Kind = Literal["equal", "collapsed", "swapped"]


class Traffic(NamedTuple):
    """Rows as `flows.rollout.measure` reads them, by time; labels by image id."""

    new: list[dict]
    live: list[dict]
    labels: dict[str, str]


def rollout(seed: int, policy: ReleaseParams) -> Rollout:
    """One that begins at START."""
    shadow = policy.strategy == "shadow"
    return Rollout(
        id=f"20261128T000000Z-{seed:08x}",
        strategy="shadow" if shadow else "canary",
        run_id="run-2",
        version="v0.2.0",
        bundle=BUNDLES["new"],
        champion="v0.1.0",
        champion_bundle=BUNDLES["live"],
        champion_seq=1,
        steps=(0.0,) if shadow else tuple(policy.steps),
        since=START,
        step_since=START,
        by="a benchmark",
        why="it passed the gate",
    )


def answer(rng: np.random.Generator, true: np.ndarray, kind: Kind, lost: int) -> np.ndarray:
    """(N,) answers to images of the classes `true`."""
    wrong = (true + rng.integers(1, len(CLASSES), len(true))) % len(CLASSES)
    found = np.where(rng.random(len(true)) < ACCURACY, true, wrong)
    other = (lost + 1) % len(CLASSES)
    if kind == "collapsed":
        found = np.where(found == lost, other, found)
    elif kind == "swapped":
        found = np.where(found == lost, other, np.where(found == other, lost, found))
    return found


def send(
    going: Rollout, rng: np.random.Generator, first: int, count: int, kind: Kind, lost: int, labelled: float
) -> Traffic:
    """`count` requests from number `first` on, as the service would route them."""
    true = rng.choice(len(CLASSES), count, p=SHARES)
    answers = {"live": answer(rng, true, "equal", lost), "new": answer(rng, true, kind, lost)}
    unsure, told, times = rng.random(count) < 0.1, rng.random(count) < labelled, rng.gamma(4.0, 2.0, count)
    rows: dict[str, list[dict]] = {"new": [], "live": []}
    labels = {}
    for row in range(count):
        name = f"{going.id}-{first + row}"
        arm = going.arm(name)
        for model in {"canary": ["new"], "shadow": ["new", "live"], "live": ["live"]}[arm]:
            rows[model].append(
                {
                    "id": name,
                    "at": START + timedelta(seconds=(first + row) / A_SECOND),
                    "key": None,
                    "source": "a camera",
                    "bundle": BUNDLES[model],
                    "prediction": CLASSES[answers[model][row]],
                    "confidence": 0.9,
                    "needs_review": bool(unsure[row]),
                    "latency_ms": float(times[row]),
                }
            )
        if told[row]:
            labels[name] = CLASSES[true[row]]
    return Traffic(rows["new"], rows["live"], labels)


class Ended(NamedTuple):
    """How a simulated rollout ended, after how many requests of the challenger's share."""

    how: str  # "promote" or "roll_back"
    decision: Decision
    requests: int
    labelled: int
    step: int


def run(
    seed: int, policy: ReleaseParams, kind: Kind, *, lost: int = 0, labelled: float = 0.0, every: int = 500
) -> Ended:
    """One rollout to its end; the monitor looks after each `every` requests of the whole traffic."""
    rng, going, sent = np.random.default_rng([seed, lost]), rollout(seed, policy), 0
    seen = Traffic([], [], {})
    while True:
        more = send(going, rng, sent, every, kind, lost, labelled)
        sent += every
        seen = Traffic(seen.new + more.new, seen.live + more.live, seen.labels | more.labels)
        now = START + timedelta(seconds=sent / A_SECOND)
        decision = decide(going, look(going, seen, policy, now), policy)
        if decision.outcome in ("promote", "roll_back", "give_up"):
            known = sum(row["id"] in seen.labels for row in seen.new)
            return Ended(decision.outcome, decision, len(seen.new), known, going.step)
        if decision.outcome == "advance":
            end = StepEnd(step=going.step, share=going.share, since=going.step_since, at=now, by="policy", why="good")
            about = {"step": going.step + 1, "step_since": now, "done": (*going.done, end)}
            going = going.model_copy(update=about)


def look(going: Rollout, seen: Traffic, policy: ReleaseParams, now: datetime) -> Evidence:
    """What the monitor measures."""
    return evidence_of(going, seen.new, seen.live, seen.labels, CLASSES, policy, now)
