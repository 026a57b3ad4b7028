"""What a run writes about itself while it works, and the list of all runs that people read."""

import fcntl
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.publishing import run_records
from flows.publishing.outcomes import Ending
from flows.repo import progress, workspace
from flows.repo.progress import Progress, Step, read_progress
from flows.runs import overview, retrain
from flows.runs.cancel import cancel
from flows.runs.overview import WORDS, list_runs, one_run
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import load_params
from tasks.releases.store import Releases, open_store

KEY = "abcdef0123456789abcdef01"


def store(root: Path) -> Releases:
    return open_store(load_params(root / "params.yaml").store, root)


def begin(root: Path, run_id: str, reason: str = "new labels") -> tuple[Path, int]:
    """A run that is at work: its folder and the descriptor of its lock, which lives as long as it is open."""
    folder = root / ".evergreen/runs" / run_id
    folder.mkdir(parents=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_json(folder / "started.json", {"key": KEY, "reason": reason, "by": "ann"})
    Progress(folder, [Step("data"), Step("inspect"), Step("gate")], flow_run="f-1").save()
    return folder, lock


def test_steps_are_written_as_they_begin_and_end(tmp_path: Path):
    run = Progress(tmp_path, [Step("data"), Step("inspect")])
    with run.running("data") as step:
        seen = read_progress(tmp_path)
        step.outcome = "here"
    assert [one.state for one in seen.steps] == ["running", "waiting"]
    with pytest.raises(ZeroDivisionError), run.running("inspect"):
        1 / 0  # noqa: B018
    with run.running("publish"):  # a step that was not planned
        pass
    found = read_progress(tmp_path)
    assert [(one.name, one.state, one.outcome) for one in found.steps] == [
        ("data", "done", "here"),
        ("inspect", "failed", ""),
        ("publish", "done", ""),
    ]
    assert (found.pid, found.steps[0].seconds >= 0) == (os.getpid(), True)
    (tmp_path / "progress.json").write_text("{")
    assert read_progress(tmp_path) is None


def test_what_a_step_prints_is_kept_without_progress_bars(tmp_path: Path, capsys):
    run = Progress(tmp_path, [])
    with run.printing():
        print("epoch 1")
        print("loss 0.5", file=sys.stderr)
        print("\x1b[2K  12 %\r", file=sys.stderr)
        print("half a line", end="")
    assert progress.last_lines(tmp_path) == ["epoch 1", "loss 0.5"]
    assert progress.last_lines(tmp_path, 1) == ["loss 0.5"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "loss 0.5" in shown.err
    assert progress.last_lines(tmp_path / "nowhere") == []


def test_runs_that_were_killed_or_cancelled_stay_listed_after_their_workspaces_are_gone(toy: Path):
    for run_id, by in (("20260101T000000000000-abcdef-1", None), ("20260102T000000000000-abcdef-2", "Ann")):
        folder, lock = begin(toy, run_id)
        (folder / "log.txt").write_text("epoch 1\n")
        if by:
            progress.request_cancel(folder, by, "the wrong images")
        os.close(lock)
    assert [row.outcome for row in list_runs(toy, store(toy)).rows] == ["killed", "killed"]  # no run has tidied up yet
    assert workspace.reconcile(toy) != []
    assert not (toy / ".evergreen/runs/20260101T000000000000-abcdef-1").exists()
    cancelled, killed = list_runs(toy, store(toy)).rows
    assert (cancelled.words, cancelled.sentence) == ("cancelled", "cancelled by Ann: the wrong images")
    assert (killed.words, killed.log, killed.why, killed.flow_run) == ("killed", ["epoch 1"], "new labels", "f-1")
    assert killed.began == datetime(2026, 1, 1, tzinfo=UTC)


def test_all_runs_in_one_list_the_newest_first_in_words_for_people(toy: Path):
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [f"{begun + timedelta(days=day):%Y%m%dT%H%M%S%f}-abcdef-7" for day in range(8)]
    endings = ["promoted", "held", "rejected", "refused", "unchanged"]
    for run_id, outcome in zip(ids, endings, strict=False):
        folder, lock = begin(toy, run_id, "started by hand")
        (folder / "tree").mkdir()
        run_records.record(store(toy), folder / "tree", run_id, Ending(outcome=outcome, sentence="because"))
        os.close(lock)
    folder, lock = begin(toy, ids[5])
    progress.record_unfinished(toy, folder, "failed", "no room on the disk")
    progress.record_unfinished(toy, folder, "killed", "a second record does not replace the first")
    os.close(lock)
    folder, alive = begin(toy, ids[6])
    with read_progress(folder).running("inspect"):
        rows = list_runs(toy, store(toy)).rows
    assert [row.id for row in rows] == ids[6::-1]
    assert [row.words for row in rows] == [
        *("running", "failed", "the same model again", "data refused", "rejected", "waits for approval", "promoted")
    ]
    assert rows[0].sentence == "inspect; 0 of 9 stages done"
    assert rows[-1].why == "by ann, by hand"  # never "started by hand: started by hand"
    assert rows[-1].seconds > 0
    assert set(WORDS) > {row.outcome for row in rows}

    first = list_runs(toy, store(toy), most=3)
    second = list_runs(toy, store(toy), most=4, after=first.after)
    assert [row.id for row in [*first.rows, *second.rows]] == ids[6::-1]
    assert second.after is None
    assert [row.id for row in list_runs(toy, store(toy), outcome="held").rows] == [ids[1]]
    assert one_run(toy, store(toy), ids[5]).sentence == "no room on the disk"
    assert one_run(toy, store(toy), ids[7]) is None
    with pytest.raises(EvergreenError, match=r"it ended as promoted|no such run is at work"):
        cancel(toy, ids[0], by="Ann")
    os.close(alive)


def test_only_the_newest_unfinished_runs_are_kept(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_STATE", str(tmp_path))
    monkeypatch.setattr(progress, "KEPT", 2)
    for number in range(4):
        progress.record_unfinished(tmp_path, tmp_path / "runs" / f"run-{number}", "failed", "why")
    assert sorted(file.stem for file in (tmp_path / "unfinished").iterdir()) == ["run-2", "run-3"]


def test_a_page_of_a_rare_outcome_reads_a_bounded_number_of_records(toy: Path, monkeypatch):
    releases = store(toy)
    for number in range(9):
        about = {
            "outcome": "failed" if number == 0 else "unchanged",
            "sentence": "s",
            "at": "2026-01-01T00:00:00+00:00",
        }
        releases.put_run(f"2026010{number + 1}T000000000000-abcdef-7", about)
    monkeypatch.setattr(overview, "SCANNED", 4)
    read: list[str] = []

    def reading(run_id: str):
        read.append(run_id)
        return releases.run(run_id)

    pages, after = [], None
    while True:
        page = list_runs(toy, releases, most=3, outcome="failed", after=after, read=reading)
        pages.append(([row.id[:8] for row in page.rows], len(read)))
        if (after := page.after) is None:
            break
    assert pages == [([], 4), ([], 8), (["20260101"], 9)]


def test_a_cancelled_run_begins_no_further_step(tmp_path):
    """Also where the signal was lost."""
    tree = tmp_path / "run/tree"
    tree.mkdir(parents=True)
    run = SimpleNamespace(root=tree, progress=Progress(tree.parent, [Step("inspect")]))
    assert retrain._timed(run, "inspect", lambda: 7, lambda found: ("ran", str(found))) == 7
    progress.request_cancel(tree.parent, "Ann", "")
    with pytest.raises(KeyboardInterrupt):
        retrain._timed(run, "inspect", lambda: 7, lambda found: ("ran", str(found)))
