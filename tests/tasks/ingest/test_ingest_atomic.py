"""An ingest that is killed, runs twice at once or waits never damages what data/ holds."""

import fcntl
import os
import subprocess
import sys

import pytest

from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import DataParams
from tasks.dataset import shards
from tasks.ingest.lock import data_lock
from tests.support.checkout import ROOT
from tests.support.children import killed_at
from tests.support.ingesting import annotations, folder, image, in_child, reasons, samples, second_source, take, tree
from tests.support.photos import cutouts

POINTS = ("after_shard", "after_annotations", "before_manifest", "after_manifest", "after_measures")


def test_failpoints_listed_here_are_those_in_the_code():
    code = (ROOT / "tasks/ingest/writing.py").read_text()
    assert {f'failpoint("ingest.{name}")' for name in POINTS} == {
        f'failpoint("{part.split(chr(34))[1]}")' for part in code.split("failpoint(")[1:]
    }


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_data_set_is_as_before_or_as_after(tmp_path, point, monkeypatch):
    monkeypatch.setattr("tasks.ingest.writing.SHARD_ROWS", 4)
    root, whole = tmp_path / "killed", tmp_path / "whole"
    for each in (root, whole):
        take(each, folder(tmp_path / "s", 6))
    source = second_source(tmp_path / "t")
    before = samples(root), annotations(root)
    take(whole, source)
    after = samples(whole), annotations(whole)
    assert before[1] != after[1]

    assert killed_at(f"ingest.{point}", in_child, root, source)
    assert (samples(root), annotations(root)) == (after if point in POINTS[3:] else before)

    take(root, source)
    assert (samples(root), annotations(root)) == after
    assert tree(root) == tree(whole)


def test_the_next_ingest_removes_the_files_of_a_killed_one_and_no_others(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 6))
    stranger = tmp_path / "data" / "0123456789abcdef01234567.parquet"
    stranger.write_bytes(b"was here before: perhaps a checkout in progress")
    assert killed_at("ingest.before_manifest", in_child, tmp_path, second_source(tmp_path / "t"))
    with data_lock(tmp_path) as journal:  # a writer that was in the middle of a file
        write_json(journal, [stranger.name])
    (tmp_path / "data" / ".half.parquet.x.tmp").write_bytes(b"half")
    take(tmp_path, folder(tmp_path / "u", 2, start=200))
    visible = {s.name for s in shards.live_shards(tmp_path / "data")}
    found = {file.name for file in (tmp_path / "data").iterdir() if file.is_file()}
    assert found == visible | {stranger.name, "dataset.json"}
    assert not [file for file in (tmp_path / "data" / "annotations").rglob("*") if file.is_file()]


def test_a_killed_first_ingest_does_not_decide_the_task(tmp_path):
    assert killed_at("ingest.before_manifest", in_child, tmp_path, folder(tmp_path / "s", 3))
    take(tmp_path, tmp_path / "s", data=DataParams(task="multilabel"))
    assert [row["label"] for row in samples(tmp_path)] == [["a"], ["a"], ["b"]]


def test_two_ingests_at_once_become_two_batches(tmp_path):
    one, two = folder(tmp_path / "s", 8), folder(tmp_path / "t", 8, start=4)
    call = "import sys; from tests.support.ingesting import *; in_child(Path(sys.argv[1]), Path(sys.argv[2]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", call, tmp_path, source], env=env) for source in (one, two)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    names = {(source / "batch").read_text() for source in (one, two)}
    batches = shards.batches(tmp_path / "data")
    assert {b.batch for b in batches} == names
    assert [b.seq for b in batches] == [1, 2]
    assert len({row["id"] for row in samples(tmp_path)}) == len(samples(tmp_path)) == 12


def test_files_that_dvc_links_into_its_cache_are_never_written(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 6))
    cache = tmp_path / "cache"
    before = tree(tmp_path)
    for name in before:
        link = cache / name
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "data" / name, link)
        link.chmod(0o444)
    take(tmp_path, second_source(tmp_path / "t"))
    assert {name: sha256_bytes((cache / name).read_bytes()) for name in before} == before
    assert before.items() <= tree(tmp_path).items()


def test_a_lost_shard_stops_the_ingest(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 3))
    shards.live_shards(tmp_path / "data")[0].path.unlink()
    with pytest.raises(DataError, match=r"is missing, but batch .* lists it"):
        take(tmp_path, folder(tmp_path / "t", 3, start=50))


def test_older_shards_without_stored_measures_are_measured(tmp_path):
    """A fresh clone has data/ but no caches: near-duplicates of old images must still be found."""
    (photo,) = cutouts(1)
    image(tmp_path / "s", "x/a.png", photo)
    take(tmp_path, tmp_path / "s", kind="hard")
    for file in (tmp_path / ".evergreen").rglob("*.parquet"):
        file.unlink()
    image(tmp_path / "t", "x/a.jpg", photo)
    assert reasons(take(tmp_path, tmp_path / "t")) == {"x/a.jpg": "in_hard_set"}


def test_an_ingest_does_not_wait_forever_for_one_that_hangs(tmp_path, monkeypatch):
    folder(tmp_path / "first", 2)
    take(tmp_path, tmp_path / "first")
    (lock,) = tmp_path.rglob("ingest/*.lock")
    monkeypatch.setattr("tasks.ingest.lock.WAIT_SECONDS", 0.2)
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EvergreenError, match=r"data set .* locked by another process .* start again"):
            take(tmp_path, tmp_path / "first")
    assert take(tmp_path, tmp_path / "first").known > 0
