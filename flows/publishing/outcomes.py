"""How a run can end, and the exit code that a schedule or script sees."""

import re
from typing import Literal

from flows.publishing.remedies import Remedy
from tasks.common.checks import Frozen
from tasks.gate.verdict import GateVerdict

Outcome = Literal["promoted", "held", "rejected", "refused", "unchanged"]

WORDS: dict[str, str] = {  # for people, on pages and in lists
    "promoted": "promoted",
    "held": "waits for approval",
    "rejected": "rejected",
    "refused": "data refused",
    "unchanged": "the same model again",
}
CANCELLED = 5  # exit code of a run that a person cancelled
EXIT_CODES: dict[str, int] = {"promoted": 0, "held": 0, "unchanged": 0, "refused": 3, "rejected": 4}  # 1: an error
APPROVE = re.compile(r" `evergreen approve [^`]*` publishes it( at once)?\.")


def without_advice(sentence: str) -> str:
    """`sentence` of a held run without the command that publishes it: once it is published, or beside a button."""
    return APPROVE.sub("", sentence)


class Ending(Frozen):
    """How a run ended; `sentence` tells a person what happened and why."""

    outcome: Outcome
    sentence: str
    version: str | None = None
    verdict: GateVerdict | None = None
    remedies: list[Remedy] = []  # of a rejected first model, the likeliest first
    rollout: bool = False  # held until production has shown that it is not worse (release.strategy)

    def lines(self) -> list[str]:
        """The remedies as numbered lines for the terminal."""
        return [f"  {number}. {remedy.text}" for number, remedy in enumerate(self.remedies, 1)]
