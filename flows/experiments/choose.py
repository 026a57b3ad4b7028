"""Which experiment won: a pure function from rows to a choice.

The calibration split decides, and never the test split: the best of many on the test split would be partly luck, and
the gate could no longer trust it. The gate's verdict can only rule a row out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.publishing.experiment_table import Row


@dataclass(frozen=True)
class Choice:
    """The winner, or None where the settings as they are stay the best; `sentence` says why."""

    row: Row | None
    sentence: str


def choose(rows: Sequence[Row]) -> Choice:
    """The winner among `rows`, judged on the same images against the same champion; one of them is the baseline."""
    scored = [row for row in rows if row.figures.get("calibration_score") is not None]
    baseline = next((row for row in scored if not row.changes), None)
    tried = [row for row in scored if row.changes]
    good = [row for row in tried if row.figures["outcome"] != "reject"]
    if not tried:
        return Choice(None, "no experiment with other settings came to a result")
    if not good:
        return Choice(None, "the gate rejects every experiment")
    best = max(good, key=_score)  # the first of equal ones
    if baseline is None:
        return Choice(best, f"{best.name} has the best score on the calibration split, {_score(best):.3f}")
    gain = 100 * (_score(best) - _score(baseline))
    if gain <= 0:
        return Choice(None, f"no experiment beats the settings as they are ({_score(baseline):.3f} on calibration)")
    said = f"{best.name} is {gain:.1f} points better than the settings as they are on the calibration split "
    return Choice(best, said + f"({_score(best):.3f} against {_score(baseline):.3f})")


def _score(row: Row) -> float:
    return row.figures["calibration_score"]
