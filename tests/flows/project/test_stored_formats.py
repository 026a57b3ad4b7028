"""Everything that is stored has a schema version: each earlier one is read, and a newer one is refused by name."""

import json
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.project import origin
from flows.repo import workspace
from monitoring import journal
from monitoring.log import schema as log
from monitoring.log.parquet_files import VERSION_KEY
from monitoring.log.production_log import Log
from monitoring.pages import live
from tasks.common.errors import EvergreenError, NewerFormat, refuse_newer
from tasks.common.files import write_json
from tasks.dataset import shards
from tasks.releases import bundle, pointer, store
from tasks.storage.local import LocalStore
from tests.support.checkout import ROOT

NEWER = r"was written by a newer Evergreen: schema 9, this one reads up to \d.*`evergreen upgrade`"
NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
POINTER = {  # as Evergreen 0.1 wrote it
    **{"schema": 1, "seq": 1, "uid": "0" * 32, "version": "v0.1.0", "run_id": "r", "prev": None, "git_rev": "a" * 40},
    **{"bundle": "b" * 64, "at": "2026-11-21T12:00:00Z", "by": "ann", "why": "first"},
}


def test_the_page_lists_the_version_of_every_format():
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \|", (ROOT / "docs/upgrade.md").read_text(), re.MULTILINE)
    assert {name: int(number) for name, number in rows} == {
        "data set: shards, batches, annotations": shards.HARD_SET_VERSION,
        "bundle": bundle.SCHEMA_VERSION,
        "pointer": pointer.POINTER_SCHEMA,
        "run record": store.RUN_SCHEMA,
        "production log": log.SCHEMA_VERSION,
        "monitor journal": journal.SCHEMA_VERSION,
        "live accuracy": live.SCHEMA_VERSION,
        "project record": origin.SCHEMA_VERSION,
        "state": workspace.STATE_SCHEMA,
    }


@pytest.mark.parametrize("version", range(1, shards.HARD_SET_VERSION + 1))
def test_data_sets(tmp_path, version):
    write_json(tmp_path / "dataset.json", {"schema": version, "task": "multiclass"})
    assert shards.read_task(tmp_path) == "multiclass"
    write_json(tmp_path / "dataset.json", {"schema": 9, "task": "multiclass"})
    with pytest.raises(NewerFormat, match=NEWER):
        shards.read_task(tmp_path)


@pytest.mark.parametrize("version", range(1, bundle.SCHEMA_VERSION + 1))
def test_bundles(tmp_path, version):
    resolution = "size" if version == 1 else "resolution"
    write_json(tmp_path / "bundle.json", {"schema": version, "preprocess": {resolution: 48, "fit": "pad"}})
    assert bundle.read(tmp_path)["preprocess"] == {"resolution": 48, "fit": "pad"}
    write_json(tmp_path / "bundle.json", {"schema": 9})
    with pytest.raises(NewerFormat, match=NEWER):
        bundle.read(tmp_path)


def test_pointers_and_run_records(tmp_path):
    releases = store.Releases(LocalStore(tmp_path))
    (tmp_path / "runs").mkdir()
    write_json(tmp_path / "champion.json", POINTER)
    write_json(tmp_path / "runs/r.json", {"outcome": "promoted", "version": "v0.1.0"})  # as Evergreen 0.1 wrote it
    assert releases.live().version == "v0.1.0"
    assert releases.run("r") == {"outcome": "promoted", "version": "v0.1.0"}
    releases.put_run("s", {"outcome": "held"})
    assert json.loads((tmp_path / "runs/s.json").read_text())["schema"] == store.RUN_SCHEMA
    assert releases.runs()["s"] == {"outcome": "held"}

    write_json(tmp_path / "champion.json", POINTER | {"schema": 9})
    with pytest.raises(NewerFormat, match=f"champion.json in the release store {NEWER}"):
        releases.live()
    write_json(tmp_path / "runs/r.json", {"schema": 9})
    with pytest.raises(NewerFormat, match=f"runs/r.json in the release store {NEWER}"):
        releases.runs()


def test_the_production_log(tmp_path, caplog):
    """A window over files of both writers, and one of a newer Evergreen, which is skipped and named."""
    schema = log.log_schema("multiclass")
    answers = Log(LocalStore(tmp_path), "multiclass")
    rows = [pa.Table.from_pylist([{"id": f"{n}" * 64, "at": NOW + timedelta(minutes=n)}], schema) for n in range(3)]
    (key,) = answers.append(rows[0])
    folder = (tmp_path / key).parent
    assert pq.read_schema(tmp_path / key).metadata[VERSION_KEY] == str(log.SCHEMA_VERSION).encode()
    pq.write_table(rows[1], folder / "old.parquet")  # Evergreen 0.1 stated no version
    pq.write_table(rows[2].replace_schema_metadata({VERSION_KEY: b"9"}), folder / "newer.parquet")
    found, unreadable, _ = answers.window(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    assert sorted(found["id"].to_pylist()) == ["0" * 64, "1" * 64]
    assert [name.split("/")[-1] for name in unreadable] == ["newer.parquet"]
    assert re.search(NEWER, caplog.text)


def test_what_an_earlier_log_lacks_is_filled_in(tmp_path):
    answers = Log(LocalStore(tmp_path), "multiclass")
    new = {"id": "a" * 64, "at": NOW, "key": "order 7", "path": "x/y.png", "slices": [{"name": "shift", "value": "2"}]}
    (key,) = answers.append(pa.Table.from_pylist([new], log.log_schema("multiclass")))
    old = pa.Table.from_pylist([new | {"id": "b" * 64}], log.log_schema("multiclass"))
    first = {VERSION_KEY: b"1"}
    pq.write_table(
        old.drop_columns(["key", "path", "slices"]).replace_schema_metadata(first),
        (tmp_path / key).parent / "b.parquet",
    )
    found, unreadable, _ = answers.window(NOW, NOW + timedelta(hours=1), ["id", "key", "path", "slices"])
    kept = {name: new[name] for name in ("id", "key", "path", "slices")}
    assert found.to_pylist() == [kept, {"id": "b" * 64, "key": None, "path": None, "slices": None}]
    assert answers.find(["b" * 64], NOW, NOW + timedelta(hours=1), ["key"]).to_pylist() == [{"key": None}]
    assert unreadable == []

    given = {"id": "a" * 64, "at": NOW, "annotator": "ann", "label": "x", "role": "reviewer", "picked": "audit"}
    answers.add_labels(
        pa.Table.from_pylist([given | {"sampling_probability": 0.25}], log.late_labels_schema("multiclass"))
    )
    old = pa.Table.from_pylist([given | {"id": "b" * 64}], log.late_labels_schema("multiclass"))
    old = old.drop_columns(["role", "picked", "sampling_probability"])
    pq.write_table(old, tmp_path / "labels/b.parquet")
    added = [[row[name] for name in ("role", "picked", "sampling_probability")] for row in answers.labels().to_pylist()]
    assert added == [["reviewer", "audit", 0.25], ["annotator", "unknown", None]]
    lacks = pa.Table.from_pylist([new], log.log_schema("multiclass")).drop_columns(["key"])
    pq.write_table(lacks.replace_schema_metadata({VERSION_KEY: b"2"}), (tmp_path / key).parent / "c.parquet")
    assert len(answers.window(NOW, NOW + timedelta(hours=1))[1]) == 1  # a damaged file of this version


def test_the_monitors_journal(tmp_path, caplog):
    kept = journal.Journal(LocalStore(tmp_path))
    (tmp_path / "windows").mkdir()
    write_json(tmp_path / "windows/b.json", {"schema": 9, "measures": {}, "decision": {}})
    assert kept.recent(5) == []
    assert kept.skipped == ["windows/b.json"]
    assert re.search(NEWER, caplog.text)


def test_weeks_of_live_accuracy(tmp_path):
    live.write(tmp_path, live.Live(labels=["labels/a.parquet"]))
    assert json.loads((tmp_path / live.FILE).read_text())["schema"] == live.SCHEMA_VERSION
    write_json(tmp_path / live.FILE, {"schema": 9})
    with pytest.raises(NewerFormat, match=NEWER):
        live.read(tmp_path)


def test_state_and_the_code_that_is_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "state_dir", lambda root: tmp_path / ".evergreen")
    (tmp_path / "flows/runs").mkdir(parents=True)
    (tmp_path / "flows/run.py").touch()  # where the old layout had it
    with pytest.raises(EvergreenError, match=r"an Evergreen before 0\.2.*`evergreen upgrade`"):
        workspace.check_code_and_state(tmp_path)
    (tmp_path / "flows/runs/process.py").touch()
    workspace.check_code_and_state(tmp_path)  # no version: 1
    write_json(tmp_path / ".evergreen/schema.json", {"schema": 9})
    with pytest.raises(NewerFormat, match=NEWER):
        workspace.check_code_and_state(tmp_path)


@pytest.mark.parametrize("wrong", ["1", 0, True, 1.5])
def test_a_version_that_is_not_one_is_refused(wrong):
    with pytest.raises(EvergreenError, match="expected a number from 1 to 3"):
        refuse_newer(wrong, 3, "this")


def test_releases_name_the_evergreen_that_made_them(tmp_path):
    from flows.publishing.history import evergreen_versions

    releases = store.Releases(LocalStore(tmp_path))
    releases.put_run("r", {"outcome": "promoted", "evergreen": "0.2.0"})
    releases.put_run("q", {"outcome": "promoted"})  # of Evergreen 0.1
    periods = [SimpleNamespace(version=version, run_id=run, again=False) for version, run in (("v1", "q"), ("v2", "r"))]
    assert evergreen_versions(releases, periods) == {"v2": "0.2.0"}
