"""What one check found."""

from dataclasses import dataclass
from typing import Literal

from tasks.common.text import single_spaced

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line for a person: what was looked at, how it is, and how to repair it."""

    check: str
    state: State
    text: str
    cure: str = ""  # what to do; empty if all is well

    def line(self) -> str:
        """One line of text."""
        return single_spaced(f"{self.check}: {self.text}{f'. To repair it: {self.cure}' if self.cure else ''}")


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, cure: str) -> Finding:
    """It works, and may not for long or not for all."""
    return Finding(check, "warning", text, cure)


def problem(check: str, text: str, cure: str) -> Finding:
    """Commands fail, or data are at risk."""
    return Finding(check, "problem", text, cure)
