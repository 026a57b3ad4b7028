"""Settings of production that no stage reads: each test fails when its setting is ignored."""

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flows.production.monitor import monitor
from flows.production.reevaluate import reevaluate
from flows.production.score import score
from flows.services import webhook
from flows.services.housekeeping import housekeeping
from flows.services.supervisor import commands
from monitoring.drift.calibration import calibrate
from monitoring.drift.window import measure_window
from monitoring.journal import Journal
from monitoring.log.production_log import open_log
from tasks.common.files import read_json
from tasks.common.params import DriftParams, load_params
from tasks.releases.pointer import successor
from tasks.releases.store import open_store
from tests.flows.production.test_monitor import worse_bundle
from tests.support.checkout import ROOT
from tests.support.drift_rows import WINDOW, a_reference, window
from tests.support.late_labels import late_labels
from tests.support.live_project import make, traffic

MINUTE = timedelta(minutes=1)


def log_of(root: Path):
    return open_log(root, load_params(root / "params.yaml"))


def answer(root: Path, folder: Path, start: datetime, rows: int = 40) -> None:
    times = [start + n * timedelta(seconds=5) for n in range(rows)]
    score(root, str(traffic(folder / f"{start:%H%M%S}.parquet", 3, rows, taken_at=times)))


def lists(value, key: str) -> list[list[float]]:
    """Every list of numbers under `key`, at any depth of a JSON value."""
    if isinstance(value, list):
        return [found for part in value for found in lists(part, key)]
    if not isinstance(value, dict):
        return []
    found = [found for part in value.values() for found in lists(part, key)]
    own = value.get(key)
    return [*found, own] if isinstance(own, list) and all(isinstance(n, int | float) for n in own) else found


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A project with a log elsewhere and small reports; two windows are measured, the second one is kept."""
    folder = tmp_path_factory.mktemp("settings")
    changes = {"rows: 500": "rows: 20", "images: 12": "images: 2", "keep: 5000": "keep: 1"}
    root = make(folder, replace=changes | {"url: .evergreen/production": "url: .evergreen/elsewhere"})
    start = open_store(load_params(root / "params.yaml").store, root).live().at + MINUTE
    for number in range(2):
        answer(root, folder, start + 20 * number * MINUTE)
        assert monitor(root, now=start + (20 * number + 15) * MINUTE).window
    return root


def test_the_log_is_where_capture_url_says(measured):
    assert list((measured / ".evergreen/elsewhere").glob("2*/**/*.parquet"))
    assert not (measured / ".evergreen/production").exists()


def test_a_report_has_the_images_and_rows_that_are_set_and_so_many_are_kept(measured):
    (page,) = [file for file in (measured / ".evergreen/reports").glob("2*.html")]
    assert page.read_text().count("<img ") == 4, "two that moved, two typical ones"
    (snapshot,) = (measured / ".evergreen/evidently").glob("*/snapshots/*.json")
    sums = [sum(bars) for bars in lists(json.loads(snapshot.read_text()), "y")]
    assert 20 in sums, "the bars of a plot count the sampled rows"
    assert 40 not in sums, "a plot counts all rows of the window"
    assert len(Journal(log_of(measured).store).recent(9)) == 2
    housekeeping(measured, say=lambda text: None)
    assert len(Journal(log_of(measured).store).recent(9)) == 1


@pytest.mark.parametrize(
    ("line", "kept"), [("keep_days: 1", False), ("keep_days: 9", True), ("keep_gb: 1.0e-06", False)]
)
def test_housekeeping_keeps_the_log_as_long_and_as_large_as_is_set(tmp_path, line, kept):
    key = line.split(":")[0]
    changes = {"keep_days: 90": line} if key == "keep_days" else {"keep_gb: 20": line}
    root = make(tmp_path, replace=changes)
    start = open_store(load_params(root / "params.yaml").store, root).live().at + MINUTE
    answer(root, tmp_path, start)
    housekeeping(root, say=lambda text: None, now=datetime.now(UTC) + timedelta(days=4))
    assert bool(list((root / ".evergreen/production").glob("2*/**/*.parquet"))) == kept


@pytest.mark.parametrize(("drop", "live"), [(0.15, "v0.1.0"), (1.0, "v0.2.0")])
def test_a_worse_champion_goes_only_if_it_fell_by_rollback_drop(tmp_path, drop, live):
    root = make(tmp_path, replace={"rollback_drop: 0.15": f"rollback_drop: {drop}"})
    releases = open_store(load_params(root / "params.yaml").store, root)
    first = releases.live()
    bundle = releases.put_bundle(worse_bundle(root, tmp_path / "worse"))
    new = successor(first, version="v0.2.0", run_id="r-2", git_rev=first.git_rev, bundle=bundle, by="a", why="better?")
    releases.promote(new)
    answer(root, tmp_path, releases.live().at + MINUTE)
    log, pointer = log_of(root), releases.live()
    rows, _, _ = log.window(pointer.at, pointer.at + timedelta(days=1), ["id", "at", "prediction"], bundle=bundle)
    names = read_json(root / "artifacts/validate/classes.json")
    truth = [names[(names.index(name) - 1) % len(names)] for name in rows["prediction"].to_pylist()]
    given = {"id": rows["id"], "at": rows["at"], "annotator": ["ann"] * len(rows), "label": truth}
    log.add_labels(late_labels(given))
    reevaluate(root, now=datetime.now(UTC) + timedelta(hours=1))
    assert releases.live().version == live


def test_a_window_is_cut_to_max_window(tmp_path):
    for limit in (50, 100):
        found = measure_window(window(200), WINDOW, a_reference(tmp_path), DriftParams(max_window=limit, resamples=100))
        assert found.window.used == limit


def test_thresholds_come_from_so_many_resamples_of_that_seed(tmp_path):
    reference = a_reference(tmp_path)
    first, more, other = (
        calibrate(reference, 50, DriftParams(resamples=resamples, seed=seed)).minima
        for resamples, seed in ((100, 0), (150, 0), (100, 1))
    )
    assert (len(first), len(more), len(other)) == (100, 150, 100)
    assert list(first) != list(other)


def test_services_take_the_ports_that_are_set(tmp_path, monkeypatch):
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (one, two)]
    params = load_params(ROOT / "params.yaml")
    serve = params.serve.model_copy(update={"port": ports[0], "evidently_port": ports[1]})
    made = commands(tmp_path, params.model_copy(update={"serve": serve}))
    command, address = made["evidently"]()
    assert address.endswith(f":{ports[1]}")
    assert str(ports[1]) in command
    command, address = made["pages"]()
    assert address.endswith(f":{ports[0]}")
    assert command[-2:] == [str(ports[0]), str(ports[1])]


def test_the_webhook_reads_its_key_where_params_yaml_says(tmp_path, monkeypatch):
    monkeypatch.delenv("EVERGREEN_WEBHOOK_SECRET", raising=False)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    app = FastAPI()
    app.include_router(webhook.router(tmp_path))
    for name in ("EVERGREEN_WEBHOOK_SECRET", "OTHER_SECRET"):
        changed = text.replace("webhook_secret_env: EVERGREEN_WEBHOOK_SECRET", f"webhook_secret_env: {name}")
        (tmp_path / "params.yaml").write_text(changed)
        answer_ = TestClient(app).post("/hooks/retrain", content=b"{}")
        assert answer_.status_code == 503
        assert f"{name} is not set" in answer_.json()["detail"]
