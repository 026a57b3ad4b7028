"""Files of the drift reports: a page per window, an index of all, and pruning of old pages.

Each page is one styled file without scripts that loads nothing from elsewhere. It looks the same opened from disk and
served by the console.

    <folder>/<window id>.html    the pages; index.json: one small entry per page; index.html: all, newest first
"""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from monitoring.contracts import DriftDecision, Measures
from monitoring.live.periods import Period
from monitoring.pages import live, plots
from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.render import OUTCOMES, check_window_id, name, render, when
from monitoring.pages.window_page import drift_ratio, window_page, with_accuracy
from tasks.common.files import atomic_path, locked, write_json
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable

LOCK_SECONDS = 600.0  # writing an entry takes milliseconds, on a busy disk seconds
ENTRY = {"id", "outcome", "sentence", "version", "rows", "drifted", "errors", "alarms", "worst"}  # of index.json
CELLS = 400  # of the index page's strip


def write(
    folder: Path,
    shown: MeasuredWindow,
    history: Sequence[tuple[Measures, DriftDecision]],
    *,
    done: Sequence[str] = (),
    images: int = 12,
    keep: int = 5_000,
) -> Path:
    """Write the window's page and the index, delete all but the newest `keep` pages; returns the path.

    history: earlier windows, in any order; done: sentences about what was started because of this window.
    """
    measures = shown.measures
    path = folder / f"{check_window_id(measures.window.id)}.html"
    with atomic_path(path) as temporary:
        week = live.week_of_window(live.read(folder).periods, measures.window)
        temporary.write_text(window_page(shown, history, done, images, week), encoding="utf-8")
    with _index_lock(folder):
        entries = {entry["id"]: entry for entry in read_index(folder)}
        entries[measures.window.id] = _entry(measures, shown.decision)
        kept = [entries[id_] for id_ in sorted(entries)][-keep:]
        write_json(folder / "index.json", kept)
    for old in set(entries) - {entry["id"] for entry in kept}:
        (folder / f"{check_window_id(old)}.html").unlink(missing_ok=True)
    write_index(folder)
    return path


def revise(folder: Path, measures: Measures, periods: list[Period], at: datetime) -> None:
    """Show on the window's page what was measured again at `at`: its accuracies and its week. The decision stays."""
    path = folder / f"{check_window_id(measures.window.id)}.html"
    if not path.is_file():
        return
    page = live.with_week(path.read_text(encoding="utf-8"), periods)
    page = with_accuracy(page, measures, at)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_index(folder: Path) -> Path:
    """Write index.html from index.json and the weeks of live accuracy."""
    with atomic_path(folder / "index.html") as temporary:
        known = live.read(folder)
        temporary.write_text(index_page(read_index(folder), known.periods, known.live), encoding="utf-8")
    return folder / "index.html"


def index_page(entries: Sequence[dict], weeks: Sequence[Period] = (), bundle: str = "") -> str:
    """The page of all reports, of which `entries` are in index.json. weeks: live accuracy, oldest first.

    bundle: of the live model.
    """
    newest = sorted(entries, key=lambda entry: entry["id"], reverse=True)
    counts = {outcome: sum(entry["outcome"] == outcome for entry in newest) for outcome in OUTCOMES}
    return render(
        "index.html", entries=newest, counts=counts, outcomes=OUTCOMES,
        weeks=live.weeks(list(weeks), bundle),
        blocks=[newest[start : start + 100] for start in range(0, len(newest), 100)],
        strip=plots.strip(_cells(newest[::-1])),
    )  # fmt: skip


def read_index(folder: Path) -> list[dict]:
    """The entries of all reports, oldest first; none if the file is missing or damaged: see `rebuild_index`."""
    return read_rebuildable(folder / "index.json", _accept, "the next monitor run makes it from its journal") or []


def _accept(entries: list) -> list[dict]:
    for entry in expect(entries, list):
        check_window_id(expect(entry, dict)["id"])
        if missing := ENTRY - entry.keys():
            raise ValueError(f"{', '.join(sorted(missing))}: missing in an entry")
    return entries


def rebuild_index(folder: Path, windows: Callable[[], Sequence[tuple[Measures, DriftDecision]]]) -> int:
    """Make index.json again where it is lost, for those of the `windows` that have a page; returns their number."""
    with _index_lock(folder):
        if read_index(folder) or not any(folder.glob("*Z-*Z.html")):
            return 0
        entries = [_entry(m, decision) for m, decision in windows() if (folder / f"{m.window.id}.html").is_file()]
        write_json(folder / "index.json", sorted(entries, key=lambda entry: entry["id"]))
    return len(entries)


def _entry(measures: Measures, decision: DriftDecision) -> dict:
    """The window's entry in the index: small, because there are thousands."""
    drifted = measures.drifted()
    worst = max((ratio for finding in drifted if (ratio := drift_ratio(finding))), default=None)
    return {
        "id": measures.window.id,
        "outcome": decision.outcome,
        "sentence": textwrap.shorten(decision.sentence, 500, placeholder="…"),
        "version": name(measures.window.version),
        "rows": measures.window.rows,
        "drifted": len(drifted),
        "errors": sum(finding.status == "error" for finding in measures.findings),
        "alarms": len(decision.alarms),
        "worst": None if worst is None else round(worst, 2),
    }


def _cells(entries: Sequence[dict]) -> list[tuple[str, str]]:
    """At most CELLS cells, oldest first: each shows the gravest outcome of an equal number of windows."""
    size = -(-len(entries) // CELLS) or 1
    grave = list(OUTCOMES)
    cells = []
    for end in range(len(entries), 0, -size):
        part = entries[max(end - size, 0) : end]
        worst = max(part, key=lambda entry: grave.index(entry["outcome"]))
        cells.append((worst["outcome"], f"{when(worst['id'])}: {OUTCOMES[worst['outcome']][0]}"))
    return cells[::-1]


@contextmanager
def _index_lock(folder: Path) -> Iterator[None]:
    """One writer of the index at a time; the lock ends with its process."""
    make_folder(folder)
    with locked(folder / ".index.lock", LOCK_SECONDS, f"the index of reports in {folder}"):
        yield
