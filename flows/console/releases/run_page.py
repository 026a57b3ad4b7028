"""What the page of one run shows, from its record, its stored report and what is live."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flows.console.releases import answers
from flows.console.releases.answers import Answer, Meanwhile
from flows.console.shell.console import Console
from flows.console.shell.facts import recent
from flows.publishing.decisions import Judgement, newest_judgement
from flows.publishing.history import Period, known_history, periods
from flows.publishing.recorded_run import RUN_ID
from flows.publishing.run_list import RecordedRow, row_of
from flows.release_report import charts
from flows.release_report.stored import read_data
from flows.server.process import api_of
from flows.services.up import next_runs, supervised
from monitoring.journal import named_window
from monitoring.pages import live as weeks
from monitoring.pages import report
from tasks.common.checkout import known_checkout
from tasks.common.errors import EvergreenError
from tasks.releases.pause import pause_of
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

TREND_SECONDS = 20.0  # between looks at reports and Prefect
NO_RECORD = "The run that made it has no record here: this is what the history of releases says of it."
RETRAIN = "retrain-when-needed"  # the flow whose schedule starts a run


@dataclass(frozen=True)
class RunPage:
    """Everything but the forms."""

    run_id: str
    record: dict[str, Any]
    row: RecordedRow
    live: Pointer | None
    periods: list[Period]  # in which this run's model was live, oldest first
    judgement: Judgement | None
    better: Answer | None
    worse: Answer | None
    nothing: list[str]
    checks: list[dict]  # {"check", "picture", "plain"}: failed first
    report: dict[str, Any] | None
    no_report: str  # why there is none
    archive: bool
    links: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def fresh(self) -> bool:
        """Was the newest verdict given against what is live now?"""
        return self.judgement is not None and self.judgement.is_fresh(self.live)

    @property
    def is_live(self) -> bool:
        return bool(self.live and self.record.get("bundle") and self.live.bundle == self.record["bundle"])

    @property
    def version(self) -> str | None:
        return self.periods[-1].version if self.periods else self.record.get("version")


def run_of(console: Console, name: str) -> tuple[str, dict[str, Any] | None, str]:
    """(run id, its record or None, why it cannot be read) of a run, or of the run that made the version `name`.

    A rollback stands for the run whose version it made live again. Where that run has no record, its pointer speaks.
    """
    releases = console.releases()
    try:
        if RUN_ID.fullmatch(name) and (record := releases.run(name)) is not None:
            return name, record, ""
        history = known_history(console.root, releases)
        version = next((one.version for one in history if name in (one.version, one.run_id)), None)
        first = next((one for one in history if one.version == version), None)
        if first is None:
            return name, None, ""
        return first.run_id, releases.run(first.run_id) or record_of(first), ""
    except EvergreenError as error:
        return name, None, str(error)


def record_of(pointer: Pointer) -> dict[str, Any]:
    """What a pointer says of its run, as a record; `of_pointer` tells that there is no other one."""
    about = {"outcome": "promoted", "sentence": pointer.why, "by": pointer.by, "at": pointer.at.isoformat()}
    about |= {"version": pointer.version, "bundle": pointer.bundle, "rev": pointer.git_rev}
    return about | {"of_pointer": True}


def run_page(console: Console, run_id: str, record: dict[str, Any]) -> RunPage:
    """The page of a run. Raises EvergreenError for a damaged record."""
    releases, problems = console.releases(), []
    try:
        row, judgement = row_of(run_id, record), newest_judgement(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvergreenError(f"the record of run {run_id} is damaged: {error}") from None
    try:
        history = known_history(console.root, releases)
    except EvergreenError as error:
        history = []
        problems.append(str(error))
    live = history[-1] if history else None
    own = [one for one in periods(history) if one.run_id == run_id or one.bundle == record.get("bundle")]
    data, no_report = (None, NO_RECORD) if record.get("of_pointer") else _report(releases, run_id, row)
    verdict = judgement.verdict if judgement else None
    return RunPage(
        run_id=run_id,
        record=record,
        row=row,
        live=live,
        periods=own,
        judgement=judgement,
        better=answers.better(verdict) if verdict else None,
        worse=answers.worse(verdict) if verdict else None,
        nothing=answers.nothing(recent(("meanwhile", console.root), lambda: meanwhile(console, live), TREND_SECONDS))
        if row.outcome == "held"
        else [],
        checks=forest(verdict.checks) if verdict else [],
        report=data,
        no_report=no_report,
        archive=_has(releases, f"runs/{run_id}/report.html"),
        links=_links(run_id, record, history, own, live),
        problems=problems,
    )


def forest(checks: list) -> list[dict]:
    """Checks with their pictures: failed checks first, then comparisons, bounds and plain facts."""
    order = {"floor": 0, "difference": 1, "bound": 2, "fact": 3}
    rows = [{"check": check, "picture": picture} for check, picture in zip(checks, charts.forest(checks), strict=True)]
    return sorted(rows, key=lambda row: (row["check"].status == "pass", order[row["picture"]["kind"]]))


def meanwhile(console: Console, live: Pointer | None) -> Meanwhile:
    """What goes on without a decision."""
    root, folder = console.root, weeks.reports_dir(console.root)
    pause = pause_of(console.releases())
    own = [one for one in weeks.read(folder).periods if live and one.bundle == live.bundle]
    entries = [one for one in report.read_index(folder) if live and one["version"] == live.version]
    last = sorted(entries, key=lambda one: one["id"])[-answers.WINDOWS :]
    return Meanwhile(
        live=live.version if live else None,
        next_run=_next_run(console),
        running=supervised(root),
        paused=pause.sentence() if pause else "",
        weeks=own,
        drifted=sum(bool(one["drifted"]) for one in last),
        windows=len(last),
    )


def _next_run(console: Console) -> datetime | None:
    api, own = api_of(console.root), known_checkout(console.root)
    if not api or not own:
        return None
    try:
        return next((due for name, due in next_runs(api, own.id) if name == RETRAIN), None)
    except EvergreenError:
        return None


def _report(releases: Releases, run_id: str, row: RecordedRow) -> tuple[dict[str, Any] | None, str]:
    try:
        if (data := read_data(releases, run_id)) is not None:
            return data, ""
    except EvergreenError as error:
        return None, str(error)
    if row.outcome in ("refused", "unchanged"):
        return None, "Nothing new was judged in this run, so it has no report."
    return None, "The figures of this run's report are not stored: an older Evergreen made it, or its report failed."


def _has(releases: Releases, key: str) -> bool:
    try:
        return releases.store.about(key) is not None
    except Exception:  # each kind of store raises its own error for an absent key
        return False


def _links(
    run_id: str, record: dict[str, Any], history: list[Pointer], own: list[Period], live: Pointer | None
) -> list[tuple[str, str]]:
    found = [] if record.get("of_pointer") else [("The run: its steps and log", f"/runs/{run_id}")]
    if window := named_window(record.get("reason") or ""):
        found.append(("The window that caused it", f"/production/{window}"))
    if own:
        before = [one.version for one in history if one.seq < own[0].seq and one.version != own[0].version]
        if before:
            found.append((f"Compare with {before[-1]}, live before it", f"/compare?a={before[-1]}&b={own[0].version}"))
        if live and live.version != own[0].version:
            found.append((f"Compare with {live.version}, live now", f"/compare?a={own[0].version}&b={live.version}"))
    elif live and record.get("rev"):
        found.append((f"Compare with {live.version}, live now", f"/compare?a={live.version}&b={run_id}"))
    return found
