"""Decide what drift measures call for: none, watch, label or retrain. A pure function.

    none     nothing moved, and everything could be measured
    watch    something moved or could not be measured, but not for long enough, or no action is allowed now
    label    drift persists and there are too few new labels to learn it from: ask people for labels
    retrain  persistent drift, a fall of accuracy on late labels, many new labels, or an old model; always with enough
             new labels, and never within decide.cooldown_hours of the last one or beyond decide.max_per_day

Hysteresis: k of the last n windows raise the alarm; it stays until n windows in a row are quiet. A window is neither
quiet nor drifted if a measure failed or it has fewer than decide.min_rows rows. Each check has its value and bound.
What people marked as expected does not count. During a pause nothing but `label` and `watch` is decided.
"""

from collections.abc import Sequence
from datetime import timedelta

from monitoring.contracts import DriftDecision, Finding, Measures, Situation
from monitoring.expected import judged
from monitoring.plain_names import plain_name
from tasks.common.checks import Check
from tasks.common.params import DecideParams

DAY = timedelta(days=1)
PHRASES = 3  # at most so many things that moved are named in the sentence
BROKEN = "missing."  # findings about missing values: training does not cure them


def decide(measures: Sequence[Measures], situation: Situation, policy: DecideParams) -> DriftDecision:
    """The decision for the newest window, with a sentence for people.

    measures: of the last windows, newest last. Windows of another model than the newest's are ignored.
    """
    measures = [judged(one, situation.expected) for one in measures]
    newest = measures[-1] if measures else None
    seen = [one for one in measures if one.window.bundle == newest.window.bundle] if newest else []
    states = [_state(one, policy) for one in seen]
    alarm = _alarm(states, policy)
    checks = [*_measured(newest, states, policy), *_allowed(situation, policy), *_reasons(newest, situation, policy)]
    failed = {check.name for check in checks if check.status != "pass"}
    drift = alarm and states[-1] == "drifted" and "warm_up" not in failed
    lost = fallen(newest, situation, policy)
    why = "accuracy" if lost else _why(drift, failed)
    outcome, end = _outcome(why, alarm, states, failed, situation, policy)
    wanted = "retrain" if outcome == "retrain" and situation.paused else None
    if wanted:
        found = f"a retraining with {situation.new_labels} new labels is wanted"
        outcome, end = "watch", f"{found}, but Evergreen is {situation.paused}"
    return DriftDecision(
        outcome=outcome,
        sentence=_sentence(newest, why, lost, end, policy),
        checks=checks,
        window=newest.window.id if newest else None,
        alarms=_alarms(newest, situation, policy),
        wanted=wanted,
    )


def _state(measures: Measures, policy: DecideParams) -> str:
    """quiet, drifted or unknown.

    Missing values are watched and raise an alarm, but are not drift to train on.
    """
    if measures.window.used < policy.min_rows:
        return "unknown"
    if any(not finding.name.startswith(BROKEN) for finding in measures.drifted()):
        return "drifted"
    broken = measures.drifted() or any(finding.status == "error" for finding in measures.findings)
    return "unknown" if broken or not measures.findings else "quiet"


def _alarm(states: Sequence[str], policy: DecideParams) -> bool:
    """Does drift persist after the last of `states`? The hysteresis of the module's docstring."""
    needed, of = policy.persistence
    alarm = False
    for end in range(1, len(states) + 1):
        last = states[max(end - of, 0) : end]
        if last.count("drifted") >= needed:
            alarm = True
        elif len(last) == of and last.count("quiet") == of:
            alarm = False
    return alarm


def _measured(newest: Measures | None, states: Sequence[str], policy: DecideParams) -> list[Check]:
    if newest is None:
        return [Check(name="rows", status="error", bound=policy.min_rows, detail="no window was measured")]
    used = newest.window.used
    errors = [finding for finding in newest.findings if finding.status == "error"]
    drifted = newest.drifted()
    needed, of = policy.persistence
    count = list(states[-of:]).count("drifted")
    return [
        _check("rows", used >= policy.min_rows, used, policy.min_rows, "samples measured"),
        Check(
            name="measures",
            status="error" if errors or not newest.findings else "pass",
            value=len(errors),
            bound=0,
            detail="; ".join(f"{plain_name(finding.name)}: {finding.detail}" for finding in errors)
            or "failed measures",
        ),
        _check(
            "drift",
            not drifted,
            len(drifted),
            0,
            ", ".join(plain_name(f.name) for f in drifted) or "measures that drifted",
        ),
        _check("persistence", count < needed, count, needed, f"of the last {min(of, len(states))} windows drifted"),
    ]


def _allowed(situation: Situation, policy: DecideParams) -> list[Check]:
    since = (situation.now - situation.released_at).total_seconds() / 3600
    past = situation.drift_retrains  # one in the future (a clock was set back) counts too: better too few retrainings
    ago = (situation.now - max(past)).total_seconds() / 3600 if past else None
    today = sum(situation.now - at < DAY for at in past)
    return [
        _check("warm_up", since >= policy.warm_up_hours, since, policy.warm_up_hours, "hours since the release"),
        _check(
            "cooldown", ago is None or ago >= policy.cooldown_hours, ago, policy.cooldown_hours,
            "hours since production last started a retraining",
        ),
        _check("daily_cap", today < policy.max_per_day, today, policy.max_per_day, "retrainings in 24 hours"),
        _check("labels", situation.new_labels >= policy.min_new_labels, situation.new_labels, policy.min_new_labels,
               "new labelled samples, for any retraining"),
        Check(name="pause", status="fail" if situation.paused else "pass",
              detail=situation.paused or "retrainings may start by themselves"),
    ]  # fmt: skip


def _reasons(newest: Measures | None, situation: Situation, policy: DecideParams) -> list[Check]:
    """Checks whose failure alone is a reason to retrain."""
    age = (situation.now - situation.released_at) / DAY
    found = [
        _check("label_count", situation.new_labels < policy.new_labels, situation.new_labels, policy.new_labels,
               "new labelled samples, to retrain without drift"),
        _check("age", age <= policy.max_age_days, age, policy.max_age_days, "days since the release"),
    ]  # fmt: skip
    known = _accuracies(newest, situation)
    if not known:
        return found
    bound = _accuracy_bound(newest, situation, policy)
    sure = [one for one in known if one.high is not None]
    if bound is None or not sure:
        detail = "there are late labels, but no accuracy on the reference, or no interval, to compare with"
        return [*found, Check(name="accuracy", status="error", value=known[0].value, detail=detail)]
    worst = min(sure, key=lambda one: one.high)
    status = "fail" if worst.high < bound else "pass"
    which = "" if worst.name == "accuracy.true" else f" ({worst.detail})"
    return [
        *found,
        Check(name="accuracy", status=status, value=worst.value, bound=bound, low=worst.low, high=worst.high,
              detail=f"accuracy on late labels{which}; fails if its whole interval is below the bound"),
    ]  # fmt: skip


def fallen(newest: Measures | None, situation: Situation, policy: DecideParams) -> list[Finding]:
    """The accuracies on late labels whose whole interval is below the bound: each is a reason to retrain, once."""
    bound = _accuracy_bound(newest, situation, policy)
    if bound is None:
        return []
    return [one for one in _accuracies(newest, situation) if one.high is not None and one.high < bound]


def _accuracies(newest: Measures | None, situation: Situation) -> list[Finding]:
    """Accuracies on late labels: of the newest window, and of the model's weeks."""
    true = _named(newest, "accuracy.true")
    return [one for one in (true, *situation.accuracies) if one is not None and one.value is not None]


def _accuracy_bound(newest: Measures | None, situation: Situation, policy: DecideParams) -> float | None:
    before = _named(newest, "accuracy.reference") or situation.accuracy_before
    return None if before is None or before.value is None else before.value - policy.max_accuracy_drop


def _why(drift: bool, failed: set[str]) -> str | None:
    """The strongest reason to act but a fall of accuracy."""
    if drift:
        return "drift"
    if "label_count" in failed:
        return "label_count"
    if "age" in failed and "labels" not in failed:
        return "age"
    return None


def _outcome(
    why: str | None,
    alarm: bool,
    states: Sequence[str],
    failed: set[str],
    situation: Situation,
    policy: DecideParams,
) -> tuple[str, str]:
    """(outcome, how the sentence ends)."""
    new, least = situation.new_labels, policy.min_new_labels
    if why is None:
        if states and states[-1] == "drifted":
            needed, of = policy.persistence
            wait = (
                "the release is too new to act"
                if "warm_up" in failed
                else f"{needed} of {of} windows are needed to act"
            )
            return "watch", wait
        if alarm:
            return "watch", "an earlier alarm lasts until enough windows in a row are quiet"
        if "rows" in failed:
            return "none", ""
        return ("watch", "") if failed & {"measures", "drift"} else ("none", "")
    if "labels" in failed:
        if situation.queued >= least:
            return "watch", f"{situation.queued} samples already wait in the review queue for a label"
        there = f"only {new} new labels" if new else "no new labels yet"
        return "label", f"{there} ({least} are needed to retrain): please label samples"
    if "cooldown" in failed or "daily_cap" in failed:
        return "watch", "the last retraining started too recently for another one"
    return "retrain", f"there are {new} new labels: retrain"


def _sentence(newest: Measures | None, why: str | None, lost: Sequence[Finding], end: str, policy: DecideParams) -> str:
    if newest is None:
        parts = ["No production window was measured"]
    elif newest.window.used < policy.min_rows:
        parts = [f"Only {newest.window.used} samples in this window ({policy.min_rows} are needed to judge it)"]
    else:
        errors = [plain_name(finding.name) for finding in newest.findings if finding.status == "error"]
        moved = phrases(newest)
        parts = [", ".join(moved)] if moved else []
        if errors or not newest.findings:
            parts.append(f"not measured: {', '.join(errors[:PHRASES]) or 'all measures'}"
                         + (f" and {len(errors) - PHRASES} more" if len(errors) > PHRASES else ""))  # fmt: skip
        if not parts:
            parts = ["Production looks like the model's reference"]
        if known := [plain_name(finding.name) for finding in newest.findings if finding.status == "expected"]:
            more = f" and {len(known) - PHRASES} more" if len(known) > PHRASES else ""
            parts.append(f"marked as expected: {', '.join(known[:PHRASES])}{more}")
        parts += accuracy(newest)
    if why == "accuracy":
        weeks = [f"{one.value:.2f} in the {one.detail.split(',')[0]}" for one in lost if one.name != "accuracy.true"]
        parts.append("accuracy on late labels has fallen" + (f": {weeks[-1]}" if weeks else ""))
    if why == "age":
        parts.append("the model is old")
    text = "; ".join([*parts, end] if end else parts)
    return text[0].upper() + text[1:] + "."


def phrases(measures: Measures) -> list[str]:
    """What drifted, in words.

    At most two image properties, the class mix, missing values, then the rest by size.
    """
    found = sorted(measures.drifted(), key=lambda f: -(f.value or 0) / (f.threshold or 1))
    chosen = [f for f in found if f.name.startswith("image.")][:2] + [f for f in found if f.name == "prediction.mix"]
    chosen += [f for f in found if f.name.startswith(BROKEN)][:1]
    others = [f for f in found if f not in chosen]
    chosen = (chosen + others)[:PHRASES]
    said = [f.detail.split(";")[0].split(" (area")[0] or plain_name(f.name) for f in chosen]
    rest = len(found) - len(chosen)
    return said + ([f"{rest} more"] if rest and said else [])


def accuracy(measures: Measures) -> list[str]:
    """Accuracy now and on the reference, in words: measured if there are late labels, else estimated."""
    before = _named(measures, "accuracy.reference")
    for name, word in (("accuracy.true", "accuracy on late labels"), ("accuracy.estimated", "estimated accuracy")):
        found = _named(measures, name)
        if found is not None and found.value is not None:
            was = f" (was {before.value:.2f})" if before is not None and before.value is not None else ""
            return [f"{word} {found.value:.2f}{was}"]
    return []


def _alarms(newest: Measures | None, situation: Situation, policy: DecideParams) -> list[str]:
    """Sentences about silence, missing values and unreadable log files."""
    found, silence = [], timedelta(minutes=policy.max_silence_minutes)
    last = situation.last_row_at
    quiet = situation.now - (last or situation.released_at)
    if quiet > silence:
        logged = (
            f"No sample has been logged since {last:%Y-%m-%d %H:%M} UTC" if last else "No sample has ever been logged"
        )
        found.append(f"{logged}: is production silent, or is its capture broken?")
    ran = situation.last_monitor_at
    if ran is not None and situation.now - ran > silence:
        found.append(f"The monitor run before this one was at {ran:%Y-%m-%d %H:%M} UTC: is its schedule running?")
    if newest is not None:
        broken = [f.detail or plain_name(f.name) for f in newest.drifted() if f.name.startswith(BROKEN)]
        if broken:
            found.append(f"Values are missing in the log: {'; '.join(broken[:PHRASES])}")
        if newest.window.unreadable:
            found.append(f"{len(newest.window.unreadable)} files of the log could not be read")
    return found


def _named(measures: Measures | None, name: str) -> Finding | None:
    return next((f for f in measures.findings if f.name == name), None) if measures else None


def _check(name: str, passed: bool, value: float | None, bound: float, detail: str) -> Check:
    return Check(name=name, status="pass" if passed else "fail", value=value, bound=bound, detail=detail)
