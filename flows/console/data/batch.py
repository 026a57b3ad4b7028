"""What a batch's page says is true now, and what a person can do about it."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.console.data import refusals
from flows.console.data.batches import BatchRow
from flows.labels.batch_labels import BatchFix, plan_fix
from flows.runs.overview import newest_ended
from tasks.common.errors import EvergreenError
from tasks.releases.store import Releases


@dataclass(frozen=True)
class Validation:
    """What a run's validation found about a batch."""

    checks: list[dict[str, Any]]  # those that failed first
    reasons: list[str] = field(default_factory=list)
    opinions: list[dict[str, Any]] = field(default_factory=list)  # id, given, seen, confidence; disagreements first
    confused: list[dict[str, Any]] = field(default_factory=list)  # given, seen, count


@dataclass(frozen=True)
class Lifted:
    """A tombstone that a person took back."""

    why: str
    by: str
    lifted_why: str
    lifted_by: str
    lifted_at: datetime | None


def what_is_true(row: BatchRow, blocking: bool) -> list[str]:
    """Sentences about what becomes of the batch now. blocking: the newest run ended because of it."""
    stone = row.stone
    if stone is None:
        if blocking:
            return [
                "The newest run refused this batch, although an earlier one had accepted it, so it is not tombstoned: "
                "no model is trained until somebody decides.",
                "Look at what changed since (the rules for data, other batches), correct its labels, or leave it out "
                "with a tombstone.",
            ]
        return ["It is in use: every run trains and tests with it."]
    if not stone.in_force:
        return [
            f"Run {stone.run} refused it: {stone.why}." if stone.run else f"{stone.by} tombstoned it: {stone.why}.",
            "The rules for data have changed since, so the next run judges it again.",
        ]
    if stone.run:
        return [
            f"Run {stone.run} refused it: {stone.why}.",
            "It is kept and left out: runs go on without it.",
            "The next run judges it by the same rules once the tombstone is taken back: correct its labels or change "
            "the rules first.",
        ]
    where = "The tombstone is committed with the project, so only a commit takes it back." if stone.committed else ""
    return [
        f"{stone.by} tombstoned it: {stone.why}.",
        "It is kept and left out: no run trains on it.",
        *filter(None, [where]),
    ]


def is_blocking(root: Path, releases: Releases, batch: str) -> bool:
    """Whether the newest run that ended refused this batch."""
    row = newest_ended(root, releases)
    return row is not None and row.outcome == "refused" and f"batch {batch} " in row.sentence


def validation_of(root: Path, row: BatchRow) -> Validation | None:
    """What is known of the batch's validation: of the refusal, else of the newest run that accepted it."""
    kept = refusals.kept_validation(root, row.id)
    if kept is not None and row.state != "in use":
        about = next((one for one in kept.get("batches", []) if one.get("batch") == row.id), {"checks": []})
        refused = kept.get("refused") or {}
        found = kept.get("opinions") or {}
        return Validation(
            _failed_first(about["checks"]),
            refused.get("reasons", []),
            found.get("images", []),
            found.get("confused", []),
        )
    checks = refusals.accepted_checks(root, row.id)
    return Validation(_failed_first(checks)) if checks is not None else None


def lifted_of(releases: Releases, batch: str) -> list[Lifted]:
    """The tombstones of the batch that were taken back, newest first."""
    found = []
    for one in reversed(releases.lifted().get(batch, [])):
        end = one.get("lifted", {})
        at = end.get("at")
        found.append(
            Lifted(
                one.get("why", ""),
                one.get("by", ""),
                end.get("why", ""),
                end.get("by", ""),
                at and datetime.fromisoformat(at),
            )
        )
    return found


def preview(
    root: Path, batch: str, given: str, right: str, swap: bool, known: list[str]
) -> tuple[BatchFix | None, str]:
    """(what a fix of the batch's labels would change, "") or (None, why it is not possible). right: "" leaves out."""
    try:
        return plan_fix(root, batch, given, right or None, swap=swap, known=known), ""
    except EvergreenError as error:
        return None, str(error)


def _failed_first(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(checks, key=lambda check: check.get("status") == "pass")
