"""`evergreen forget`: no trace of the image remains, and everything else is unchanged, killed or not."""

import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dvc.exceptions import DvcException
from PIL import Image
from typer.testing import CliRunner

from flows.erasure.forget import forget
from flows.labels import journal
from flows.labels.journal import Answer
from flows.repo import workspace
from flows.repo.git import git
from flows.scale.shared import shared_place
from flows.services.housekeeping import housekeeping
from flows.versions.verify import verify
from monitoring.log.schema import log_schema
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, sha256_bytes
from tasks.common.params import load_params
from tasks.common.sealed import sealed_path
from tasks.dataset import shards
from tasks.ingest import erasures
from tasks.ingest.batch import ingest
from tasks.labels.annotations import read_annotations
from tasks.releases.reference import thumbnail
from tests.faults.tier import sample
from tests.support import versions_project
from tests.support.checkout import ROOT
from tests.support.children import killed_at
from tests.support.versions_project import image, restored, rows, store

BATCH, ROW = 1, 3  # in every version's data and reference, and in the picture of mistakes
HOUR = "2026-01-02/03"


def name_of(batch: int, row: int) -> str:
    return sha256_bytes(image(batch, row))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, a production log, caches, an unpacked bundle, a run's workspace, a page."""
    root = versions_project.copy(tmp_path_factory.mktemp("used") / "project")
    state = root / ".evergreen"
    for number, wanted in enumerate([(1, 3), (1, 5)]):
        table = log_rows([wanted, (2, 2)])
        file = state / "production" / HOUR / f"{number:032x}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
    for file in (root / "data").glob("*.parquet"):
        for kind in ("columns", "pixels", "features"):
            cached = state / "cache" / kind / "key" / f"{file.stem}.npy"
            cached.parent.mkdir(parents=True, exist_ok=True)
            np.save(cached, np.zeros((versions_project.PER_BATCH, 2)))
    heat = {"id": [name_of(*place) for place in ((1, 3), (2, 2))], "heat": [b"looked here", b"and here"]}
    (state / "cache/heat").mkdir(parents=True)
    pq.write_table(pa.table(heat), state / "cache/heat/newest.parquet")
    live = store(root).live()
    store(root).get_bundle(live.bundle, state / "cache/bundles" / live.bundle)
    shutil.copytree(root / "data", state / "runs/run-1/tree/data")
    (state / "validation").mkdir()
    (state / "validation/b-1.html").write_text(f"<p>{name_of(BATCH, ROW)}</p>")
    (state / "validation/b-2.html").write_text("<p>another</p>")
    (state / "label-issues/split").mkdir(parents=True)
    for row in (ROW, ROW + 1):
        (state / "label-issues/split" / f"{name_of(BATCH, row)}.png").write_bytes(b"a picture for people to label")
    return root


@pytest.fixture
def project(used: Path, tmp_path: Path) -> Path:
    return versions_project.settled(shutil.copytree(used, tmp_path / "project"))


def log_rows(images: list[tuple[int, int]]) -> pa.Table:
    schema = log_schema("multiclass")
    columns = {
        "id": pa.array([name_of(*place) for place in images]),
        "at": pa.array([datetime(2026, 1, 2, 3, tzinfo=UTC)] * len(images), pa.timestamp("us", tz="UTC")),
        "source": pa.array([f"camera-{batch}-{row % 10}" for batch, row in images]),
        "key": pa.array([f"part {batch}-{row}" for batch, row in images]),
        "path": pa.array([f"line/{batch}/{row}.png" for batch, row in images]),
        "image": pa.array([image(*place) for place in images]),
    }
    arrays = [columns.get(field.name, pa.nulls(len(images), field.type)) for field in schema]
    return pa.table(arrays, schema=schema)


def holds(root: Path, batch: int, row: int) -> list[str]:
    """Files anywhere in the project with the bytes, the thumbnail, or a picture that shows the image."""
    encoded = image(batch, row)
    pixels = np.asarray(Image.open(pa.BufferReader(encoded)))
    small = thumbnail(pixels)
    found = []
    for file in root.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        if content[:4] == b"PAR1":
            for column in pq.read_table(pa.BufferReader(content)).columns:
                flat = column.combine_chunks()
                if pa.types.is_struct(flat.type):
                    flat = flat.field("bytes")
                if pa.types.is_binary(flat.type) and {encoded, small} & set(flat.to_pylist()):
                    found.append(str(file.relative_to(root)))
        elif content[:4] == b"\x89PNG":
            shown = np.asarray(Image.open(pa.BufferReader(content)).convert("RGB"))
            parts = [shown[top : top + 12] for top in range(0, len(shown), 12)]
            if any(np.array_equal(part, pixels) for part in parts):
                found.append(str(file.relative_to(root)))
        elif encoded in content or small in content:
            found.append(str(file.relative_to(root)))
    return sorted(found)


def logged(root: Path) -> list[str]:
    """Ids in the production log."""
    files = (root / ".evergreen/production" / HOUR).glob("*.parquet")
    return sorted(name for file in files for name in pq.read_table(file)["id"].to_pylist())


def ids(root: Path) -> list[str]:
    found = [shards.read_columns(shard.path, ["id"])["id"].to_pylist() for shard in shards.live_shards(root / "data")]
    return [name for names in found for name in names]


def assert_erased(project: Path, gone: set[str], before: list[str]) -> None:
    """Of every image in `gone` nothing is left, in data/ only they are missing, and the versions verify."""
    assert [name for name in before if name not in gone] == ids(project)
    assert (
        set(read_annotations(project / "data")["id"].to_pylist()) == {name_of(batch, 0) for batch in (1, 2, 3)} - gone
    )
    assert git(project, "status", "--porcelain", "--", "data.dvc", erasures.FILE) == ""
    assert not list((project / ".evergreen/forget").glob("*.json"))
    lines = verify(project, deep=True)
    assert all(line.ok for line in lines), [problem.text for line in lines for problem in line.problems]
    assert [line.version for line in lines if line.erased] == ["v0.1.0", "v0.2.0", "v0.3.0"]
    for pointer in store(project).history():
        bundle = store(project).get_bundle(pointer.bundle, project.parent / f"bundle-{pointer.seq}")
        shown = pq.read_table(bundle / "reference.parquet", columns=["id"])["id"].to_pylist()
        assert not gone & set(shown)
        assert len(shown) == 8 * pointer.seq - len(gone & {name_of(1, row) for row in range(8)})


def test_an_image_is_gone_from_everywhere_and_nothing_else_is(project: Path):
    before, name = ids(project), name_of(BATCH, ROW)
    places = holds(project, BATCH, ROW)
    assert {place.split("/")[0] for place in places} == {".dvc", ".evergreen", "data", "artifacts"}
    assert sum("production" in place for place in places) == 1
    model = store(project).get_bundle(store(project).live().bundle, project.parent / "before") / "model.onnx"

    dry = forget(project, name, "asked by letter")
    assert holds(project, BATCH, ROW) == places
    assert not (project / erasures.FILE).exists()
    assert (dry.ids, dry.versions, len(dry.bundles), len(dry.logged)) == ([name], ["v0.1.0", "v0.2.0", "v0.3.0"], 3, 1)

    assert forget(project, name, "asked by letter", yes=True) == dry
    assert holds(project, BATCH, ROW) == []
    assert_erased(project, {name}, before)
    restored_model = project.parent / "bundle-3/model.onnx"
    assert restored_model.read_bytes() == model.read_bytes()
    assert logged(project) == sorted([name_of(1, 5), name_of(2, 2), name_of(2, 2)])
    assert (project / ".evergreen/validation/b-1.html").read_text() == "<p>[erased]</p>"
    assert (project / ".evergreen/validation/b-2.html").read_text() == "<p>another</p>"
    pictures = [file.stem for file in (project / ".evergreen/label-issues/split").iterdir()]
    assert pictures == [name_of(BATCH, ROW + 1)]
    assert not (project / ".evergreen/cache/heat/newest.parquet").exists()
    cached = {file.stem for file in (project / ".evergreen/cache/pixels/key").iterdir()}
    assert len(cached) == 2  # of the old shard it went, of the others it stayed
    assert not cached & {Path(shard).stem for shard in dry.shards}


def test_the_ledger_says_what_was_erased_and_names_no_person(project: Path):
    name = name_of(BATCH, ROW)
    forget(project, name, "asked by letter", yes=True)
    text = (project / erasures.FILE).read_text()
    assert name not in text
    assert git(project, "show", f"HEAD:{erasures.FILE}") == text.strip()
    ((_, entry),) = read_json(project / erasures.FILE)["erasures"].items()
    assert (entry["why"], entry["images"]) == ("asked by letter", 1)
    assert entry["models_trained_with_them"] == ["v0.1.0", "v0.2.0", "v0.3.0"]


def test_the_same_bytes_are_refused_when_they_come_again(project: Path, tmp_path: Path):
    forget(project, name_of(BATCH, ROW), "asked by letter", yes=True)
    folder = tmp_path / "images/cat"
    folder.mkdir(parents=True)
    (folder / "back.png").write_bytes(image(BATCH, ROW))
    (folder / "new.png").write_bytes(image(7, 7))
    params = load_params(project / "params.yaml")
    inspect = params.inspect.model_copy(update={"workers": 1})
    report = ingest(project, tmp_path / "images", data=params.data, images=params.images, inspect=inspect)
    assert (report.taken, [refused.reason for refused in report.quarantined]) == (1, ["forgotten"])
    assert "asked by letter" in report.quarantined[0].detail
    assert holds(project, BATCH, ROW) == []


@pytest.mark.parametrize(
    "what", [f"part {BATCH}-{ROW}", f"line/{BATCH}/{ROW}.png", f"{BATCH}/{ROW}.png", f"/mnt/line/{BATCH}/{ROW}.png"]
)
def test_an_image_is_found_by_its_key_or_path(project: Path, what: str):
    assert forget(project, what, "asked").ids == [name_of(BATCH, ROW)]


def test_a_file_name_of_several_images_erases_none(project: Path):
    before = ids(project)
    log = project / ".evergreen/production" / HOUR / f"{0:032x}.parquet"
    pq.write_table(log_rows([(1, 0), (2, 0)]), log)
    with pytest.raises(EvergreenError, match=r"'0.png' is the file name of \d+ images .*: give the id or the whole"):
        forget(project, "0.png", "asked", yes=True)
    assert ids(project) == before


def test_all_images_of_a_source(project: Path):
    before, source = ids(project), rows(1)["source"][5].as_py()
    gone = {name_of(1, row) for row in range(5, versions_project.PER_BATCH, 10)}
    plan = forget(project, source, "the camera saw into a home", yes=True)
    assert set(plan.ids) == gone
    assert_erased(project, gone, before)
    assert all(holds(project, 1, row) == [] for row in (5, 15, 65))
    assert holds(project, 1, 4) != []
    assert logged(project) == sorted([name_of(1, 3), name_of(2, 2), name_of(2, 2)])


def test_what_rays_workers_share_loses_its_shard_and_what_was_made_from_it(project: Path):
    settings = project / "params.yaml"
    settings.write_text(settings.read_text().replace("shared: null", "shared: workers"))
    place, cache = shared_place(project, load_params(settings)), project / ".evergreen/cache"
    for file in (project / "data").glob("*.parquet"):
        place.put_shard(file)
        with sealed_path(cache / "pixels/shared" / f"{file.stem}.npy") as temporary:
            temporary.write_bytes(f"pixels of {file.stem}".encode())
        place.put_entry(f"pixels/shared/{file.stem}.npy", cache)
    before = ids(project)
    number, gone = len(place.shards()), name_of(1, 0)
    (held,) = [
        file.name for file in (project / "data").glob("*.parquet") if gone in pq.read_table(file)["id"].to_pylist()
    ]
    forget(project, gone, "asked", yes=True)
    assert_erased(project, {gone}, before)
    assert place.shards() == {file.name for file in (project / "data").glob("*.parquet")} & place.shards()
    assert len(place.shards()) == number - 1
    assert place.digest(f"pixels/shared/{Path(held).stem}.npy") is None
    assert len(list((project / "workers/objects").iterdir())) == len(list(place.blobs.list("entries/"))) == number - 1
    assert holds(project, 1, 0) == []


def test_a_second_erasure_follows_the_first(project: Path):
    before = ids(project)
    for row in (3, 0):
        forget(project, name_of(1, row), f"row {row}", yes=True)
    assert_erased(project, {name_of(1, 3), name_of(1, 0)}, before)
    assert holds(project, 1, 0) == holds(project, 1, 3) == []


def test_a_whole_batch_can_be_erased(project: Path, tmp_path: Path):
    """Also one that only an older version has: it is found in the cache and the remote."""
    before = ids(project)
    pointer = store(project).history()[2]
    git(project, "checkout", "--quiet", "HEAD~", "--", "data.dvc")  # the data of v0.2.0
    git(project, "commit", "--quiet", "-m", "back")
    shutil.rmtree(project / "data")
    name = name_of(3, 1)
    plan = forget(project, name, "asked", yes=True)
    assert plan.versions == ["v0.3.0"]
    assert holds(project, 3, 1) == []
    assert ids(project) == before[: 2 * versions_project.PER_BATCH]
    with pytest.raises(DvcException, match=r"(?i)failed"):
        restored(project, pointer, tmp_path / "look")


POINTS = [
    point
    for file in ("flows/erasure/forget.py", "flows/erasure/steps.py", "tasks/ingest/erase.py")
    for point in re.findall(r'failpoint\("(.+?)"\)', (ROOT / file).read_text())
]


@pytest.mark.parametrize("point", sample(POINTS[::4], POINTS))
def test_killed_anywhere_the_next_call_completes_it(project: Path, point: str):
    before, name = ids(project), name_of(1, 0)
    log = project / ".evergreen/production" / HOUR / f"{0:032x}.parquet"
    pq.write_table(log_rows([(1, 0), (2, 2)]), log)
    assert killed_at(point, forget, project, name, "asked", yes=True)
    shards.live_shards(project / "data")  # nothing half done: every shard that is named is there
    assert forget(project, name, "asked").ids == [name]
    assert_erased(project, {name}, before)
    assert holds(project, 1, 0) == []


def test_killed_the_nightly_clean_up_completes_it(project: Path):
    before, name = ids(project), name_of(1, 0)
    assert killed_at("forget.committed", forget, project, name, "asked", yes=True)
    assert "1 erasures that were killed" in housekeeping(project, say=lambda text: None)
    assert_erased(project, {name}, before)
    assert holds(project, 1, 0) == []


def test_a_living_run_and_an_unknown_image_are_refused(project: Path):
    with pytest.raises(EvergreenError, match="no image with id, key, path, source or group 'nobody'"):
        forget(project, "nobody", "asked")
    _, lock = workspace.create(project, "20260101T000000000000-abcdef-1", {})
    try:
        with pytest.raises(EvergreenError, match="is alive and may hold"):
            forget(project, name_of(1, 1), "asked", yes=True)
    finally:
        os.close(lock)


def test_the_command_is_dry_without_yes(project: Path, monkeypatch: pytest.MonkeyPatch):
    from flows.cli.main import app

    monkeypatch.chdir(project)
    journal.record(project, [Answer(name_of(2, row), "dog", annotator="ann") for row in (1, 2)])
    done = CliRunner().invoke(app, ["forget", name_of(2, 1), "--why", "asked"])
    assert "nothing was changed" in done.output
    assert "v0.2.0: its data can no longer be restored completely" in done.output
    assert "v0.1.0" not in done.output
    assert holds(project, 2, 1) != []
    assert len(journal.pending(project)) == 2
    assert CliRunner().invoke(app, ["forget", name_of(2, 1), "--why", "asked", "--yes"]).exit_code == 0
    assert holds(project, 2, 1) == []
    assert [answer.id for answer in journal.pending(project)] == [name_of(2, 2)]
