"""Snapshots in a real Evidently workspace: small, safe, one project, pruned, and shown by Evidently's own UI."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from monitoring.contracts import Finding
from monitoring.pages import columns, evidently, snapshot
from monitoring.pages.columns import MeasuredWindow
from tasks.common.access import access_of, basic
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.params import ServeParams
from tasks.common.tickets import make_ticket
from tests.support import drift_windows
from tests.support.checkout import ROOT
from tests.support.hostile import PAYLOADS
from tests.support.waiting import until


def add(workspace, number, classes=drift_windows.CLASSES, keep=5_000, **changes):
    window, reference = (
        drift_windows.window_table(number, classes=classes),
        drift_windows.reference_table(classes=classes),
    )
    measures = drift_windows.measures(number, window, reference, classes)
    values = {"window_table": window, "reference_table": reference, "measures": measures, "classes": classes}
    values |= {"decision": drift_windows.decision(number)} | changes
    return evidently.add(workspace, MeasuredWindow(**values), keep=keep)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A workspace of three windows."""
    workspace = tmp_path_factory.mktemp("stored") / "workspace"
    for number in range(3):
        add(workspace, number)
    return workspace


def test_a_snapshot_is_small_and_complete(stored):
    for path in (stored / str(evidently.PROJECT) / "snapshots").iterdir():
        assert path.stat().st_size < 64_000
    page = evidently.html(stored, drift_windows.times(2)[2])
    for text in ("brightness", "embedding 3", "prediction", "relative to its threshold", "Ankle boot", "K-S p_value"):
        assert text in page
    assert len(page) > 1_000_000  # with Evidently's own scripts, which is why it is not stored


def test_a_snapshot_contains_our_measures_with_their_values(stored):
    path = stored / str(evidently.PROJECT) / "snapshots" / f"{evidently.snapshot_id(drift_windows.times(2)[2])}.json"
    content = json.loads(path.read_text())
    found = {
        result["metric_value_location"]["metric"]["params"]["measure"]: result["value"]
        for result in content["metric_results"].values()
        if result["metric_value_location"]["metric"]["params"]["type"] == snapshot.MEASURE
    }
    window = drift_windows.measures(2, drift_windows.window_table(2), drift_windows.reference_table())
    expected = dict(snapshot.ratios(window.findings))
    assert found == pytest.approx(expected, rel=1e-3)
    assert "accuracy.estimated" not in found
    assert content["metadata"] == {"decision": "watch", "model": "v0.1.0", "window": window.window.id}
    assert content["timestamp"] == "2026-11-21T08:45:00"


def test_a_finding_without_threshold_or_number_has_no_ratio():
    findings = [
        Finding(name="a", status="ok", value=1, threshold=0),
        Finding(name="b", status="error"),
        Finding(name="c", status="drifted", value=float("inf"), threshold=1),
        Finding(name="d", status="info", value=1, threshold=1),
        Finding(name="e", status="drifted", value=3, threshold=2),
    ]
    assert snapshot.ratios(findings) == [("e", 1.5)]


def test_there_is_one_project_and_one_snapshot_per_window_in_order_of_time(tmp_path):
    workspace = tmp_path / "workspace"
    for number in (5, 4, 4):
        add(workspace, number)
    assert [path.name for path in workspace.iterdir()] == [str(evidently.PROJECT)]
    names = sorted(path.stem for path in (workspace / str(evidently.PROJECT) / "snapshots").iterdir())
    assert names == [str(evidently.snapshot_id(drift_windows.times(number)[2])) for number in (4, 5)]
    evidently.prune(workspace, 1)
    with pytest.raises(EvergreenError, match=r"report\.keep"):
        evidently.html(workspace, drift_windows.times(4)[2])
    assert evidently.ui_path(workspace, drift_windows.times(5)[2]).endswith(names[1])


def test_a_dashboard_that_the_user_changed_stays(tmp_path):
    workspace = tmp_path / "workspace"
    evidently.evidently_ui_command(workspace, 1)
    dashboard = workspace / str(evidently.PROJECT) / "dashboard.json"
    assert len(json.loads(dashboard.read_text())["panels"]) == 2
    dashboard.write_text('{"tabs": [], "panels": []}')
    evidently.evidently_ui_command(workspace, 1)
    assert json.loads(dashboard.read_text())["panels"] == []


def test_hostile_names_do_not_reach_evidently(tmp_path, visit):
    workspace = tmp_path / "workspace"
    classes = [*PAYLOADS]
    window, reference = drift_windows.window_table(0, classes=classes), drift_windows.reference_table(classes=classes)
    measures = drift_windows.measures(0, window, reference, classes)
    bad = [Finding(name=payload, status="drifted", value=2 + n, threshold=1) for n, payload in enumerate(PAYLOADS)]
    changed = measures.window.model_copy(update={"version": PAYLOADS[1]})
    measures = measures.model_copy(update={"findings": bad, "window": changed})
    path = add(workspace, 0, classes, measures=measures)
    text = path.read_text()
    page = evidently.html(workspace, measures.window.id)
    for payload in PAYLOADS:
        if set(payload) & set("<>\"'`\\\n\u202e"):
            assert payload not in text
            assert payload not in page
    assert "script alert(1)" in text  # it is shown, as words
    (tmp_path / "page.html").write_text(page)
    shown = visit(tmp_path / "page.html")
    shown.page.get_by_text("Data Drift Summary").wait_for()
    assert shown.problems == []
    assert shown.requests == []


def test_columns_that_one_side_lacks_are_left_out():
    window, reference = drift_windows.window_table(1), drift_windows.reference_table()
    now, then = snapshot.compared_columns(window, reference, drift_windows.CLASSES, 50)
    assert set(now) == set(then) == {*snapshot.NUMBERS, "prediction", *(f"embedding {n}" for n in (1, 2, 3))}
    assert {len(values) for values in [*now.values(), *then.values()]} == {50}
    for name in ("ood", "features"):
        place = window.column_names.index(name)
        window = window.set_column(place, window.field(place), pa.nulls(100).cast(window.field(place).type))
    now, then = snapshot.compared_columns(window, reference, drift_windows.CLASSES, 50)
    assert set(now) == set(then) == {*snapshot.NUMBERS, "prediction"} - {"ood"}


def test_a_window_of_unusable_bytes_only_still_has_a_snapshot(tmp_path):
    window = drift_windows.window_table(1)
    place = window.column_names.index("prediction")
    window = window.set_column(place, window.field(place), pa.nulls(100, pa.string()))
    assert add(tmp_path / "workspace", 1, window_table=window).stat().st_size > 1_000


def test_directions_follow_the_reference_and_keep_their_sign():
    random = np.random.default_rng(0)
    reference = random.normal(0, [5, 2, 1, 0.1], (200, 4))
    window, back = columns.directions(reference + np.array([3, 0, 0, 0]), reference)
    assert np.allclose(back.mean(axis=0), 0)
    assert np.allclose(window[:, 0] - back[:, 0], 3, atol=0.1)
    again = columns.directions(reference + np.array([3, 0, 0, 0]), reference)[0]
    assert np.array_equal(window, again)
    assert columns.directions(np.ones((5, 3)), reference)[0].shape == (5, 0)
    assert columns.directions(np.empty((0, 4)), reference)[1].shape == (200, 0)


def test_names_become_harmless_and_short():
    for payload in PAYLOADS:
        cleaned = snapshot.clean(payload)
        assert len(cleaned) <= snapshot.LETTERS
        assert cleaned.isprintable()
        assert not set(cleaned) & set("<>&\"'`\\")
    assert snapshot.clean("Größe 3 – T-shirt/top") == "Größe 3 – T-shirt/top"
    assert snapshot.clean("<>") == "(no name)"


def test_old_snapshots_keep_their_values_and_lose_their_plots(tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    monkeypatch.setattr(evidently, "WHOLE", 1)
    for number in range(2):
        add(workspace, number)
    snapshots = workspace / str(evidently.PROJECT) / "snapshots"
    sizes = [path.stat().st_size for path in sorted(snapshots.iterdir())]
    assert sizes[0] < 25_000 < 35_000 < sizes[1]
    old, new = (json.loads(path.read_text()) for path in sorted(snapshots.iterdir()))
    assert len(old["metric_results"]) == len(new["metric_results"]) > 20
    page = evidently.html(workspace, drift_windows.times(0)[2])
    assert "Plots are kept for the newest 1 windows" in page
    assert "image.brightness, relative to its threshold" in page


def test_adding_a_snapshot_to_5000_takes_under_5_seconds(stored, tmp_path):
    workspace = tmp_path / "workspace"
    shutil.copytree(stored, workspace)
    snapshots = workspace / str(evidently.PROJECT) / "snapshots"
    first = next(snapshots.iterdir())
    for number in range(100, 5_097):
        os.link(first, snapshots / f"{evidently.snapshot_id(drift_windows.times(number)[2])}.json")
    started = time.process_time()  # not wall time: other tests run beside
    add(workspace, 6_000, keep=5_000)
    assert time.process_time() - started < 5
    left = sorted(path.stem for path in snapshots.iterdir())
    assert len(left) == 5_000
    assert left[-1] == str(evidently.snapshot_id(drift_windows.times(6_000)[2]))
    assert left[0] == str(evidently.snapshot_id(drift_windows.times(1)[2]))


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_evidentlys_own_ui_shows_the_history_and_notices_a_new_window_and_only_to_its_owner(stored, visit, tmp_path):
    port = free_port()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    signed_in = {"Authorization": basic(checkout(tmp_path).auth)}
    command = evidently.evidently_ui_command(stored, port)
    env = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        api = f"http://127.0.0.1:{port}/api/projects/{evidently.PROJECT}/snapshots"
        until(lambda: len(get(api, signed_in)) == 3)
        user = ("evergreen", checkout(tmp_path).secret)
        page = visit(f"http://127.0.0.1:{port}/projects/{evidently.PROJECT}", user=user)
        page.page.get_by_text("Evergreen's measures, relative to their thresholds").wait_for()
        page.page.get_by_text("image.brightness").first.wait_for()
        assert page.problems == []
        assert not [request for request in page.requests if f"//127.0.0.1:{port}/" not in request]  # no telemetry
        window = drift_windows.times(2)[2]
        report = visit(f"http://127.0.0.1:{port}{evidently.ui_path(stored, window)}", user=user)
        report.page.get_by_text("Data Drift Summary").wait_for()
        add(stored, 3)
        until(lambda: len(get(api, signed_in)) == 4)
        refuse_strangers(f"http://127.0.0.1:{port}", signed_in, tmp_path / "other")
        ticket = make_ticket(tmp_path, "evidently")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/evergreen/sign-in?ticket={ticket}", timeout=60) as reply:
            page = reply.read().decode()
        reader = page.split('data-value="')[1].split('"')[0]
        assert checkout(tmp_path).secret not in page
        assert len(get(api, {"Authorization": basic(reader)})) == 4
        assert not access_of(tmp_path, ServeParams()).opens(reader), "it opens no other server"
    finally:
        process.terminate()
        process.wait(60)


def refuse_strangers(address: str, signed_in: dict[str, str], other: Path) -> None:
    """Without the secret nothing is answered, and with it nothing is changed. other: a folder for another workspace."""
    from evidently.ui.service.app import create_app, get_config

    def status(method: str, path: str, headers: dict[str, str]) -> int:
        line = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        line.request(method, path, body='{"name": "attack"}', headers={"Content-Type": "text/plain"} | headers)
        return line.getresponse().status

    routes = create_app(get_config(workspace=str(other))).routes
    asked = {
        (method, re.sub(r"\{[^}]*\}", str(evidently.PROJECT), route.path))
        for route in routes
        for method in route.methods
    }
    assert len(asked) > 100
    assert {status(method, path, {}) for method, path in asked} == {401}
    writes = {(method, path) for method, path in asked if method in ("POST", "PUT", "PATCH", "DELETE")}
    reads = ("POST", f"/api/v2/snapshots/{evidently.PROJECT}/data_series_batch")
    assert reads in writes
    assert {status(method, path, signed_in) for method, path in writes - {reads}} == {405}
    assert status(*reads, signed_in | {"Origin": "http://evil.example"}) == 403
    assert status("GET", "/api/version", signed_in) == 200
    assert status("GET", "/api/version", signed_in | {"Host": "evil.example"}) == 421
    assert [one["name"] for one in get(f"{address}/api/projects/", signed_in)] == ["Production"]


def get(url: str, headers: dict[str, str]) -> list:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return json.load(answer)
    except OSError:
        return []
