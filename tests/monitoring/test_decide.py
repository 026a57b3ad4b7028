"""Decisions from numbers: each rule, and that no history breaks the cap or the cooldown or lets an error pass."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.contracts import DriftDecision, Finding, Measures, Situation, Window
from monitoring.decide import decide, fallen
from tasks.common.params import DecideParams

START = datetime(2026, 11, 21, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
POLICY = DecideParams()

DARK = Finding(
    name="image.brightness", status="drifted", value=0.4, threshold=0.1, p_value=0.001,
    detail="images are 31 % darker (median 92, was 133)",
)  # fmt: skip
MIX = Finding(
    name="prediction.mix", status="drifted", value=0.3, threshold=0.1,
    detail="'Bag' is 2x as common (20 %, was 10 %); KL divergence 0.1 nats",
)  # fmt: skip
QUIET = Finding(name="image.contrast", status="ok", value=0.02, threshold=0.1, p_value=0.9)
FAILED = Finding(name="embedding", status="error", detail="3 usable rows")
GONE = Finding(
    name="missing.ood", status="drifted", value=0.99, threshold=0.02, detail="ood is missing in 99 % of rows"
)
ESTIMATED = Finding(name="accuracy.estimated", status="info", value=0.81, low=0.76, high=0.86)
BEFORE = Finding(name="accuracy.reference", status="info", value=0.87, low=0.84, high=0.9)


def true_accuracy(value: float, half: float) -> Finding:
    return Finding(name="accuracy.true", status="info", value=value, low=value - half, high=value + half)


def window(number: int, *findings: Finding, used: int = 200, bundle: str = "aa") -> Measures:
    start = START + number * QUARTER
    name = f"{start:%Y%m%dT%H%M%SZ}-{start + QUARTER:%Y%m%dT%H%M%SZ}"
    about = Window(id=name, start=start, end=start + QUARTER, version="v0.1.0", bundle=bundle, rows=used, used=used)
    return Measures(window=about, findings=list(findings or [QUIET]))


def situation(now: datetime = START + timedelta(days=3), **changes) -> Situation:
    values = {"now": now, "released_at": START, "last_row_at": now, "last_monitor_at": now - QUARTER}
    return Situation(**(values | changes))


def check(decision: DriftDecision, name: str) -> str:
    (found,) = (check.status for check in decision.checks if check.name == name)
    return found


def test_windows_like_the_reference_decide_none():
    decision = decide([window(n) for n in range(4)], situation(), POLICY)
    assert decision.outcome == "none"
    assert decision.sentence == "Production looks like the model's reference."
    assert decision.window == window(3).window.id
    assert not decision.alarms
    assert {check.name for check in decision.checks if check.status != "pass"} == {"labels"}  # none: none are new


def test_one_drifted_window_is_watched_and_two_of_three_ask_for_labels():
    assert decide([window(0), window(1, DARK)], situation(), POLICY).outcome == "watch"
    decision = decide([window(0, DARK), window(1), window(2, DARK, MIX, ESTIMATED, BEFORE)], situation(), POLICY)
    assert decision.outcome == "label"
    assert decision.sentence == (
        "Images are 31 % darker (median 92, was 133), 'Bag' is 2x as common (20 %, was 10 %); estimated accuracy 0.81 "
        "(was 0.87); no new labels yet (50 are needed to retrain): please label samples."
    )


def test_drift_with_enough_new_labels_retrains():
    decision = decide([window(0, DARK), window(1, DARK)], situation(new_labels=50), POLICY)
    assert decision.outcome == "retrain"
    assert decision.sentence.endswith("there are 50 new labels: retrain.")
    assert check(decision, "persistence") == "fail"


def test_people_are_not_asked_for_more_while_enough_samples_wait():
    decision = decide([window(0, DARK), window(1, DARK)], situation(queued=60), POLICY)
    assert decision.outcome == "watch"
    assert "60 samples already wait in the review queue" in decision.sentence


def test_the_alarm_stays_until_all_of_the_last_windows_were_quiet():
    past = [window(0, DARK), window(1, DARK), window(2), window(3)]
    assert decide(past, situation(new_labels=99), POLICY).outcome == "watch"
    assert decide([*past, window(4)], situation(new_labels=99), POLICY).outcome == "none"
    assert decide([*past, window(4, DARK)], situation(new_labels=99), POLICY).outcome == "retrain"


def test_a_window_with_a_failed_measure_is_not_quiet():
    past = [window(0, DARK), window(1, DARK), window(2, FAILED), window(3, FAILED), window(4, FAILED)]
    decision = decide(past, situation(), POLICY)
    assert decision.outcome == "watch"
    assert check(decision, "measures") == "error"
    assert decide([window(0, FAILED)], situation(), POLICY).outcome == "watch"
    assert "what images look like to the model" in decide([window(0, FAILED)], situation(), POLICY).sentence


def test_missing_values_raise_an_alarm_but_do_not_retrain():
    decision = decide([window(n, GONE) for n in range(3)], situation(new_labels=500), POLICY)
    assert decision.outcome == "watch"
    assert check(decision, "drift") == "fail"
    assert decision.alarms == ["Values are missing in the log: ood is missing in 99 % of rows"]


def test_small_windows_decide_nothing_and_do_not_count():
    decision = decide([window(0, DARK, used=29), window(1, DARK, used=29)], situation(new_labels=99), POLICY)
    assert decision.outcome == "none"
    assert check(decision, "rows") == "fail"
    assert decision.sentence.startswith("Only 29 samples in this window (30 are needed to judge it)")
    past = [window(0, DARK), window(1, DARK, used=29), window(2, DARK)]
    assert decide(past, situation(new_labels=99), POLICY).outcome == "retrain"


def test_windows_of_the_previous_model_do_not_count():
    past = [window(0, DARK, bundle="old"), window(1, DARK)]
    assert decide(past, situation(new_labels=99), POLICY).outcome == "watch"


def test_nothing_is_done_during_warm_up():
    policy = DecideParams(warm_up_hours=6)
    past = [window(0, DARK), window(1, DARK)]
    early = decide(past, situation(START + timedelta(hours=5), new_labels=99), policy)
    assert early.outcome == "watch"
    assert "too new" in early.sentence
    assert decide(past, situation(START + timedelta(hours=6), new_labels=99), policy).outcome == "retrain"


def test_cooldown_and_cap_delay_a_retraining():
    past, now = [window(0, DARK), window(1, DARK)], START + timedelta(days=3)
    for ago in (timedelta(hours=1), timedelta(hours=23), timedelta(hours=-1)):
        decision = decide(past, situation(now, new_labels=99, drift_retrains=[now - ago]), POLICY)
        assert decision.outcome == "watch", ago
        assert "the last retraining started too recently" in decision.sentence
    day_before = situation(now, new_labels=99, drift_retrains=[now - timedelta(hours=24)])
    assert decide(past, day_before, POLICY).outcome == "retrain"


def test_a_significant_fall_of_accuracy_on_late_labels_retrains_without_drift():
    fallen = window(0, QUIET, true_accuracy(0.6, 0.1), BEFORE)
    decision = decide([fallen], situation(new_labels=80), POLICY)
    assert decision.outcome == "retrain"
    assert "accuracy on late labels 0.60 (was 0.87)" in decision.sentence
    assert check(decision, "accuracy") == "fail"
    assert decide([fallen], situation(new_labels=10), POLICY).outcome == "label"
    unsure = window(0, QUIET, true_accuracy(0.6, 0.2), BEFORE)
    assert decide([unsure], situation(new_labels=80), POLICY).outcome == "none"


def test_late_labels_without_a_reference_accuracy_are_an_error():
    decision = decide([window(0, QUIET, true_accuracy(0.2, 0.01))], situation(new_labels=80), POLICY)
    assert check(decision, "accuracy") == "error"
    assert decision.outcome == "none", "what could not be compared does not count as a fall"


def test_many_new_labels_or_an_old_model_retrain():
    assert decide([window(0)], situation(new_labels=1000), POLICY).outcome == "retrain"
    old = START + timedelta(days=181)
    assert decide([window(0)], situation(old, new_labels=50), POLICY).outcome == "retrain"
    assert decide([window(0)], situation(old, new_labels=49), POLICY).outcome == "none"
    assert decide([], situation(new_labels=1000), POLICY).outcome == "retrain"


def test_silence_raises_an_alarm():
    now = START + timedelta(days=1)
    for last, ran, words in (
        (now - timedelta(minutes=121), now - QUARTER, ["No sample has been logged since 2026-11-21 21:59"]),
        (None, now - QUARTER, ["No sample has ever been logged"]),
        (now, now - timedelta(hours=5), ["The monitor run before this one was at 2026-11-21 19:00"]),
        (now - timedelta(minutes=119), now - QUARTER, []),
        (now, None, []),
    ):
        alarms = decide([], situation(now, last_row_at=last, last_monitor_at=ran), POLICY).alarms
        assert len(alarms) == len(words)
        assert all(word in alarm for word, alarm in zip(words, alarms, strict=True))
    fresh = situation(START + timedelta(minutes=10), last_row_at=None, last_monitor_at=None)
    assert decide([], fresh, POLICY).alarms == []


def test_without_a_window_the_check_is_an_error():
    decision = decide([], situation(), POLICY)
    assert (decision.outcome, decision.window) == ("none", None)
    assert check(decision, "rows") == "error"


def test_flapping_retrains_at_most_once_in_24_hours():
    past, retrains = [], []
    for number in range(4 * 24 * 5):  # five days, every quarter of an hour, drift that comes and goes
        now = START + (number + 1) * QUARTER
        past.append(window(number, DARK) if number % 2 else window(number))
        facts = situation(now, new_labels=500, drift_retrains=list(retrains))
        if decide(past[-20:], facts, POLICY).outcome == "retrain":
            retrains.append(now)
    assert 4 <= len(retrains) <= 5
    assert all(later - sooner >= timedelta(hours=24) for sooner, later in itertools.pairwise(retrains))


KINDS = {"quiet": [QUIET], "dark": [DARK, QUIET], "failed": [FAILED, QUIET], "gone": [GONE], "empty": []}


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=60),
    labels=st.lists(st.integers(0, 1500), min_size=60, max_size=60),
    accuracies=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=60, max_size=60),
    minutes=st.lists(st.integers(1, 600), min_size=60, max_size=60),
    needed=st.integers(1, 3),
    cooldown=st.floats(0, 48),
    cap=st.integers(1, 3),
)
def test_no_history_breaks_the_cap_or_the_cooldown(kinds, labels, accuracies, minutes, needed, cooldown, cap):
    policy = DecideParams(persistence=(needed, 3), cooldown_hours=cooldown, max_per_day=cap)
    now, past, retrains = START, [], []
    for number, kind in enumerate(kinds):
        now += timedelta(minutes=minutes[number])
        known = [] if accuracies[number] is None else [true_accuracy(accuracies[number], 0.05), BEFORE]
        findings = [*KINDS[kind], *known]
        about = window(number).window
        past.append(Measures(window=about, findings=findings))
        facts = situation(now, new_labels=labels[number], drift_retrains=list(retrains))
        decision = decide(past, facts, policy)
        assert decision == decide(past, facts, policy)
        if kind in ("failed", "gone", "dark") or not findings:
            assert decision.outcome != "none", "neither an error nor a drift is ever nothing"
        if decision.outcome == "retrain":
            assert labels[number] >= policy.min_new_labels
            assert not retrains or (now - retrains[-1]).total_seconds() >= cooldown * 3600
            retrains.append(now)
            assert sum(now - at < timedelta(days=1) for at in retrains) <= cap


# --- late labels of past weeks


def weekly(value: float, half: float, week: str = "2026-11-16") -> Finding:
    return Finding(
        name=f"accuracy.week.{week}-aa", status="info", value=value, low=value - half, high=value + half,
        detail=f"week of {week}, 40 of 900 answers have a label",
    )  # fmt: skip


def test_a_fall_in_a_past_week_that_late_labels_show_retrains():
    quiet = window(0, QUIET, BEFORE)
    facts = situation(new_labels=80, accuracies=[weekly(0.85, 0.05), weekly(0.6, 0.05, "2026-11-23")])
    decision = decide([quiet], facts, POLICY)
    assert decision.outcome == "retrain"
    assert "accuracy on late labels has fallen: 0.60 in the week of 2026-11-23" in decision.sentence
    assert [one.name for one in fallen(quiet, facts, POLICY)] == ["accuracy.week.2026-11-23-aa"]
    well = situation(new_labels=80, accuracies=[weekly(0.85, 0.05), weekly(0.6, 0.2)])
    assert decide([quiet], well, POLICY).outcome == "none"
    assert check(decide([quiet], well, POLICY), "accuracy") == "pass"
    assert fallen(quiet, well, POLICY) == []


def test_late_labels_count_without_a_new_window_if_an_earlier_one_knows_the_reference():
    late = {"new_labels": 80, "accuracies": [weekly(0.6, 0.05)]}
    assert decide([], situation(accuracy_before=BEFORE, **late), POLICY).outcome == "retrain"
    assert decide([], situation(accuracy_before=BEFORE, **late | {"new_labels": 9}), POLICY).outcome == "label"
    unknown = decide([], situation(**late), POLICY)
    assert check(unknown, "accuracy") == "error"
    assert unknown.outcome == "none"
