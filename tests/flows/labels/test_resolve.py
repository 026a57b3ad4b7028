"""Images of the data set and of the log by the owner's names, as manifests, layouts and callers give them."""

import csv
import shutil

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.resolve import resolve
from flows.production.labels import EVER, take_labels
from flows.production.score import score
from monitoring.log.production_log import open_log
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, read_columns
from tests.support.live_project import make
from tests.support.small_project import image_bytes

SLICES = [{"name": "product", "value": "A7"}, {"name": "shift", "value": "2"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project that has scored and ingested images with keys, paths and slices."""
    root = make(tmp_path_factory.mktemp("names"))
    folder = root.parent / "line"
    images = image_bytes("Bag", 40)[36:]
    rows = []
    for number, image in enumerate(images):
        file = folder / f"part-{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image)
        rows.append({"image": file.name, "order_id": f"order {number // 2}", "shift": 2, "kind": "A7", "label": "Bag"})
    with open(folder / "parts.csv", "w", newline="") as listing:
        writer = csv.DictWriter(listing, rows[0])
        writer.writeheader()
        writer.writerows([row | {"order_id": f"order {n}"} for n, row in enumerate(rows)])
    with open(folder.with_name("twice.csv"), "w", newline="") as listing:
        writer = csv.DictWriter(listing, rows[0])
        writer.writeheader()
        writer.writerows([row | {"image": f"line/{row['image']}"} for row in rows])
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


def logged(root) -> list[dict]:
    log = open_log(root, load_params(root / "params.yaml"))
    return log.window(*EVER, ["id", "key", "path", "slices"])[0].to_pylist()


def test_score_logs_keys_paths_and_slices_of_a_manifest(root, made, monkeypatch):
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["score", str(made.parent / "line/parts.csv"), "--slice", "kind"])
    assert result.exit_code == 0, result.output
    rows = sorted(logged(root), key=lambda row: row["key"])
    assert [(row["key"], row["path"]) for row in rows] == [(f"order {n}", f"part-{n}.png") for n in range(4)]
    kind = {"name": "kind", "value": "A7"}
    assert all(row["slices"] == [kind, SLICES[1]] for row in rows)


def test_score_logs_what_a_layout_says(root, made, tmp_path):
    shutil.copytree(made.parent / "line", tmp_path / "line", ignore=shutil.ignore_patterns("*.csv"))
    score(root, str(tmp_path / "line"), layout="{product}-{key}")
    assert {(row["key"], row["slices"][0]["name"]) for row in logged(root)} == {(str(n), "product") for n in range(4)}


def test_labels_join_by_key_and_what_names_two_answers_is_refused(root, made, tmp_path):
    score(root, str(made.parent / "line/parts.csv"))
    ids = {row["key"]: row["id"] for row in logged(root)}
    file = tmp_path / "labels.csv"
    file.write_text("key,label\norder 1,Bag\norder 9,Bag\n")
    found = take_labels(root, file, ingest=False)
    assert (found.kept, len(found.refused)) == (1, 1)
    assert "line 3: 'order 9' is not known as an id" in found.refused[0]
    log = open_log(root, load_params(root / "params.yaml"))
    assert log.labels()["id"].to_pylist() == [ids["order 1"]]
    by_start = tmp_path / "starts.csv"
    by_start.write_text(f"id,key,label\n{ids['order 0'][:10]},,Bag\n,order 2,Bag\n/x/part-3.png,,Bag\n")
    assert take_labels(root, by_start, ingest=False).kept == 3
    score(root, str(made.parent / "twice.csv"))
    file.write_text("key,label\norder 0,Bag\n")
    (refused,) = take_labels(root, file, ingest=False).refused
    assert "'order 0' names several images" in refused


def test_an_ingested_sample_has_its_key_and_is_found_by_it(root, made, monkeypatch):
    monkeypatch.chdir(root)
    options = ["--key", "order_id", "--slice", "kind", "--picked", "audit"]
    result = CliRunner().invoke(app, ["ingest", str(made.parent / "line/parts.csv"), *options])
    assert result.exit_code == 0, result.output
    assert "key 'order_id' (yours, to find an image by)" in result.output
    assert "slices kind, shift" in result.output
    shard = live_shards(root / "data")[-1].path
    rows = read_columns(shard, ["id", "key", "picked", "slice"]).to_pylist()
    assert {row["key"] for row in rows} == {f"order {n}" for n in range(4)}
    assert {row["picked"] for row in rows} == {"audit"}
    assert [entry["name"] for entry in rows[0]["slice"]] == ["kind", "shift"]
    wanted = {row["key"]: row["id"] for row in rows}
    named = resolve(root, ["order 3", "part-2.png", rows[0]["id"][:12], "order 7"])
    assert named.found["order 3"] == wanted["order 3"]
    assert named.found["part-2.png"] == wanted["order 2"]
    assert named.found[rows[0]["id"][:12]] == rows[0]["id"]
    assert list(named.refused) == ["order 7"]
    wrong = CliRunner().invoke(app, ["ingest", str(made.parent / "line/parts.csv"), "--picked", "random"])
    assert "expected one of representative, audit, queue, feedback, unknown" in str(wrong.exception)
