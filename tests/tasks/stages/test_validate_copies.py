"""Stage `validate` leaves out training images that are copies of held-out ones, and says why."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.leak_kinds import copy_of
from flows.runs.summary import SUMMARIES
from tasks.common.files import read_json, sha256_bytes
from tasks.common.paths import cache_dir
from tests.support.inspected_project import Project, fashion
from tests.support.shared import networks

KINDS = ("mirror", "turned 90", "crop 80-95 %")


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "dvc.yaml").touch()
    networks(tmp_path)
    return Project(tmp_path)


def copies(rows: list[dict]) -> list[dict]:
    """A changed copy of each of `rows`, in the training split."""
    made = []
    for number, row in enumerate(rows):
        data = copy_of(row["image"]["bytes"], KINDS[number % len(KINDS)], number)
        about = {"id": sha256_bytes(data), "image": {"bytes": data, "path": f"copy{number}.jpg"}, "split": "train"}
        made.append(row | about)
    return made


def test_copies_of_the_hard_set_are_left_out_and_say_of_which_image(project):
    base = fashion("base", each=30) + fashion("base", ("calibration", "test"), each=3)
    chosen = fashion("base", each=32)
    hard = [row | {"split": "hard"} for row in chosen if row["id"] not in {one["id"] for one in base}][:6]
    planted, of_test = copies(hard), copies([row for row in base if row["split"] == "test"][:1])
    project.add(hard, kind="hard")
    batch = project.add(base + planted + of_test)
    out = project.run()
    accepted = set(pq.read_table(out / "accepted.parquet")["id"].to_pylist())
    left_out = {row["id"] for row in base + planted + of_test} - accepted
    assert {row["id"] for row in planted} <= left_out
    assert len(left_out) <= len(planted) + 5, "sneakers of 28 pixels look alike"
    found = {row["id"]: row for row in pq.read_table(out / "copies.parquet").to_pylist()}
    assert all(found[copy["id"]]["near_id"] == row["id"] for copy, row in zip(planted, hard, strict=True))
    rows = {row["id"]: row for row in pq.read_table(out / "quarantine.parquet").to_pylist()}
    told = rows[planted[0]["id"]]
    assert (told["batch"], told["reason"]) == (batch, "leaks_hard")
    assert told["detail"].startswith(f"a copy of {hard[0]['id'][:12]} in the hard set: laid over each other")
    assert "copy0.jpg" in (out / "index.html").read_text()
    result = read_json(out / "result.json")
    assert result["excluded"] == {"leaks_hard": len(found)}
    assert result["quarantined"] == {}, "leaks are no fault of the batch"
    figures = read_json(project.root / "metrics" / "validate.json")
    assert f"; {len(found)} left out as copies of held-out images" in SUMMARIES["validate"](figures)
    # other splits are searched where copies_of asks for it, and nothing is where it asks for none
    out = project.run(copies_of=["hard", "test"])
    assert of_test[0]["id"] in {row["id"] for row in pq.read_table(out / "copies.parquet").to_pylist()}
    kept = {file.name for file in cache_dir("copies", project.root).glob("*/*.parquet")}
    assert kept == {"looks.parquet", "compared.parquet"}
    # what earlier searches measured changes nothing, whatever they were about
    project.add([row for row in fashion("base", each=40) if row["id"] not in {one["id"] for one in base + hard}][:9])
    with_cache = pq.read_table(project.run() / "copies.parquet")
    shutil.rmtree(cache_dir("copies", project.root))
    alone = pq.read_table(project.run() / "copies.parquet")
    assert with_cache["id"].equals(alone["id"])
    assert np.allclose(with_cache["agreement"], alone["agreement"], atol=1e-4)
    out = project.run(copies_of=[])
    assert read_json(out / "result.json")["excluded"] == {}
    assert len(pq.read_table(out / "copies.parquet")) == 0


def test_what_the_perceptual_hash_found_is_listed_too(project):
    base = fashion("base", each=30) + fashion("base", ("calibration", "test"), each=3)
    base[0]["excluded"] = "leaks_test"
    project.add(base)
    out = project.run()
    (told,) = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert (told["id"], told["reason"]) == (base[0]["id"], "leaks_test")
    assert "artifacts/inspect/duplicates.parquet has the pairs" in told["detail"]
