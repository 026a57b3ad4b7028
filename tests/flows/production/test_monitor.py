"""The monitor run on a real model, a real log and real traffic: window, decision, page, what follows."""

import fcntl
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from flows.production import reevaluate
from flows.production.act import new_labels
from flows.production.monitor import monitor, monitor_and_record
from flows.production.score import score
from monitoring.journal import Journal
from monitoring.log.production_log import open_log
from monitoring.review.queue import waiting
from monitoring.seen import Seen, note_seen
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tasks.releases.pause import pause, resume
from tasks.releases.pointer import successor
from tasks.releases.store import open_store
from tests.support.checkout import git
from tests.support.late_labels import late_labels
from tests.support.live_project import make, traffic
from tests.support.receiver import receiver

MINUTE = timedelta(minutes=1)
ROWS = 60
LATER = datetime.now(UTC) + timedelta(hours=1)  # scored traffic lies minutes ahead, after the release


def log_of(root: Path):
    return open_log(root, load_params(root / "params.yaml"))


def live(root: Path):
    return open_store(load_params(root / "params.yaml").store, root).live()


def answer(root: Path, folder: Path, number: int, start: datetime, rows: int = ROWS) -> None:
    """`rows` images of production batch `number` answered from `start` on, five seconds apart."""
    times = [start + n * timedelta(seconds=5) for n in range(rows)]
    score(root, str(traffic(folder / f"{number}-{start:%H%M%S}.parquet", number, rows, taken_at=times)))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = make(tmp_path_factory.mktemp("monitor"), replace={"min_new_labels: 50": "min_new_labels: 20"})
    (root / "tasks").mkdir()
    (root / "tasks" / "code.py").write_text("code = 1\n")
    (root / "tombstones.json").write_text("{}\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "code")
    return root


@pytest.fixture
def alerts(monkeypatch):
    with receiver() as server:
        monkeypatch.setenv("EVERGREEN_ALERTS", server.address)
        yield server.got


def test_with_nothing_logged_it_says_so_and_silence_is_an_alarm_told_once(project, alerts):
    start = live(project).at
    seen = monitor(project, now=start + 5 * MINUTE)
    assert seen.outcome == "waiting"
    assert "0 of 30 rows" in seen.sentence
    assert alerts == []
    for minutes in (125, 140):
        seen = monitor(project, now=start + minutes * MINUTE)
        assert "ALARM: No sample has ever been logged" in seen.sentence
    (alert,) = alerts
    assert "No sample has ever been logged" in alert["message"]
    assert alert["message"].endswith("/services")
    assert not list((project / ".evergreen" / "production").glob("windows/*")), "nothing was measured"


def test_it_imports_neither_torch_nor_prefect_and_is_quick(project):
    code = (
        "import sys; from pathlib import Path; from flows.production.monitor import monitor_and_record;"
        "print(monitor_and_record(Path.cwd())); heavy = {'torch', 'prefect', 'timm', 'evidently', 'sklearn', 'dvc'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_a_small_window_stays_open_until_it_has_enough_rows(project, tmp_path):
    start = live(project).at + MINUTE
    answer(project, tmp_path, 3, start, rows=10)
    seen = monitor(project, now=start + 5 * MINUTE)
    assert (seen.outcome, seen.window) == ("waiting", None)
    assert "10 of 30 rows" in seen.sentence


def test_what_was_just_scored_is_measured_at_once_by_the_time_of_the_traffic(tmp_path):
    root = make(tmp_path / "scored")
    released = live(root).at
    answer(root, tmp_path, 3, released + MINUTE)
    last = released + MINUTE + (ROWS - 1) * timedelta(seconds=5)
    seen = monitor(root, now=last + timedelta(seconds=2))  # capture might still hold answers back
    assert seen.window is not None, seen.sentence
    entries = Journal(log_of(root).store).recent(9)
    assert [measures.window.rows for measures, _ in entries] == [ROWS]
    again = monitor(root, now=last + timedelta(seconds=3))
    assert (again.outcome, again.window) == ("waiting", None)

    before = released - 400 * MINUTE  # traffic of a time before the release, scored with the live model
    answer(root, tmp_path, 3, before)
    seen = monitor(root, now=last + timedelta(seconds=4))
    assert seen.window is not None, seen.sentence
    windows = [measures.window for measures, _ in Journal(log_of(root).store).recent(9)]
    assert windows[0].start <= before < windows[0].end < released
    assert windows[0].rows == ROWS
    assert monitor(root, now=last + timedelta(seconds=5)).window is None
    answer(root, tmp_path, 2, before - 400 * MINUTE, rows=5)
    said = []
    assert monitor(root, said.append, now=last + timedelta(seconds=6)).window is None
    assert any("too few rows for a window of its own" in line for line in said)


def test_changed_traffic_is_watched_then_labels_are_asked_for(project, tmp_path, alerts):
    start = live(project).at + 2 * MINUTE
    answer(project, tmp_path, 3, start)
    first = monitor(project, now=start + 15 * MINUTE)
    assert first.outcome == "watch", first.sentence
    assert Path(first.report).is_file()
    answer(project, tmp_path, 2, start + 16 * MINUTE)
    second = monitor(project, now=start + 30 * MINUTE)
    assert second.outcome == "label", second.sentence
    assert waiting(log_of(project)), "samples were added to the review queue"
    entries = Journal(log_of(project).store).recent(9)
    assert [decision.outcome for _, decision in entries] == ["watch", "label"]
    assert entries[0][0].window.rows == ROWS + 10, "the rows that waited are in the first window"
    assert entries[0][0].window.end == entries[1][0].window.start, "no row falls between two windows"
    label = next(alert for alert in alerts if "labels are needed" in alert["title"])
    assert "samples were added to the review queue" in label["message"]
    assert label["message"].endswith("Open: http://127.0.0.1:4280/label/production")
    assert list((project / ".evergreen" / "evidently").glob("*/snapshots/*.json"))


def test_each_window_has_an_audit_sample_and_drift_asks_for_a_larger_one(tmp_path):
    root = make(tmp_path, replace={"audit_per_day: 20": "audit_per_day: 12", "budget: 100": "budget: 40"})
    start, log = live(root).at + MINUTE, log_of(root)
    answer(root, tmp_path, 3, start)
    monitor(root, now=start + 15 * MINUTE)
    routine = waiting(log)
    assert {(entry.picked, entry.why) for entry in routine} == {("audit", "audit")}
    assert 12 / ROWS in {entry.sampling_probability for entry in routine}
    monitor(root, now=start + 15 * MINUTE)
    assert waiting(log) == routine, "nothing is drawn twice"
    answer(root, tmp_path, 2, start + 16 * MINUTE)
    seen = monitor(root, now=start + 30 * MINUTE)
    assert seen.outcome == "label", seen.sentence
    kinds = Counter(entry.why if entry.picked == "audit" else "queue" for entry in waiting(log))
    assert kinds["audit of drift"] >= 4  # of 120 answers, 12 are wanted on average
    assert kinds["queue"] > kinds["audit of drift"]
    assert kinds["queue"] + kinds["audit of drift"] <= 40


def test_drift_with_enough_new_labels_wants_a_retraining_and_without_a_server_keeps_wanting_it(project, tmp_path):
    log = log_of(project)
    released = live(project).at
    rows = log.find([entry.id for entry in waiting(log)], released, released + 60 * MINUTE, ["id", "at"])
    given = {
        "id": rows["id"],
        "at": pa.array([released + 32 * MINUTE] * len(rows), pa.timestamp("us", tz="UTC")),
        "annotator": ["ann"] * len(rows),
        "label": ["Bag"] * len(rows),
    }
    log.add_labels(late_labels(given))
    assert new_labels(project, log, released) >= 20
    answer(project, tmp_path, 1, released + 33 * MINUTE)
    before = len(Journal(log.store).recent(9))
    releases = open_store(load_params(project / "params.yaml").store, project)
    pause(releases, by="Ann", why="the line is rebuilt", now=released)
    paused = monitor(project, now=released + 48 * MINUTE)
    assert paused.outcome == "watch"
    assert "new labels is wanted, but Evergreen is" in paused.sentence
    assert "paused until somebody resumes by Ann: the line is rebuilt" in paused.sentence
    (_, decision) = Journal(log.store).recent(1)[0]
    assert decision.wanted == "retrain"
    assert Journal(log.store).retrains() == [], "no cooldown begins with a retraining that did not start"
    resume(releases, by="Ann")
    log.store.remove(f"windows/{paused.window}.json")
    with pytest.raises(EvergreenError, match=r"a retraining was requested .*window .*no Prefect server"):
        monitor(project, now=released + 48 * MINUTE)
    assert len(Journal(log.store).recent(9)) == before, "a decision that could not be carried out is made again"
    assert Journal(log.store).retrains() == []


def test_labels_that_a_run_has_used_are_not_new(project):
    from flows.repo.run_inputs import current_inputs, record_ending

    key, _, _ = current_inputs(project)
    record_ending(project, key, {"run_id": "r", "outcome": "held", "version": None, "sentence": "no better"})
    assert new_labels(project, log_of(project), live(project).at) == 0


def test_two_at_the_same_time_are_one(project):
    import fcntl

    with open(project / ".evergreen" / "monitor.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert monitor_and_record(project) == "another monitor run is active"


# --- late labels


def test_intervals_of_differences_hold_what_they_promise():
    import numpy as np

    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        b, c, _ = rng.multinomial(80, [0.15, 0.10, 0.75])
        found = reevaluate.paired_difference(int(b), int(c), 80)
        inside += found.low <= 0.05 <= found.high
    assert inside / 2000 >= 0.97
    inside = 0
    for _ in range(2000):
        found = reevaluate.unpaired_difference(int(rng.binomial(60, 0.9)), 60, int(rng.binomial(80, 0.8)), 80)
        inside += found.low <= 0.1 <= found.high
    assert inside / 2000 >= 0.97


def relabelled(root: Path, wrong: bool) -> None:
    """A true label for every answer of the live model: another class than its answer, or its answer."""
    log, pointer = log_of(root), live(root)
    rows, _, _ = log.window(
        pointer.at, pointer.at + timedelta(days=1), ["id", "at", "prediction"], bundle=pointer.bundle
    )
    names = ["Ankle boot", "Bag", "Trouser"]
    truth = [names[(names.index(p) - wrong) % 3] for p in rows["prediction"].to_pylist()]
    given = {"id": rows["id"], "at": rows["at"], "annotator": ["ann"] * len(rows), "label": truth}
    log.add_labels(late_labels(given))


def worse_bundle(root: Path, folder: Path) -> Path:
    """The live bundle with its classes in another order: whole, and nearly always wrong."""
    import shutil

    from tasks.releases.bundle import MANIFEST, digest

    shutil.copytree(root / "artifacts" / "bundle", folder)
    about = read_json(folder / "bundle.json")
    about["classes"] = about["classes"][1:] + about["classes"][:1]
    write_json(folder / "bundle.json", about)
    manifest = read_json(folder / MANIFEST)
    from tasks.common.files import sha256_file

    files = manifest.get("files", manifest)
    assert "bundle.json" in files, manifest
    entry = files["bundle.json"]
    if isinstance(entry, dict):
        entry |= {"sha256": sha256_file(folder / "bundle.json"), "size": (folder / "bundle.json").stat().st_size}
    else:
        files["bundle.json"] = sha256_file(folder / "bundle.json")
    write_json(folder / MANIFEST, manifest)
    assert digest(folder)
    return folder


def test_a_new_champion_surely_worse_than_its_predecessor_is_rolled_back_and_told(tmp_path, alerts):
    root = make(tmp_path / "p")
    releases = open_store(load_params(root / "params.yaml").store, root)
    first = releases.live()
    digest = releases.put_bundle(worse_bundle(root, tmp_path / "worse"))
    releases.promote(
        successor(first, version="v0.2.0", run_id="r-2", git_rev=first.git_rev, bundle=digest, by="a", why="better?")
    )
    answer(root, tmp_path, 1, releases.live().at + MINUTE)
    said = reevaluate.reevaluate(root, now=LATER)
    assert "0 answers have a true label" in said
    relabelled(root, wrong=True)  # every answer of the new champion is wrong, as its order of classes is
    pause(releases, by="Ann", why="the line is rebuilt")
    said = reevaluate.reevaluate(root, now=LATER)
    assert "not rolled back to v0.1.0, because Evergreen is paused" in said, said
    assert releases.live().version == "v0.2.0"
    assert "not rolled back" in alerts.pop()["message"]
    resume(releases, by="Ann")
    said = reevaluate.reevaluate(root, now=LATER)
    assert "rolled back to v0.1.0" in said, said
    assert releases.live().version == "v0.1.0"
    assert releases.live().by == "policy"
    (alert,) = alerts
    assert "rolled back" in alert["title"]
    assert "Done: rolled back to v0.1.0" in alert["message"]
    assert alert["message"].endswith("/releases/r-2"), "the page of the version that was withdrawn"
    assert "rolled back" not in reevaluate.reevaluate(root, now=LATER), (
        "a version put back is not judged against what it replaced"
    )


def test_a_champion_that_is_right_stays(tmp_path, alerts):
    root = make(tmp_path / "p")
    answer(root, tmp_path, 1, live(root).at + MINUTE)
    relabelled(root, wrong=False)
    assert "60 of 60 labelled answers right" in reevaluate.reevaluate(root, now=LATER)
    assert live(root).version == "v0.1.0"
    assert alerts == []


# --- housekeeping


def test_housekeeping_removes_what_is_past_its_time_and_tells_a_silent_monitor(project, alerts):
    from flows.services.housekeeping import LONGEST_LOG, housekeeping

    state = project / ".evergreen"
    old = state / ".torn.json.abc.tmp"
    old.write_text("half")
    fresh = state / ".being-written.json.abc.tmp"
    writer = os.open(fresh, os.O_RDWR | os.O_CREAT)  # a living writer holds its file's lock
    fcntl.flock(writer, fcntl.LOCK_EX)
    with open(state / "runner.log", "wb") as log:
        log.seek(LONGEST_LOG)
        log.write(b"the last line\n")
    before = datetime.now(UTC) - timedelta(days=2)
    note_seen(project, Seen(at=before, outcome="none", sentence="all is well"))
    said = housekeeping(project, now=datetime.now(UTC) + timedelta(days=100))
    assert "expired log files" in said
    assert "1 overlong logs" in said
    assert "ALARM: no monitor run has succeeded" in said
    assert "no monitor run has succeeded" in alerts[-1]["message"]
    assert not old.exists()
    assert fresh.exists()
    os.close(writer)
    assert (state / "runner.log").stat().st_size < 2 << 20
    assert (state / "runner.log").read_bytes().endswith(b"the last line\n")
    assert log_of(project).last_at(datetime.now(UTC) + timedelta(days=1)) is None
    assert len(log_of(project).labels()), "labels are people's work: they stay"
