"""What a device captured reaches the production log once, with its own time and version."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.production.collect import collect
from flows.repo.copies import copies
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.export import edge_runner
from tasks.export.edge import NAME, write
from tasks.export.source import Source
from tasks.ingest.erasures import FILE, hashed_id
from tasks.releases import bundle
from tests.support.live_project import VERSION, make
from tests.support.second_release import put_bundle
from tests.support.small_project import CLASSES, image_bytes


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
    assert "has no version or run with bundle" in said
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


def test_what_a_tried_version_captured_is_taken_and_erased_images_and_wrong_clocks_are_not(project, tmp_path):
    digest, releases = put_bundle(project, CLASSES[1], "v0.2.0")
    releases.put_run("r-9", {"outcome": "held", "sentence": "equal", "bundle": digest})
    tried = project.parent / "bundle-v0.2.0"
    first, erased, late = image_bytes(CLASSES[0], 3)
    paths = capture(tried, tmp_path, first, erased, late)
    ahead = datetime.now(UTC) + timedelta(days=3)
    paths[2].write_text(json.dumps(json.loads(paths[2].read_text()) | {"at": ahead.isoformat()}))
    shutil.copytree(tmp_path / "kept", tmp_path / "kept/twice")
    about = {"at": "2026-01-01", "by": "ann", "why": "a request"}
    ledger = {"images": {hashed_id(sha256_bytes(erased)): "e-1"}, "erasures": {"e-1": about}, "objects": {}}
    (project / FILE).write_text(json.dumps(ledger))

    found = collect(project, str(tmp_path / "kept"))
    assert (found.taken, found.erased, found.versions, len(found.problems)) == (1, 2, {"r-9"}, 2)
    assert all("is in the future: set the device's clock" in problem for problem in found.problems)
    assert "2 are of images that were erased on request" in "\n".join(found.lines())
    assert ("captures", str(tmp_path / "kept")) in [(one.kind, one.path) for one in copies(project)]
    assert logged(project) == [digest]

    (tried / "README.md").write_text("as an erasure leaves it: other files under the same version")
    (tried / bundle.MANIFEST).unlink()
    bundle.write_manifest(tried)
    changed = releases.put_bundle(tried)
    releases.store.create(f"redacted/{digest}.json", json.dumps({"bundle": changed}).encode())
    shutil.rmtree(tmp_path / "kept")
    capture(tried, tmp_path, late)
    assert collect(project, str(tmp_path / "kept")).versions == {"r-9"}
    assert logged(project) == [digest, digest], "the monitor looks for the version's own digest"
    assert collect(project, str(tmp_path / "kept")).known == 1


def capture(folder: Path, tmp_path: Path, *images: bytes) -> list[Path]:
    """What a device with the bundle in `folder` captures of `images`, in tmp_path/kept; the JSON files in order."""
    write(Source(folder, bundle.read(folder), "a version"), tmp_path)
    device = edge_runner.Edge(tmp_path / NAME)
    for image in images:
        device.capture(tmp_path / "kept", image, device.answer(image))
    return sorted((tmp_path / "kept").rglob("*.json"))


def logged(project: Path) -> list[str]:
    """The bundles of the answers of CLASSES[0] in the log, those of the first test left out."""
    log = open_log(project, load_params(project / "params.yaml"))
    ids = {sha256_bytes(image) for image in image_bytes(CLASSES[0], 3)}
    rows = log.answers(ids, datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC), ["id", "version", "bundle"])
    return [row["bundle"] for row in rows.to_pylist() if row["version"] == "r-9"]
