"""What people marked as expected: which measures of which sources, until when, and why.

    expected.json    every mark, oldest first; next to the production log, so all monitors of it agree

A mark changes no measure: what it covers is still measured and shown, as "expected", and does not count in a decision.
"""

import json
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from monitoring.contracts import Expected, Finding, Measures, Window
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.storage.blobs import Conflict, Store

FILE = "expected.json"
SCHEMA = 1
TRIES = 50  # of a change; each lost one means that another writer succeeded
NEVER = ("accuracy.", "label.shift", "sources", "repeats")  # findings that are reported, not judged


def judged(measures: Measures, marks: Sequence[Expected]) -> Measures:
    """`measures` with every drift that `marks` cover as "expected"."""
    names = explained(measures, marks)
    if not names:
        return measures
    found = [_expected(one) if one.name in names else one for one in measures.findings]
    return measures.model_copy(update={"findings": found})


def explained(measures: Measures, marks: Sequence[Expected]) -> set[str]:
    """The names of drifted findings that `marks` cover.

    A mark of some sources covers a drift that is gone without them. Whether it is, was measured with the window
    (`Measures.elsewhere`); a window that was measured before the mark is taken at the person's word.
    """
    found = set()
    for finding in measures.drifted():
        covering = [mark for mark in marks if covers(mark, finding.name, measures.window)]
        everywhere = any(not mark.sources for mark in covering)
        if covering and (everywhere or finding.name not in (measures.elsewhere or ())):
            found.add(finding.name)
    return found


def covers(mark: Expected, name: str, window: Window) -> bool:
    """Whether `mark` speaks of the measure `name` and holds in `window`."""
    if mark.removed_at is not None or (mark.measures and name not in mark.measures):
        return False
    return mark.since < window.end and (mark.until is None or window.start < mark.until)


def marked_sources(measures: Measures, marks: Sequence[Expected]) -> dict[str, frozenset[str]]:
    """Drifted measure -> the sources that `marks` call expected; without those that a mark covers in every source."""
    found = {}
    for finding in measures.drifted():
        covering = [mark for mark in marks if covers(mark, finding.name, measures.window)]
        if covering and all(mark.sources for mark in covering):
            found[finding.name] = frozenset(source for mark in covering for source in mark.sources)
    return found


def _expected(finding: Finding) -> Finding:
    return finding.model_copy(update={"status": "expected"})


# --- the file


def marks(store: Store) -> list[Expected]:
    """The marks that hold or will, or held until their time; without the removed ones."""
    return [mark for mark in all_marks(store) if mark.removed_at is None]


def all_marks(store: Store) -> list[Expected]:
    """Every mark, the removed ones too, oldest first. Raises EvergreenError if they cannot be read."""
    return _load(store)[0]


def mark_expected(
    store: Store,
    *,
    by: str,
    why: str,
    since: datetime,
    until: datetime | None = None,
    measures: Collection[str] = (),
    sources: Collection[str] = (),
    now: datetime | None = None,
) -> Expected:
    """Add a mark; returns it. Raises EvergreenError without a reason, or if it could not hold in any window."""
    now = now or datetime.now(UTC)
    if not why.strip():
        raise EvergreenError("a mark needs a reason: say why this is expected, so that others can judge it later")
    if until is not None and until <= max(now, since):
        raise EvergreenError(f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC has passed: a mark ends in the future")
    if odd := sorted(name for name in measures if name.startswith(NEVER)):
        raise EvergreenError(f"{', '.join(odd)}: only measures that are judged can be marked as expected")
    new = Expected(
        id=uuid.uuid4().hex[:12],
        at=now,
        by=by,
        why=" ".join(why.split()),
        since=since,
        until=until,
        measures=sorted(set(measures)),
        sources=sorted(set(sources)),
    )
    _change(store, lambda known: [*known, new])
    return new


def remove_mark(store: Store, mark: str, *, by: str, now: datetime | None = None) -> Expected:
    """Take the mark with this id back; it stays in the file. Raises EvergreenError if there is none."""
    found = next((one for one in marks(store) if one.id == mark), None)
    if found is None:
        raise EvergreenError(f"no mark {mark!r}: it was removed already, or it is of another project")
    gone = {"removed_by": by, "removed_at": now or datetime.now(UTC)}
    _change(store, lambda known: [one.model_copy(update=gone) if one.id == mark else one for one in known])
    return found


def _change(store: Store, change: Callable[[list[Expected]], list[Expected]]) -> None:
    for _ in range(TRIES):
        known, token = _load(store)
        after: dict[str, Any] = {"schema": SCHEMA, "marks": [one.model_dump(mode="json") for one in change(known)]}
        try:
            store.swap(FILE, (json.dumps(after, indent=1, sort_keys=True) + "\n").encode(), token)
            return
        except Conflict:
            continue
    raise EvergreenError(f"{FILE} in the production log changed {TRIES} times during an update: try again")


def _load(store: Store) -> tuple[list[Expected], str | None]:
    found = store.read(FILE)
    if found is None:
        return [], None
    try:
        about = json.loads(found[0])
        refuse_newer(about["schema"], SCHEMA, f"{FILE} in the production log")
        return [Expected.model_validate(one) for one in about["marks"]], found[1]
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise EvergreenError(
            f"{FILE} in the production log cannot be read ({error}): restore it from a backup, or delete it to judge "
            "everything again"
        ) from None
