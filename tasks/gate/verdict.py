"""What the gate returns: a verdict, and one finding per check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.common.checks import Check, Frozen


class GateVerdict(Frozen):
    """Whether the challenger may replace the champion, with every check behind the decision."""

    outcome: Literal["promote", "hold", "reject"]
    sentence: str
    checks: list[Check]
    challenger: str  # sha256 of the challenger's bundle manifest
    champion: str | None  # version of the champion it was compared with; None: first model
    hard_set: str | None  # version of the hard set; None: there is none
    provisional: bool = False  # promoted or held although below the floor of a first model


def floor_words(checks: Sequence[Check]) -> str:
    """How many of the user's floors are in which state: "2 met, 1 unproven"; "" without floors."""
    floors = [check for check in checks if check.is_floor and check.name.startswith("floor.")]
    found = ["error" if check.status == "error" else check.detail.partition(":")[0] for check in floors]
    states = ("met", "unproven", "below", "missed", "error")
    return ", ".join(f"{found.count(state)} {state}" for state in states if state in found)


@dataclass(frozen=True)
class Finding:
    """A check and what it means for the outcome.

    equal: not shown to be better; suspect: perhaps worse; below: under a floor by the estimate, or not shown to be
    above it where `unproven` is hold; provisional: below the floor of a first model, and warn: beyond a default bound
    where nothing better is live, both of which forbid nothing.
    """

    check: Check
    effect: Literal["pass", "equal", "suspect", "below", "warn", "provisional", "reject"]
    shown: bool | None = None  # of a comparison: is the loss shown to be within its margin?
    needs: int | None = None  # images more that would show it


def made(name: str, effect: str, detail: str, **figures: float | None) -> Finding:
    """A finding whose check passes unless its effect forbids something."""
    status = "pass" if effect in ("pass", "warn", "provisional") else "fail"
    return Finding(Check(name=name, status=status, detail=detail, **figures), effect)


def error(name: str, detail: str) -> Finding:
    """A finding of what cannot be computed: it never passes."""
    return Finding(Check(name=name, status="error", detail=detail), "reject")
