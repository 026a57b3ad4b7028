"""What the gate returns: a verdict, and one finding per check."""

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
