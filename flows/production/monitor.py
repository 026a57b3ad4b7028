"""One monitor run: measure the newest window of production, decide, act, report.

Late labels come first: past windows and weeks are measured again (`late_labels`). A window holds what the live model
answered since the previous window. It ends before now by the time for which capture
may hold an answer back, or right after what `evergreen score` has just logged. Traffic of an earlier time that was
scored since the last run is a window of its own. A window stays open until it has decide.min_rows rows or is a day old.
Nothing here imports torch or Prefect: a run without a full window costs one listing of the log.

    .evergreen/monitor.json    when the last run succeeded, and what it found

The run acts before it writes the journal. A run that is killed in between acts again, and single flight merges the
second event with the first. In the other order the event would be lost.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from flows.labels.class_reading import current_taxonomy
from flows.production import scored
from flows.production.act import act, canary_of, new_labels
from flows.production.fresh_feedback import take_fresh
from flows.production.late_labels import WEEKLY, accuracies, measure_late_labels
from flows.rollout.act import look as look_at_rollout
from flows.server.events import request_retrain
from monitoring.alerts import alert, alert_once, retry_alerts
from monitoring.contracts import DriftDecision, Expected, Finding, Measures, Situation, Window, WindowDetails
from monitoring.expected import judged, marked_sources, marks
from monitoring.journal import Journal, window_id
from monitoring.live.labels import Truth, labelled_answers
from monitoring.live.periods import Period, period_id, week_of
from monitoring.log.production_log import Log, open_log
from monitoring.pages.live import reports_dir
from monitoring.seen import Seen, last_at, note_seen
from tasks.common.files import try_locked
from tasks.common.params import Params, load_params
from tasks.common.paths import cache_dir, state_dir
from tasks.common.private import make_folder
from tasks.releases.bundle import read
from tasks.releases.pause import pause_of
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, cached_bundle, open_store

LONGEST = timedelta(days=1)  # longest window; after a longer silence only the newest day counts
HEAVY = ("image",)  # log columns that are not read: encoded bytes; pages show the thumbnails
PAST = 30  # windows shown in a page's trend and used for a decision's persistence


def monitor_and_record(root: Path, say: Callable[[str], None] = print, now: datetime | None = None) -> str:
    """Run `monitor` unless another run is active, and record the result for `evergreen status`.

    Returns the result's sentence.
    """
    state = state_dir(root)
    make_folder(state)
    with try_locked(state / "monitor.lock") as mine:
        if not mine:
            return "another monitor run is active"
        if labels := take_fresh(root, now or datetime.now(UTC)):  # first: this run measures with them
            say(labels)
        try:
            seen = monitor(root, say, now)
            note_seen(root, seen)
            for problem in retry_alerts(root):
                say(problem)
            alert_once(root, "monitor silence", "silence", None)
            with_labels = _reevaluated(root, say) if seen.outcome != "nothing" else None
        except Exception:
            _rolled_all_the_same(root, say, now)
            raise
        rolled = look_at_rollout(root, say, now) if seen.outcome != "nothing" else None
    found = f"{seen.outcome}: {seen.sentence}"
    return (
        ". ".join(part.rstrip(".") for part in (found, with_labels, rolled) if part) if with_labels or rolled else found
    )


def _rolled_all_the_same(root: Path, say: Callable[[str], None], now: datetime | None) -> None:
    """Look at the rollout although production could not be measured: a bad challenger must not answer meanwhile."""
    try:
        if rolled := look_at_rollout(root, say, now):
            say(rolled)
    except Exception as error:  # the caller raises what came first
        say(f"the rollout could not be looked at: {error}")


def _reevaluated(root: Path, say: Callable[[str], None]) -> str | None:
    """Compare the champion with its predecessor once enough true labels came since the last comparison."""
    from flows.production.reevaluate import due, reevaluate

    params = load_params(root / "params.yaml")
    live = open_store(params.store, root).live()
    if live and due(root, open_log(root, params), live, params.decide.min_rows):
        return reevaluate(root, say)
    return None


def monitor(
    root: Path, say: Callable[[str], None] = print, now: datetime | None = None, settle: float | None = None
) -> Seen:
    """Do one run. The window ends `settle` seconds before `now`; None: as long as capture may hold answers back."""
    now = (now or datetime.now(UTC)).astimezone(UTC)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    live = releases.live()
    if live is None:
        return Seen(at=now, outcome="nothing", sentence="no model is live yet, so there is nothing to monitor")
    log = open_log(root, params)
    journal = Journal(log.store)
    just = scored.pending(root, live.bundle)
    weeks, known = measure_late_labels(root, params, log, journal, live, now, say, just)
    past = journal.recent(max(params.decide.persistence[1], PAST))
    for key in journal.skipped:
        say(f"skipped {key} of the journal, which cannot be read")
    situation = _situation(root, params, releases, live, log, journal, now, weeks, past)
    start = _start(past, live, now)
    held_back = params.capture.flush_seconds + 1 if settle is None else settle
    end = (now - timedelta(seconds=held_back)).replace(microsecond=0)
    if just is not None and just.last <= now:
        after = (just.last + timedelta(seconds=1)).replace(microsecond=0)
        if after > start:  # what capture holds back at this moment stays in the log, unmeasured
            end = max(end, after)
        elif _rows(log, live, just, after) >= params.decide.min_rows:
            start, end = max(just.first, after - LONGEST).replace(microsecond=0), after
        else:
            say(f"scored traffic up to {just.last:%Y-%m-%d %H:%M} UTC has too few rows for a window of its own")
            scored.clear(root, just)
    if end <= start:
        return _quiet(root, params, situation, journal, start, f"the window since {start:%H:%M:%S} has just begun")
    _, _, rows = log.window(start, end, columns=["id"], limit=1, bundle=live.bundle)
    if rows < params.decide.min_rows and end - start < LONGEST - timedelta(minutes=1):
        wanted = f"{rows} of {params.decide.min_rows} rows since {start:%Y-%m-%d %H:%M} UTC"
        return _quiet(root, params, situation, journal, start, f"the window stays open: {wanted}")

    measures, table, bundle = _measure(root, params, releases, live, log, start, end, known, situation.expected)
    same = [m for m, _ in past if m.window.bundle == live.bundle]
    from monitoring.decide import decide, fallen

    decision = decide([*same, measures], situation, params.decide)
    reasons = _weeks_of(fallen(measures, situation, params.decide), measures)
    # act before drawing the report: an error in a page must not stop a retraining
    lately = [judged(m, situation.expected) for m in same[-params.decide.persistence[1] + 1 :]]
    drifted = [m.window.start for m in lately if m.drifted()]
    since = min(drifted, default=None)
    canary = canary_of(releases, live)
    done = act(root, params, log, measures, decision, since=since, now=now, canary=canary, say=say)
    from monitoring.pages.report import rebuild_index

    rebuild_index(reports_dir(root), lambda: journal.recent(params.report.keep))
    shown = judged(measures, situation.expected)
    report = write_report(root, params, table, bundle, shown, decision, past, done)
    journal.append(measures, decision, reasons)
    journal.keep_details(measures.window.id, _details(root, params, table, bundle, shown, decision, done))
    if just is not None and end > just.last:
        scored.clear(root, just)
    return Seen(
        at=now,
        outcome=decision.outcome,
        sentence=" ".join([decision.sentence, *done]),
        window=measures.window.id,
        report=str(report),
    )


def _weeks_of(fallen: list[Finding], newest: Measures | None = None) -> list[str]:
    """The ids of the weeks in which accuracy has fallen: the newest window's own is of its week."""
    weeks = {one.name.removeprefix(WEEKLY) for one in fallen if one.name.startswith(WEEKLY)}
    if newest is not None and any(one.name == "accuracy.true" for one in fallen):
        weeks.add(period_id(week_of(newest.window.start), newest.window.bundle))
    return sorted(weeks)


def _rows(log: Log, live: Pointer, just: scored.Scored, end: datetime) -> int:
    """Answers of the scored traffic's last day."""
    return log.window(max(just.first, end - LONGEST), end, columns=["id"], limit=1, bundle=live.bundle)[2]


def _start(past: list[tuple[Measures, DriftDecision]], live: Pointer, now: datetime) -> datetime:
    """Return the end of the live model's last window, or when it went live; at most a day ago."""
    ends = [m.window.end for m, _ in past if m.window.bundle == live.bundle]
    return max([live.at.astimezone(UTC), now - LONGEST, *ends[-1:]]).replace(microsecond=0)


def _situation(
    root: Path,
    params: Params,
    releases: Releases,
    live: Pointer,
    log: Log,
    journal: Journal,
    now: datetime,
    weeks: list[Period],
    past: list[tuple[Measures, DriftDecision]],
) -> Situation:
    from monitoring.review.queue import asked_by_drift

    paused = pause_of(releases, now)
    before = [
        finding
        for measures, _ in past
        if measures.window.bundle == live.bundle
        for finding in measures.findings
        if finding.name == "accuracy.reference"
    ]
    return Situation(
        now=now,
        released_at=live.at,
        last_row_at=log.last_at(now),
        last_monitor_at=last_at(root),
        drift_retrains=journal.retrains(),
        new_labels=new_labels(root, log, live.at),
        queued=len(asked_by_drift(log)),
        accuracies=accuracies(weeks, live, journal.acted_on(), params.decide.min_rows),
        accuracy_before=before[-1] if before else None,
        expected=marks(log.store),
        paused=paused.sentence() if paused else None,
    )


def _quiet(root: Path, params: Params, situation: Situation, journal: Journal, start: datetime, sentence: str) -> Seen:
    """Finish a run without a full window: still check for silence, and whether labels or age call for a retraining."""
    from monitoring.decide import decide, fallen

    decision = decide([], situation, params.decide)
    reasons = _weeks_of(fallen(None, situation, params.decide))
    alert_once(root, "no samples", "silence", "; ".join(decision.alarms) or None)
    said, outcome = [sentence, *(f"ALARM: {alarm}" for alarm in decision.alarms)], "waiting"
    if decision.outcome == "retrain":
        request_retrain(root, "drift", decision.sentence)
        journal.record_retrain(window_id(start, situation.now), reasons)
        alert(root, "retrain", decision.sentence, done="A retraining was requested.")
        said, outcome = [decision.sentence, *said], "retrain"
    elif reasons or decision.wanted:
        said = [decision.sentence, *said]
    return Seen(at=situation.now, outcome=outcome, sentence=" ".join(said))


def _measure(
    root: Path,
    params: Params,
    releases: Releases,
    live: Pointer,
    log: Log,
    start: datetime,
    end: datetime,
    truth: Mapping[str, Truth],
    expected: Sequence[Expected],
) -> tuple[Measures, pa.Table, Path]:
    """Measure the window; returns (measures, the rows used, the live bundle's folder)."""
    from monitoring.drift import reference
    from monitoring.drift.elsewhere import drifts_elsewhere
    from monitoring.drift.window import measure_window

    folder = cached_bundle(releases, live.bundle, root)
    columns = [name for name in log.schema.names if name not in HEAVY]
    table, unreadable, rows = log.window(
        start, end, columns=columns, limit=params.drift.max_window, seed=params.drift.seed, bundle=live.bundle
    )
    window = Window(
        id=window_id(start, end),
        start=start,
        end=end,
        version=live.version,
        bundle=live.bundle,
        rows=rows,
        used=len(table),
        unreadable=unreadable,
    )
    known = reference.load(folder, cache_dir("monitoring", root))
    taxonomy = current_taxonomy(root)
    labelled = labelled_answers(log, truth, start, end, live.bundle, taxonomy) if truth else None
    measures = measure_window(table, window, known, params.drift, labelled)
    if marked := marked_sources(measures, expected):
        elsewhere = drifts_elsewhere(table, window, known, params.drift, marked)
        measures = measures.model_copy(update={"elsewhere": elsewhere})
    return measures, table, folder


def _details(root: Path, params: Params, table: pa.Table, bundle: Path, measures, decision, done) -> WindowDetails:
    """What the console shows of the window besides its measures."""
    import pyarrow.parquet as pq

    from monitoring.drift import reference
    from monitoring.pages.columns import MeasuredWindow
    from monitoring.pages.details import window_details

    known = reference.load(bundle, cache_dir("monitoring", root))
    answers = reference.answered(pq.read_table(bundle / "reference.parquet"), read(bundle))
    shown = MeasuredWindow(table, answers, measures, decision, known.classes)
    return window_details(shown, known, done, params.report.images)


def write_report(
    root: Path, params: Params, table: pa.Table, bundle: Path, measures: Measures, decision: DriftDecision, past, done
) -> Path:
    """Write the window's page and its Evidently snapshot; returns the page's path."""
    import pyarrow.parquet as pq

    from monitoring.drift.reference import answered
    from monitoring.pages import evidently, report
    from monitoring.pages.columns import MeasuredWindow

    about = read(bundle)
    reference = answered(pq.read_table(bundle / "reference.parquet"), about)
    shown = MeasuredWindow(table, reference, measures, decision, about["classes"])
    keep = params.report.keep
    page = report.write(reports_dir(root), shown, past, done=done, images=params.report.images, keep=keep)
    evidently.add(evidently.workspace_dir(root), shown, rows=params.report.rows, keep=keep)
    return page
