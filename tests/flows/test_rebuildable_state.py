"""State that can be rebuilt, damaged in every way: one line, never a traceback, and whole again afterwards."""

import json
import logging
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.labels import pick_data
from flows.labels.mistakes import found
from flows.predictor import status as predictor
from flows.predictor.known import read_known
from flows.production import scored
from flows.repo import label_issues, run_inputs, workspace
from flows.runs import lease, pace, single_flight
from flows.server import process
from flows.services import up
from monitoring import alerts, mutes, seen
from monitoring.pages import live, report
from tasks.common.checkout import checkout, known_checkout
from tasks.common.params import AlertsParams
from tasks.common.rebuildable import read_rebuildable
from tasks.ingest.lock import data_lock
from tests.support.checkout import ROOT, git
from tests.support.children import command

DAMAGES = {
    "empty": b"",
    "zeros": b"\0" * 64,
    "cut short": b'{"pid": 12, "url": "http',
    "not JSON": b"<html>\n",
    "not UTF-8": b'{"at": "\xff\xfe"}',
    "a list": b"[[1, {}]]",
    "a number": b"7",
    "null": b"null",
    "text": b'"text"',
    "other keys": b'{"other": [1]}',
    "wrong types": b'{"pid": "x", "url": 3, "at": [], "id": {}, "services": [], "b-1": {}, "schema": "x", "seq": "1"}',
    "nested too deep": b"[" * 100_000,
    "a folder": None,
}
KEY = "a" * 64
AT = datetime(2026, 11, 27, tzinfo=UTC)


def lines(root: Path) -> list:
    shutil.copy(ROOT / "params.yaml", root)
    return up.status_lines(root)


def ingest(root: Path) -> None:
    (root / "data").mkdir(exist_ok=True)
    with data_lock(root):
        pass


def journal(root: Path) -> str:
    ingest(root)
    return next((root / ".evergreen/ingest").glob("*.lock")).with_suffix(".json").name


READERS = {  # file under .evergreen: what reads it
    "checkout.json": known_checkout,
    "server.json": process.running,
    "services.json": up.services,
    "predictor/service.json": predictor.lines,
    "predictor/versions.json": read_known,
    up.DEPLOYED: lines,
    "monitor.json": seen.last_seen,
    "alarms.json": lambda root: alerts.alert_once(root, "an alarm", "silence", None),
    "mutes.json": mutes.mutes,
    "scored.json": lambda root: scored.pending(root, "b-1"),
    "stage_seconds.json": pace.expected,
    "trigger/wanted.json": single_flight.wanted,
    f"seen/{KEY}.json": lambda root: run_inputs.recorded_ending(root, KEY),
    "runs/r-1/started.json": lambda root: workspace.read_started(root / ".evergreen/runs/r-1"),
    "runs/r-1/ended.json": lambda root: workspace.read_ending(root / ".evergreen/runs/r-1"),
    "label-issues/r-1.json": label_issues.newest_issues,
    f"{pick_data.FOLDER}/1.json": pick_data.picked,
    f"{found.FOLDER}/r-1.json": found.newest,
    "reports/index.json": lambda root: report.read_index(root / ".evergreen/reports"),
    f"reports/{live.FILE}": lambda root: live.read(root / ".evergreen/reports"),
    "holder": lease._known_holder,
    "alerts/1.json": lambda root: alerts.Outbox(root / ".evergreen/alerts", AlertsParams()).deliver(),
    "schema.json": workspace.check_code_and_state,
}
HARMLESS = {  # content that the file may have: an absent key is an older version's, a dict any names
    ("runs/r-1/started.json", "other keys"): True,
    ("runs/r-1/started.json", "wrong types"): True,
}


@pytest.fixture
def project(tmp_path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / ".evergreen/label-issues").mkdir(parents=True)
    (tmp_path / ".evergreen/label-issues/r-1.csv").write_text("id\n")
    return tmp_path


def damage(file: Path, content: bytes | None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        (file / "inside").mkdir(parents=True)
    else:
        file.write_bytes(content)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_damaged_state_costs_one_line_and_is_absent_from_then_on(project, caplog, monkeypatch, name, how):
    monkeypatch.setenv("EVERGREEN_ALERTS", "json://127.0.0.1:9/")
    if name == up.DEPLOYED:  # asked only for a runner that is alive
        own, pid = checkout(project).id, os.getpid()
        one = {"pid": pid, "created": process.created(pid), "url": None, "restarts": 0}
        address = {"pid": pid, "created": process.created(pid), "url": "http://127.0.0.1:9", "restarts": 0}
        about = {"pid": pid, "created": process.created(pid), "checkout": own, "since": AT.isoformat()}
        services = {"prefect": address, "runner": one, "pages": address, "evidently": address}
        (project / ".evergreen/services.json").write_text(json.dumps(about | {"services": services}))
    file = project / ".evergreen" / name
    damage(file, DAMAGES[how])
    with caplog.at_level(logging.WARNING):
        READERS[name](project)
    if HARMLESS.get((name, how)):
        assert caplog.messages == []
        return
    (line,) = caplog.messages
    assert f"{file} is damaged (" in line
    assert "\n" not in line
    assert file.with_name(f"{file.name}.damaged").exists(), "kept for a person to look at"
    if name != "trigger/wanted.json":
        assert not file.exists()
    READERS[name](project)
    assert len(caplog.messages) == 1, "said once"


def test_a_damaged_list_of_reasons_is_a_reason(project):
    ran = []
    damage(project / ".evergreen/trigger/wanted.json", b"{")
    assert single_flight.wanted(project) == [single_flight.LOST]
    single_flight.trigger(project, "drift", run=lambda reason: ran.append(reason) or "done")
    assert ran == [f"{single_flight.LOST}; drift"]
    assert single_flight.wanted(project) == []


def test_a_run_with_a_damaged_ending_counts_as_crashed(tmp_path):
    git(tmp_path, "init", "-q")
    folder = tmp_path / ".evergreen/runs/r-1"
    damage(folder / "ended.json", b'{"outcome": "prom')
    damage(folder / "started.json", b"")
    assert workspace.reconcile(tmp_path) == ["r-1"]
    assert workspace.crashed_runs(tmp_path) == ["r-1"]


def test_files_of_data_stay_where_the_list_of_an_ingest_is_damaged(project, caplog):
    name = journal(project)
    shard = project / "data/0001.parquet"
    shard.write_bytes(b"not listed by any batch")
    damage(project / ".evergreen/ingest" / name, b"[1]")
    ingest(project)
    assert shard.exists(), "what was there before the ingest is unknown"
    assert "what a killed ingest left in data/ stays" in caplog.text
    (project / ".evergreen/ingest" / name).write_text("[]")
    ingest(project)
    assert not shard.exists()


def test_a_file_that_was_replaced_meanwhile_stays(tmp_path):
    file = tmp_path / "state.json"
    file.write_bytes(b"{")

    def replace(content: bytes) -> object:
        file.write_text('{"whole": 1}')  # another process, between the read and the move
        return json.loads(content)

    assert read_rebuildable(file, lambda found: found, parse=replace) is None
    assert read_rebuildable(file, lambda found: found) == {"whole": 1}


def test_commands_show_one_line_per_damaged_file(project):
    git(project, "init", "-q")
    shutil.copy(ROOT / "dvc.yaml", project)
    names = ["checkout.json", "server.json", "services.json", "monitor.json", "trigger/wanted.json", "holder"]
    for name in names:
        damage(project / ".evergreen" / name, DAMAGES["cut short"])
    done = command(("status",), project, os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(names), said
    assert all(" is damaged (" in line for line in said)
    assert "a retraining because: the list of reasons was damaged" in done.stdout


def test_only_what_no_other_file_tells_is_read_without_the_helper():
    """A new file under .evergreen is read with `read_rebuildable`, or is listed here with the reason."""
    exact = {
        "flows/backup/restore.py",  # of a backup
        "flows/demo/clients.py",  # files that it has just waited for
        "flows/demo/production.py",
        "flows/experiments/trial.py",  # of a process that has just ended
        "flows/experiments/run.py",  # what its parent has just written
        "flows/labels/floor_places.py",  # stages' outputs
        "flows/labels/mistakes/gather.py",
        "flows/publishing/adopt.py",  # of a worktree that it has just run
        "flows/publishing/diagnose.py",  # stages' outputs
        "flows/publishing/experiment_table.py",
        "flows/publishing/judge_adopted.py",
        "flows/publishing/judge_run.py",
        "flows/publishing/run_records.py",
        "flows/release_report/changes.py",
        "flows/release_report/heat.py",
        "flows/release_report/images.py",
        "flows/release_report/measures.py",
        "flows/repo/workspace.py",  # tombstones.json of a commit
        "flows/runs/retrain.py",  # what it has just written
        "flows/runs/summary.py",
        "flows/erasure/forget.py",  # an erasure in progress
        "flows/erasure/project_places.py",  # of an export, which may be elsewhere
        "flows/erasure/proof.py",
    }
    files = [file for folder in ("flows", "monitoring", "serving") for file in (ROOT / folder).rglob("*.py")]
    assert {str(file.relative_to(ROOT)) for file in files if re.search(r"\bread_json\(", file.read_text())} == exact
