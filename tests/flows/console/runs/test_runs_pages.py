"""The pages of runs: in words for people, live while a run works, with the buttons that end or repeat one."""

import csv
import fcntl
import io
import os
import re

import pytest

from flows.console.jobs.store import newest_job
from flows.console.runs.view import links_of, share_done, step_rows
from flows.repo import progress
from flows.repo.progress import Progress, Step
from flows.runs.overview import RunRow
from tasks.common.files import write_json
from tests.support import released_project
from tests.support.console import job_ended, serving
from tests.support.waiting import until

RUN = "20260105T080000000000-abcdef-7"
WINDOW = "20261121T120000Z-20261121T121500Z"
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return released_project.copy(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def at_work(root):
    """A run that is at work: this process holds its lock, as the run's process does."""
    folder = root / ".evergreen/runs" / RUN
    folder.mkdir(parents=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_json(
        folder / "started.json",
        {"key": "a" * 24, "reason": f"window {WINDOW}: {HOSTILE}", "by": "ann"},
    )
    steps = Progress(folder, [Step("data"), Step("inspect"), Step("train_backbone")])
    with steps.running("data") as step:
        step.outcome = "here"
    steps.step("inspect").state, steps.step("inspect").began = "running", steps.began
    steps.save()
    (folder / "log.txt").write_text(f"epoch 1 {HOSTILE}\n")
    yield folder
    os.close(lock)


def test_a_run_at_work_shows_its_steps_its_log_and_can_be_cancelled(root, at_work):
    with serving(root) as site:
        status, _, text = site.get("/runs")
        assert status == 200
        assert 'data-live="runs jobs"' in text
        assert f'href="/runs/{RUN}"' in text
        status, _, text = site.get(f"/runs/{RUN}")
        assert status == 200
        assert HOSTILE not in text
        assert "epoch 1 &lt;img" in text
        assert "inspect; 0 of 9 stages done" in text
        assert f'href="/production/{WINDOW}"' in text  # the window that started it
        assert "Cancel the run" in text
        assert "inspect,running," in site.get(f"/runs/{RUN}?format=csv")[2]
        status, headers, _ = site.post(f"/runs/{RUN}/cancel", {"why": "wrong images"}, page=f"/runs/{RUN}")
        assert (status, headers["location"]) == (303, f"/runs/{RUN}")
        job = newest_job(root, f"cancel {RUN}")
        assert job.arguments == ["cancel", RUN, "--why=wrong images"]
        until(lambda: (at_work / "cancel.json").is_file())
        assert progress.cancel_sentence(at_work) == f"cancelled by {job.by}: wrong images"
        os.kill(job.pid, 9)  # it waits for this process to let go of the lock
        status, _, _ = site.get("/runs/no-such-run")
        assert status == 404
    until(lambda: not newest_job(root, f"cancel {RUN}").runs)


def test_endings_are_told_in_words_and_can_be_filtered_paged_and_saved(root):
    for day, outcome in enumerate(("failed", "cancelled", "killed"), 1):
        folder = root / ".evergreen/runs" / f"2026020{day}T080000000000-abcdef-7"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "started.json", {"key": "a" * 24, "reason": "started by hand", "by": "=cmd()"})
        progress.record_unfinished(root, folder, outcome, f"because of {HOSTILE}")
    released_project.store(root).put_run(
        "20260204T080000000000-abcdef-7",
        {
            "outcome": "held",
            "sentence": "too close to call",
            "at": "2026-02-04T08:30:00+00:00",
            "reason": "on schedule",
        },
    )
    with serving(root) as site:
        _, _, text = site.get("/runs")
        assert HOSTILE not in text
        for words in ("waits for approval", "cancelled", "failed", "killed", "by =cmd(), by hand", "30 min"):
            assert words in text, words
        assert "started by hand" not in text
        _, _, text = site.get("/runs?outcome=held")
        assert "cancelled</span>" not in text
        assert "too close to call" in text
        _, _, text = site.get("/runs?format=csv")
        rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
        assert [row["outcome"] for row in rows if row["why"] == "on schedule"] == ["waits for approval"]
        assert {row["by"] for row in rows} >= {"'=cmd()"}
        _, _, fragment = site.get("/runs?outcome=failed", HX_Request="true")
        assert "<html" not in fragment
        assert len(re.findall("<tr>", fragment)) == 2  # the heading and one run


def test_pressing_retrain_says_first_what_would_start(root):
    with serving(root) as site:
        _, _, text = site.get("/runs")
        assert "Nothing is new since run" in text
        assert "nothing will start" in text
        status, headers, _ = site.post("/runs", {"why": "", "back": "/runs"}, page="/runs")
        assert (status, headers["location"]) == (303, "/runs")
        job = newest_job(root, "retrain")
        assert job.arguments == ["retrain"]
        job_ended(root, "retrain")
        assert "nothing new since run" in newest_job(root, "retrain").result
        status, _, _ = site.post("/runs", {"why": "", "token": "0.0"}, page="/runs")
        assert status == 403


def test_how_far_a_run_is_follows_from_how_long_its_stages_last_took():
    steps = [Step("data", "done"), Step("inspect", "done"), Step("train_backbone", "running"), Step("gate")]
    rows = step_rows(steps, {"inspect": 10.0, "train_backbone": 90.0})
    assert share_done(rows, lambda step: 45.0) == pytest.approx(0.55)
    assert share_done(rows, lambda step: 500.0) == 1.0
    assert share_done(step_rows(steps, {}), lambda step: 1.0) is None
    assert [
        row.words for row in step_rows([Step("a", "done", outcome="unchanged"), Step("b", "done", outcome="ran")], {})
    ] == [
        "reused",
        "ran",
    ]


def test_a_run_leads_to_its_release_its_batch_and_its_window():
    def row(outcome, sentence="", reason=""):
        return RunRow("r", outcome, sentence, reason, "", None, None)

    assert links_of(row("held"))[0][1] == "/releases/r"
    assert links_of(row("refused", "batch b-0123456789ab is refused"))[0][1] == "/data/b-0123456789ab"
    assert links_of(row("refused", "the table"))[0][1] == "/data/table"
    assert links_of(row("unchanged", reason=f"window {WINDOW}: drift"))[0][1] == f"/production/{WINDOW}"
