"""Late labels change what past windows and weeks measured: a monitor run measures them again.

A label belongs to the answer it is about, whenever it comes. Files of labels that no run has seen name answers; the
windows of these answers get a revision in the journal, and their weeks are estimated again. Decisions stand.

    .evergreen/reports/live_accuracy.json    {schema, labels: files seen, measured: times, periods: weeks by model}

The file is written last, and everything in it can be computed again: a run that is killed before does it all again.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.labels.class_reading import current_taxonomy
from flows.production.corrections import log_corrections
from flows.production.scored import Scored
from monitoring.contracts import Finding, Measures
from monitoring.journal import Journal, window_times
from monitoring.live.labels import Truth, labelled_answers, truths
from monitoring.live.periods import WEEK, Period, measure_period, week_of
from monitoring.log.production_log import Log
from monitoring.pages import live, report
from monitoring.review.queue import queued
from tasks.common.failpoints import failpoint
from tasks.common.files import content_key
from tasks.common.params import Params
from tasks.labels.changes import read_changes
from tasks.labels.taxonomy import Taxonomy
from tasks.releases.pointer import Pointer

SAMPLE = 20_000  # answers of a week that are read; their confidences stand for all
AGAIN = timedelta(hours=1)  # the present week is measured again after this time, labels or not
KEPT = 52  # weeks shown
WEEKLY = "accuracy.week."  # a finding of that name is of one week


def measure_late_labels(
    root: Path,
    params: Params,
    log: Log,
    journal: Journal,
    model: Pointer,
    now: datetime,
    say: Callable[[str], None] = print,
    scored: Scored | None = None,
) -> tuple[list[Period], dict[str, Truth]]:
    """Measure again what labels came for since the last run; returns all periods, oldest first, and all labels.

    Measured again, too: the weeks of answers that were just `scored`, whose labels may be known already, and all weeks
    after a change of the classes.
    """
    folder = live.reports_dir(root)
    before = live.read(folder)
    taxonomy = current_taxonomy(root)
    if corrected := log_corrections(root, log, taxonomy):
        say(f"late labels: {corrected} corrected in the data set")
    keys = log.label_keys()
    known = truths(log.labels(), queued(log), taxonomy) if keys else {}
    new = set(keys) - set(before.labels)
    found = _answers_of_new_labels(params, log, new, now) if new else []
    windows = _revise(log, journal, params, known, taxonomy, found, now)
    if windows:
        say(f"late labels: {len(windows)} window{'s' if len(windows) != 1 else ''} measured again")
    wanted = {(week_of(row["at"]), row["version"], row["bundle"]) for row in found}
    here = (week_of(now), model.version, model.bundle)
    last = before.measured.get(live.key(*here))
    if known and (last is None or now - last >= AGAIN or last > now):
        wanted.add(here)
    if known and scored is not None and scored.bundle == model.bundle:
        weeks = range((week_of(scored.last) - week_of(scored.first)) // WEEK + 1)
        wanted |= {(week_of(scored.first) + number * WEEK, model.version, model.bundle) for number in weeks}
    names = content_key([change.id for change in read_changes(root / "data")])
    if before.periods and before.classes != names:
        wanted |= {(one.start, one.version, one.bundle) for one in before.periods}
    periods = {live.key(one.start, one.version, one.bundle): one for one in before.periods}
    measured = dict(before.measured)
    for start, version, bundle in wanted:
        period = _measure_week(log, params, known, taxonomy, start, version, bundle)
        measured[live.key(start, version, bundle)] = now
        if period is not None:
            periods[live.key(start, version, bundle)] = period
        elif log.window(start, start + WEEK, ["id"], 1, bundle=bundle)[2]:  # all that had a label are excluded now
            periods.pop(live.key(start, version, bundle), None)
    if not new and not wanted:
        return before.periods, known
    kept = live.in_order(periods.values())[-KEPT:]
    now_known = live.Live(labels=keys, measured=measured, periods=kept, live=model.bundle, classes=names)
    for measures, at in windows:
        report.revise(folder, measures, kept, at)
    failpoint("late_labels.shown")
    live.write(folder, now_known)
    report.write_index(folder)
    return kept, known


def accuracies(periods: Iterable[Period], model: Pointer, acted_on: set[str], least: int) -> list[Finding]:
    """The accuracies of the live model's weeks by late labels, without those that have started a retraining.

    least: labels of a week without random ones; fewer may be somebody's complaints.
    """
    found = []
    for period in periods:
        share = period.accuracy or (period.given if period.given and period.given.labels >= least else None)
        mine = period.bundle == model.bundle and period.start + WEEK > model.at and period.id not in acted_on
        if mine and share is not None:
            detail = f"week of {period.start:%Y-%m-%d}, {period.labels} of {period.answers} answers have a label"
            name, value = f"{WEEKLY}{period.id}", share.value
            found.append(Finding(name=name, status="info", value=value, low=share.low, high=share.high, detail=detail))
    return found


def _answers_of_new_labels(params: Params, log: Log, new: Iterable[str], now: datetime) -> list[dict]:
    """The answers that labels in the files `new` are about: at, version, bundle."""
    ids = set(log.labels(keys=new)["id"].to_pylist())
    start = now - timedelta(days=params.capture.keep_days)
    rows = log.answers(ids, start, now, ["at", "version", "bundle"]).to_pylist()
    return [row for row in rows if row["version"] and row["bundle"]]


def _revise(
    log: Log,
    journal: Journal,
    params: Params,
    known: Mapping[str, Truth],
    taxonomy: Taxonomy,
    answers: Iterable[dict],
    now: datetime,
) -> list[tuple[Measures, datetime]]:
    """Measure the accuracy of the windows of `answers` again; returns the revised ones, and when.

    A window that a killed run has revised already is among them: its page may not show it yet.
    """
    times = sorted(row["at"] for row in answers)
    revised = []
    for window in journal.windows() if times else ():
        if (bounds := window_times(window)) is None:
            continue
        at = bisect_left(times, bounds[0])
        if at == len(times) or times[at] >= bounds[1] or (entry := journal.read(window)) is None:
            continue
        measures = _with_accuracy(log, params, known, taxonomy, entry[0])
        journal.revise(measures, now)
        failpoint("late_labels.revised")
        if (when := journal.revised_at(window)) is not None:
            revised.append((measures, when))
    return revised


def _with_accuracy(
    log: Log, params: Params, known: Mapping[str, Truth], taxonomy: Taxonomy, measures: Measures
) -> Measures:
    """`measures` with the accuracy by all labels that are known now; unchanged if the log lacks the answers."""
    from monitoring.drift import reported_measures  # takes a second, and most runs have no new labels

    window = measures.window
    table, _, _ = log.window(
        window.start,
        window.end,
        columns=["id", "confidence", "prediction"],
        limit=params.drift.max_window,
        seed=params.drift.seed,
        bundle=window.bundle,
    )
    labelled = labelled_answers(log, known, window.start, window.end, window.bundle, taxonomy)
    if not len(table):
        return measures
    found = reported_measures.true_accuracy(unique(table), labelled, window.rows) if len(labelled) else []
    others = [finding for finding in measures.findings if finding.name != "accuracy.true"]
    at = next((n for n, finding in enumerate(others) if finding.name.startswith("accuracy")), len(others))
    return measures.model_copy(update={"findings": [*others[:at], *found, *others[at:]]})


def _measure_week(
    log: Log,
    params: Params,
    known: Mapping[str, Truth],
    taxonomy: Taxonomy,
    start: datetime,
    version: str,
    bundle: str,
) -> Period | None:
    """The model's week; None if none of its answers has a label."""
    labelled = labelled_answers(log, known, start, start + WEEK, bundle, taxonomy)
    if not len(labelled):
        return None
    columns = ["id", "source", "confidence", "prediction"]
    table, _, rows = log.window(start, start + WEEK, columns, SAMPLE, params.drift.seed, bundle)
    answered = unique(table.filter(pc.is_valid(table["prediction"])))
    total = round(rows * len(answered) / max(len(table), 1))
    return measure_period(start, version, bundle, answered, labelled, total)


def unique(table: pa.Table) -> pa.Table:
    """The first row of each id."""
    seen: set[str] = set()
    rows = [n for n, name in enumerate(table["id"].to_pylist()) if not (name in seen or seen.add(name))]
    return table.take(pa.array(rows, pa.int64()))
