"""The audit sample: answers that are drawn at random, with known probability, to measure the model.

    audit/<time>-<hash>.json   one plan: how likely an answer of a time, model and source is drawn

Poisson sampling with permanent random numbers (Ohlsson, 1995, "Coordination of Samples Using Permanent Random
Numbers"): an image is drawn if its number, which its id determines, lies below the rate of its answer. A plan sets the
rate from counts and clocks alone, before any number is looked at, so the numbers stay independent of it. A plan is
written before its answers are asked for and never changed; where plans overlap, the largest rate counts. So a repeated
run draws the same images, and an answer that reaches the log late is drawn with the probability given to its time.

The numbers are the last digits of the ids: capture.sample and the model's reference choose by the first ones.
N is the number of answers.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
from pydantic import AwareDatetime, ValidationError

from monitoring.log.production_log import Log
from tasks.common.checks import Frozen
from tasks.common.files import sha256_bytes
from tasks.common.params import ReviewParams

DAY = timedelta(days=1)
SOURCES = 50  # the sources with the most answers get the least number per source
DIGITS = 13  # hexadecimal, of an id: as many bits as a float holds
UNKNOWN = ""  # the name of "no source" in a plan

logger = logging.getLogger("evergreen.review")


class Plan(Frozen):
    """How likely an answer of `bundle` in [start, end) is drawn."""

    start: AwareDatetime
    end: AwareDatetime
    bundle: str
    drawn_at: AwareDatetime
    answers: int  # N when the plan was made
    rate: float
    rates: dict[str, float] = {}  # of sources with a larger one
    expected: dict[str, float] = {}  # source -> draws that this plan adds, on average


def uniform(ids: Sequence[str]) -> np.ndarray:
    """(N,) in [0, 1): the permanent random number of each id (64 hexadecimal digits)."""
    return np.array([int(name[-DIGITS:], 16) for name in ids], np.float64) / 16.0**DIGITS


def rates(
    counts: Mapping[str, int],
    spent: Mapping[str, float],
    elapsed: float,
    review: ReviewParams,
    extra: float = 0.0,
    part: float = 1.0,
) -> tuple[float, dict[str, float]]:
    """(the rate of all answers, source -> a larger rate where it needs one), from what a window holds.

    counts: source -> answers; spent: source -> draws of the last day, on average; elapsed: days since the last plan, at
    most 1; extra: further draws that are wanted of this window; part: share of the day's draws.
    """
    total = sum(counts.values())
    if not total:
        return 0.0, {}
    base = min(1.0, (review.audit_per_day * part * elapsed + extra) / total)
    largest = sorted(counts, key=lambda source: (-counts[source], source))[:SOURCES]
    room = max(0.0, review.audit_per_source * SOURCES - sum(min(n, review.audit_per_source) for n in spent.values()))
    raised = {}
    for source in largest:
        lacking = min(review.audit_per_source - spent.get(source, 0.0), room)
        rate = min(1.0, lacking / counts[source])
        if rate > base:
            raised[source] = rate
            room -= lacking
    return base, raised


def probability(plans: Sequence[Plan], at: datetime, source: str | None, bundle: str | None) -> float:
    """With which probability an answer is drawn: the largest rate of the plans that cover it; 0 without any."""
    covering = (plan for plan in plans if plan.start <= at < plan.end and plan.bundle == bundle)
    return max((max(plan.rate, plan.rates.get(source or UNKNOWN, 0.0)) for plan in covering), default=0.0)


def plans(log: Log) -> list[Plan]:
    """All plans, oldest first. Damaged ones are skipped and logged."""
    found = []
    for key in log.store.list("audit/"):
        content = log.store.read(key)
        try:
            found += [Plan.model_validate(json.loads(content[0]))] if content else []
        except (ValueError, TypeError, ValidationError) as error:
            logger.warning("%s in the production log is skipped: %s", key, error)
    return sorted(found, key=lambda plan: plan.drawn_at)


def draw(
    log: Log,
    review: ReviewParams,
    start: datetime,
    end: datetime,
    bundle: str,
    now: datetime,
    extra: float = 0.0,
    part: float = 1.0,
) -> dict[str, float]:
    """Plan the audit of the answers of `bundle` in [start, end); id -> probability of each image that is drawn.

    part: share of the day's draws, where two models answer (a canary): both are planned at the same `now`.
    """
    rows = log.window(start, end, ["id", "at", "source", "reason"], bundle=bundle)[0].to_pylist()
    rows = [row for row in rows if row["reason"] is None]
    before = plans(log)
    counts = Counter(row["source"] or UNKNOWN for row in rows)
    spent: Counter[str] = Counter()
    for plan in before:
        if plan.drawn_at > now - DAY:
            spent.update(plan.expected)
    earlier = [plan.drawn_at for plan in before if plan.bundle == bundle or plan.drawn_at != now]
    elapsed = min(1.0, (now - earlier[-1]) / DAY) if earlier else 1.0
    rate, raised = rates(counts, spent, max(0.0, elapsed), review, extra, part)
    plan = Plan(start=start, end=end, bundle=bundle, drawn_at=now, answers=len(rows), rate=rate, rates=raised)
    known = [probability(before, row["at"], row["source"], bundle) for row in rows]
    chances = [max(old, rate, raised.get(row["source"] or UNKNOWN, 0.0)) for row, old in zip(rows, known, strict=True)]
    added: dict[str, float] = {}
    for row, old, new in zip(rows, known, chances, strict=True):
        added[row["source"] or UNKNOWN] = added.get(row["source"] or UNKNOWN, 0.0) + new - old
    if rows:
        plan = plan.model_copy(update={"expected": {name: round(n, 6) for name, n in added.items() if n > 0}})
        content = json.dumps(plan.model_dump(mode="json"), allow_nan=False).encode()
        log.store.create(f"audit/{now:%Y%m%dT%H%M%S%fZ}-{sha256_bytes(content)[:16]}.json", content)
    numbers = uniform([row["id"] for row in rows])
    drawn: dict[str, float] = {}
    for row, number, chance in zip(rows, numbers, chances, strict=True):
        if number < chance:
            drawn[row["id"]] = max(chance, drawn.get(row["id"], 0.0))
    return drawn
