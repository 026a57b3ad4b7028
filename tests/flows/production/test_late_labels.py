"""Labels that come late, in a real log: windows and weeks are measured again, decisions stand, nothing counts twice."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from flows.labels.classes import plan_change, record_change
from flows.production.late_labels import accuracies
from flows.production.monitor import monitor
from flows.services.up import live_accuracy_line, status_lines
from monitoring.journal import Journal
from monitoring.live.periods import week_of
from monitoring.log.production_log import open_log
from monitoring.pages import live as live_pages
from monitoring.pages.live import reports_dir
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tests.flows.production.test_monitor import MINUTE, answer, live, log_of
from tests.support.checkout import git
from tests.support.children import killed_at
from tests.support.late_labels import late_labels
from tests.support.live_project import make

DAY = timedelta(days=1)
CLASSES = ("Ankle boot", "Bag", "Trouser")


def windows(root: Path):
    return Journal(log_of(root).store).recent(9)


def true_accuracy(measures):
    found = [finding for finding in measures.findings if finding.name == "accuracy.true"]
    return found[0] if found else None


def label(root: Path, rows: list[dict], at, wrong: bool = False, chance: float | None = None, **columns) -> None:
    """People label these answers at the time `at`: as they were answered, or with another class."""
    names = [row["prediction"] for row in rows]
    truth = [CLASSES[(CLASSES.index(name) - wrong) % 3] for name in names]
    given = {
        "id": [row["id"] for row in rows],
        "at": [at] * len(rows),
        "annotator": ["ann"] * len(rows),
        "label": truth,
        "role": ["annotator"] * len(rows),
        "picked": ["unknown" if chance is None else "audit"] * len(rows),
        "sampling_probability": [chance] * len(rows),
    }
    log_of(root).add_labels(late_labels(given | columns))


def answers(root: Path, measures) -> list[dict]:
    window = measures.window
    table, _, _ = log_of(root).window(window.start, window.end, ["id", "prediction"], bundle=window.bundle)
    return table.to_pylist()


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A project with two windows of known cameras, measured before any label came. For tests that copy it."""
    quiet = {"audit_per_day: 20": "audit_per_day: 0", "audit_per_source: 1": "audit_per_source: 0"}
    root = make(tmp_path_factory.mktemp("late"), replace={"min_new_labels: 50": "min_new_labels: 20", **quiet})
    (root / "tasks").mkdir()
    (root / "tasks" / "code.py").write_text("code = 1\n")
    (root / "tombstones.json").write_text("{}\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "code")
    start = live(root).at + MINUTE
    for number in range(2):
        answer(root, root.parent, 1, start + number * 20 * MINUTE, rows=40 + 10 * number)
        seen = monitor(root, now=start + (number * 20 + 15) * MINUTE)
        assert seen.window is not None, seen.sentence
    assert [true_accuracy(measures) for measures, _ in windows(root)] == [None, None]
    return root


@pytest.fixture
def root(measured, tmp_path) -> Path:
    shutil.copytree(measured, tmp_path / "main", symlinks=True)
    return tmp_path / "main"


def test_labels_that_come_days_late_in_pieces_and_twice_revise_their_windows_once_each(root):
    log, before = log_of(root), windows(root)
    first, second = (answers(root, measures) for measures, _ in before)
    known = {row["id"] for row in first}
    only_second = [row for row in second if row["id"] not in known]
    late = live(root).at + 5 * DAY
    label(root, first[:25], late, chance=0.5)
    label(root, first[25:30], late, wrong=True, chance=0.5)
    monitor(root, now=late + MINUTE)
    after = windows(root)
    assert [decision for _, decision in after[:2]] == [decision for _, decision in before], "decisions stand"
    found = true_accuracy(after[0][0])
    assert found.value == pytest.approx(25 / 30, abs=0.06)
    assert found.low < 25 / 30 < found.high
    assert true_accuracy(after[1][0]) is not None, "the same images were answered in the second window, too"

    label(root, only_second, late + DAY, chance=0.5)
    monitor(root, now=late + DAY + MINUTE)
    entries = sorted(key for key in log.store.list("revisions/"))
    revised = [key.rpartition("/")[2] for key in entries]
    names = [measures.window.id for measures, _ in before]
    assert revised == [f"{names[0]}-1.json", f"{names[1]}-1.json", f"{names[1]}-2.json"]

    label(root, first[:25], late + 2 * DAY, chance=0.5)  # the same labels once more
    monitor(root, now=late + 2 * DAY + MINUTE)
    monitor(root, now=late + 3 * DAY)
    assert sorted(log.store.list("revisions/")) == entries
    assert [measures.window.id for measures, _ in windows(root)[:2]] == names, "a revised window counts once"
    pages = reports_dir(root)
    page = (pages / f"{names[0]}.html").read_text()
    assert f"measured again {late + MINUTE:%Y-%m-%d %H:%M} UTC, when labels had come" in page
    assert before[0][1].sentence.replace("'", "&#39;") in page
    assert "week of" in (pages / "index.html").read_text()


def test_weeks_tell_recall_and_confusion_and_leave_out_what_was_picked_for_being_hard(root):
    rows = answers(root, windows(root)[1][0])
    late = live(root).at + 5 * DAY
    bags = [row for row in rows if row["prediction"] == "Bag"]
    label(root, rows[:30], late, chance=0.6)
    label(root, rows[30:], late, wrong=True, picked=["queue"] * len(rows[30:]))
    monitor(root, now=late)
    (period,) = live_pages.read(reports_dir(root)).periods
    assert (period.version, period.answers, period.labels, period.right) == ("v0.1.0", 50, 50, 30)
    assert period.accuracy.used == 50 or period.accuracy.value == 1
    assert period.recalls["Bag"].value <= 1
    assert bags
    assert {one.label for one in period.confused} <= set(CLASSES)


def test_weeks_are_told_in_the_names_of_today(root):
    late = live(root).at + 5 * DAY
    label(root, answers(root, windows(root)[1][0])[:30], late, chance=0.6)
    monitor(root, now=late)
    (before,) = live_pages.read(reports_dir(root)).periods
    record_change(root, plan_change(root, "rename", ["Bag"], ["Sack"], by="ann", why=""))
    monitor(root, now=late + MINUTE)
    (after,) = live_pages.read(reports_dir(root)).periods
    assert {"Sack" if name == "Bag" else name for name in before.recalls} == set(after.recalls)
    assert "Sack" in after.recalls
    assert after.accuracy == before.accuracy


def test_a_week_and_its_window_whose_labelled_images_are_all_excluded_have_no_accuracy(root):
    rows, late = answers(root, windows(root)[1][0])[:5], live(root).at + 5 * DAY
    label(root, rows, late, chance=0.6)
    monitor(root, now=late)
    assert len(live_pages.read(reports_dir(root)).periods) == 1
    label(root, rows, late + MINUTE, role=["reviewer"] * 5, label=[None] * 5)
    monitor(root, now=late + 2 * MINUTE)
    assert live_pages.read(reports_dir(root)).periods == []
    assert true_accuracy(windows(root)[1][0]) is None


def test_answers_that_are_scored_after_their_labels_are_known_are_measured_at_once(root, tmp_path):
    late = live(root).at + 12 * DAY
    label(root, answers(root, windows(root)[1][0])[:15], late, chance=0.6)
    monitor(root, now=late)
    weeks = {period.start for period in live_pages.read(reports_dir(root)).periods}
    answer(root, tmp_path, 1, live(root).at - 8 * DAY, rows=40)  # the same images, of a week before
    monitor(root, now=late + MINUTE)
    found = {period.start for period in live_pages.read(reports_dir(root)).periods}
    assert found - weeks == {week_of(live(root).at - 8 * DAY)}


@pytest.mark.parametrize("point", ["late_labels.revised", "late_labels.shown"])
def test_a_run_killed_while_it_measures_again_is_completed_by_the_next(root, point):
    rows = answers(root, windows(root)[0][0])
    late = live(root).at + 5 * DAY
    label(root, rows[:30], late, chance=0.5)
    assert killed_at(point, monitor, root, now=late)
    assert live_pages.read(reports_dir(root)).labels == []
    monitor(root, now=late + MINUTE)
    measures, _ = windows(root)[0]
    assert true_accuracy(measures).value == 1
    assert len(list(log_of(root).store.list(f"revisions/{measures.window.id}"))) == 1
    page = (reports_dir(root) / f"{measures.window.id}.html").read_text()
    assert "when labels had come" in page
    assert len(live_pages.read(reports_dir(root)).labels) == 1


def test_a_fall_of_accuracy_that_late_labels_show_retrains_and_the_same_week_never_again(root, monkeypatch):
    from flows.production import monitor as module

    rows = answers(root, windows(root)[1][0])
    late = live(root).at + 2 * MINUTE * 60
    label(root, rows, late, wrong=True, chance=1.0)
    with pytest.raises(EvergreenError, match="no Prefect server"):
        monitor(root, now=late)
    assert Journal(log_of(root).store).acted_on() == set(), "what could not be carried out is decided again"
    sent = []
    monkeypatch.setattr(module, "request_retrain", lambda root, why, reason, *more: sent.append(reason))
    seen = monitor(root, now=late + MINUTE)
    assert seen.outcome == "retrain", seen.sentence
    assert "accuracy on late labels has fallen: 0." in sent[0]
    assert "in the week of" in sent[0]
    for days in (2, 3):  # beyond the cooldown
        label(root, rows[days : days + 1], late + days * DAY, chance=1.0)
        again = monitor(root, now=late + days * DAY)
        assert again.outcome == "watch", again.sentence
    assert len(sent) == 1
    assert len(Journal(log_of(root).store).retrains()) == 1


def test_a_lost_file_of_weeks_is_measured_again_without_new_revisions(root):
    rows = answers(root, windows(root)[1][0])
    late = live(root).at + 5 * DAY
    label(root, rows[:20], late, chance=0.4)
    monitor(root, now=late)
    kept, log = live_pages.read(reports_dir(root)), open_log(root, load_params(root / "params.yaml"))
    entries = list(log.store.list("revisions/"))
    (reports_dir(root) / live_pages.FILE).unlink()
    monitor(root, now=late + MINUTE)
    assert live_pages.read(reports_dir(root)).periods == kept.periods
    assert list(log.store.list("revisions/")) == entries


def test_a_few_complaints_are_no_fall_of_accuracy_and_enough_of_them_are(root):
    rows, late = answers(root, windows(root)[1][0]), live(root).at + 2 * MINUTE * 60
    label(root, rows[:20], late, wrong=True, picked=["feedback"] * 20)
    monitor(root, now=late)
    (period,) = live_pages.read(reports_dir(root)).periods
    assert (period.accuracy, period.given.labels) == (None, 20)
    pointer = live(root)
    assert accuracies([period], pointer, set(), 30) == []
    (found,) = accuracies([period], pointer, set(), 20)
    assert found.value == 0
    assert accuracies([period], pointer, {period.id}, 20) == []
    later = pointer.model_copy(update={"at": pointer.at + 30 * DAY})
    assert accuracies([period], later, set(), 20) == [], "a week before it went live again"
    assert accuracies([period], pointer.model_copy(update={"bundle": "c" * 64}), set(), 20) == []


def test_status_says_how_often_answers_were_right(root):
    assert live_accuracy_line(root) is None
    rows, late = answers(root, windows(root)[1][0]), live(root).at + 5 * DAY
    label(root, rows[:20], late, chance=0.4)
    monitor(root, now=late)
    (period,) = live_pages.read(reports_dir(root)).periods
    said = f"v0.1.0, week of {period.start:%Y-%m-%d}: {live_pages.headline(period)}"
    assert live_accuracy_line(root) == said
    assert f"accuracy:    {said}" in status_lines(root)
    assert said.endswith("more labels make it +-3 points") or "by 20 labels" in said
