"""The list of releases: every promotion, the unpublished runs between them, filters by outcome.

Newest first, PAGE entries a page, cut at a promotion or a run.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flows.publishing import outcomes
from flows.publishing.history import Period
from flows.publishing.run_list import RecordedRow

PAGE = 50
FOLDED = 30  # runs listed of one fold
WORDS = {**outcomes.WORDS, "damaged": "its record is damaged"}
HOW = {"approved": "approved by a person", "override": "published against the gate", "completed": "promoted"}


@dataclass(frozen=True)
class Release:
    """A promotion, and the runs that ended after it (until the next one) without being published."""

    period: Period
    what: str
    why: str
    retired: bool
    floors: str = ""  # how its run stood to the floors of then: "2 met, 1 unproven"
    others: list[RecordedRow] = field(default_factory=list)

    @property
    def folded(self) -> str:
        """ "3 other runs: 2 rejected, 1 the same model again"."""
        counts = Counter(words_of(row) for row in self.others)
        listed = ", ".join(f"{count} {words}" for words, count in counts.most_common())
        return f"{len(self.others)} other {'run' if len(self.others) == 1 else 'runs'}: {listed}"


def words_of(row: RecordedRow) -> str:
    """How a run ended, in our words."""
    if row.outcome == "rejected" and row.how == "refused":
        return f"refused by {row.decided_by}" if row.decided_by else "refused by a person"
    if row.outcome == "promoted" and row.how in HOW:
        return HOW[row.how]
    return WORDS[row.outcome]


def releases(
    periods: Sequence[Period], rows: Sequence[RecordedRow], retired: dict[str, dict], after: int | None = None
) -> tuple[list[RecordedRow], list[Release], int | None]:
    """(unpublished runs newer than the newest release, a page of releases older than promotion `after`, next `after`).

    periods: oldest first; rows: newest first.
    """
    by_id = {row.run_id: row for row in rows}
    newest = list(reversed(periods))
    chosen = [one for one in newest if after is None or one.seq < after]
    shown, rest = chosen[:PAGE], chosen[PAGE:]
    loose = [row for row in rows if row.outcome not in ("promoted", "held") and row.at is not None]
    loose = sorted(loose, key=lambda row: row.at, reverse=True)
    found, ends = [], [-row.at.timestamp() for row in loose]  # ascending: rows are newest first
    for period in shown:
        begin = 0 if period.until is None else bisect_right(ends, -period.until.timestamp())
        others = loose[begin : bisect_right(ends, -period.since.timestamp())]
        what, why = told(period, by_id.get(period.run_id))
        row = by_id.get(period.run_id)
        found.append(Release(period, what, why, period.version in retired, row.floors if row else "", others))
    first = [row for row in loose if not periods or row.at < periods[0].since] if after is None else []
    return first, found, shown[-1].seq if rest else None


def told(period: Period, row: RecordedRow | None) -> tuple[str, str]:
    """(what happened, why) of a promotion."""
    if period.again:
        return "live again by a rollback", period.why.removeprefix("rollback: ")
    if row is None:
        return "adopted" if period.why.startswith("adopted") else "promoted", period.why
    return words_of(row), row.why if row.how in ("approved", "override") and row.why else period.why


def of_outcome(rows: Sequence[RecordedRow], outcome: str, after: str = "") -> tuple[list[RecordedRow], str | None]:
    """(a page of the runs that ended as `outcome` and are older than run `after`, the next `after`)."""
    chosen = [row for row in rows if row.outcome == outcome and (not after or row.run_id < after)]
    return chosen[:PAGE], chosen[PAGE - 1].run_id if len(chosen) > PAGE else None


COLUMNS = ("at", "what", "version", "run", "by", "why", "sentence")


def table(periods: Sequence[Period], rows: Sequence[RecordedRow]) -> list[tuple[datetime | None, ...]]:
    """Every promotion and every other run for a CSV file, newest first."""
    by_id = {row.run_id: row for row in rows}
    lines = []
    for period in periods:
        row = by_id.get(period.run_id)
        what, why = told(period, row)
        lines.append((period.since, what, period.version, period.run_id, period.by, why, row.sentence if row else ""))
    for row in rows:
        if row.outcome != "promoted":
            by = row.decided_by or row.by
            lines.append((row.at, words_of(row), row.version, row.run_id, by, row.why or row.reason, row.sentence))
    dated = [line for line in lines if line[0] is not None]
    return [*sorted(dated, key=lambda line: line[0], reverse=True), *(line for line in lines if line[0] is None)]
