"""Every recorded run as one row, and the held runs among them, read cheaply.

What has ended for good does not change: its row is cached in .evergreen/cache/runs/. Only new records, those of held
runs, and those of rejected runs that were published since, are read again. A damaged record is a row that says so.
"""

import functools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime

from flows.publishing.history import known_history, open_project
from flows.publishing.outcomes import without_advice
from tasks.common.checks import Check, Frozen
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.paths import cache_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import read_rebuildable
from tasks.gate.verdict import floor_words
from tasks.releases.store import Releases

SCHEMA = 2
FINAL = ("promoted", "rejected", "refused", "unchanged")
STAMP = re.compile(r"(\d{8}T\d{6})\d*-")  # with which run ids begin
NAMES = ("key", "by", "reason", "sentence", "version", "bundle", "rev")


class RecordedRow(Frozen):
    """What lists say of a recorded run; of a damaged record, `sentence` says why it cannot be read."""

    run_id: str
    outcome: Literal["promoted", "held", "rejected", "refused", "unchanged", "damaged"]
    at: AwareDatetime | None = None  # when it ended
    key: str | None = None
    by: str | None = None
    reason: str | None = None
    sentence: str = ""
    version: str | None = None
    bundle: str | None = None
    rev: str | None = None
    champion: str | None = None  # version that it was judged against
    floors: str = ""  # how it stood to the floors of then: "2 met, 1 unproven"
    how: str = ""  # of the newest decision, such as "approved"
    decided_by: str = ""
    why: str = ""  # of the decision
    comments: int = 0  # of a run that ended for good: when it was first listed

    @property
    def told(self) -> str:
        """The sentence without the commands at its end: a page has buttons for them."""
        return without_advice(self.sentence)


def held_runs(root: Path, releases: Releases | None = None) -> list[RecordedRow]:
    """The runs that wait for a person, newest first."""
    return [row for row in run_rows(root, releases) if row.outcome == "held"]


def run_rows(root: Path, releases: Releases | None = None) -> list[RecordedRow]:
    """A row of each recorded run, newest first."""
    releases = releases or open_project(root)[1]
    keys = [key for key in releases.store.list("runs/") if key.endswith(".json")]
    ids = [key.removeprefix("runs/").removesuffix(".json") for key in keys]
    file = cache_dir("runs", root) / "rows.json"
    known = _known(file, file.stat().st_mtime_ns) if file.is_file() else {}
    published, rows, changed = _published(root, releases), {}, len(known) > len(ids)
    for run_id in ids:
        row = known.get(run_id)
        if row is None or (row.outcome == "rejected" and run_id in published):
            row = _read(releases, run_id)
            changed = changed or row.outcome in FINAL
        rows[run_id] = row
    if changed:
        final = [row.model_dump(mode="json") for row in rows.values() if row.outcome in FINAL]
        make_folder(file.parent)
        write_json(file, {"schema": SCHEMA, "rows": final})
    return [rows[run_id] for run_id in sorted(rows, reverse=True)]


@functools.lru_cache(maxsize=4)
def _known(file: Path, stamp: int) -> dict[str, RecordedRow]:
    """The rows in `file`, parsed once for each `stamp`, its time of change."""

    def accept(about: dict) -> dict[str, RecordedRow]:
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, expected {SCHEMA}")
        rows = [RecordedRow.model_validate(row) for row in about["rows"]]
        return {row.run_id: row for row in rows}

    return read_rebuildable(file, accept, "the runs are read again") or {}


def _published(root: Path, releases: Releases) -> set[str]:
    try:
        return {pointer.run_id for pointer in known_history(root, releases)}
    except EvergreenError:  # a damaged history: other pages say so
        return set()


def _read(releases: Releases, run_id: str) -> RecordedRow:
    try:
        return row_of(run_id, releases.run(run_id))
    except (EvergreenError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = str(error) if isinstance(error, EvergreenError) else f"its record cannot be read: {error!r}"
        return RecordedRow(run_id=run_id, outcome="damaged", at=_began(run_id), sentence=said)


def row_of(run_id: str, record: dict[str, Any] | None) -> RecordedRow:
    """The row of a record. Raises ValueError, TypeError or KeyError for a damaged one."""
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    about = {name: record[name] for name in NAMES if record.get(name) is not None}
    decided = record.get("decisions") or [{}]
    last = {
        "how": decided[-1].get("how", ""),
        "decided_by": decided[-1].get("by", ""),
        "why": decided[-1].get("why", ""),
    }
    return RecordedRow(
        run_id=run_id,
        outcome=record["outcome"],
        at=datetime.fromisoformat(record["at"]) if record.get("at") else _began(run_id),
        champion=(record.get("verdict") or {}).get("champion"),
        comments=len(record.get("comments", ())),
        floors=floors_of(record),
        **about,
        **last,
    )


def floors_of(record: dict[str, Any]) -> str:
    """How the run of `record` stood to the floors of then, in words; "" without floors."""
    checks = (record.get("verdict") or {}).get("checks") or []
    return floor_words([Check.model_validate(check) for check in checks])


def _began(run_id: str) -> datetime | None:
    found = STAMP.match(run_id)
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None
