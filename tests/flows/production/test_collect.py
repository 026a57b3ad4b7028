"""What a device captured reaches the production log once, with its own time and version."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.production.collect import collect
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.export import edge_runner
from tasks.export.edge import NAME, write
from tasks.export.source import Source
from tasks.releases import bundle
from tests.support.live_project import VERSION, make
from tests.support.small_project import image_bytes


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("collect"))


@pytest.fixture
def captures(project, tmp_path) -> Path:
    """Two captures of the live version, and three that cannot be taken."""
    folder = project / "artifacts/bundle"
    write(Source(folder, bundle.read(folder), VERSION), tmp_path)
    device = edge_runner.Edge(tmp_path / NAME)
    kept = tmp_path / "captures"
    for number, image in enumerate(image_bytes("Bag", 4)):
        device.capture(kept, image, device.answer(image), "line-3", f"part-{number}")
    first, second, third, _ = sorted(kept.rglob("*.json"))
    first.write_text(json.dumps(json.loads(first.read_text()) | {"bundle": "0" * 64}))
    (second.parent / json.loads(second.read_text())["image"]).write_bytes(b"altered")
    third.write_text(json.dumps(json.loads(third.read_text()) | {"answer": {"label": "Trouser"}}))
    (kept / "notes.json").write_text("{}")
    return kept


def test_captures_are_logged_once_with_their_time_and_version(project, captures, tmp_path):
    found = collect(project, str(captures))
    assert (found.taken, found.known, found.differ, found.versions) == (2, 0, 1, {VERSION})
    said = "\n".join(found.lines())
    assert "was never live here" in said
    assert "its image has sha256" in said
    assert "notes.json" in said
    assert "1 have another label than the device gave" in said

    log = open_log(project, load_params(project / "params.yaml"))
    now = datetime.now(UTC)
    ids = [json.loads(file.read_text())["sha256"] for file in captures.rglob("*-*.json")]
    rows = log.answers(ids, now - timedelta(hours=1), now, ["at", "key", "source", "version", "prediction", "features"])
    assert {(row["key"], row["source"], row["version"]) for row in rows.to_pylist()} == {
        ("part-2", "line-3", VERSION),
        ("part-3", "line-3", VERSION),
    }
    assert all(len(row["features"]) == 1280 for row in rows.to_pylist())

    shutil.copytree(captures, tmp_path / "again")
    again = collect(project, str(tmp_path / "again"))
    assert (again.taken, again.known) == (0, 2)
    with pytest.raises(EvergreenError, match="is not a folder"):
        collect(project, str(tmp_path / "missing"))
