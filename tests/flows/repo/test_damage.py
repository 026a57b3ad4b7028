"""A flipped byte in DVC's cache, or in a file that DVC linked from it, is found before it is used."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cli.main import main
from flows.project.data_commit import undone_if_refused
from flows.repo.damage import checkout_whole, repairing
from flows.repo.pipeline import bring_up_to_date, open_repo, record_data, restore_data
from tasks.common.errors import DamagedFile, EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.schemas import sample_schema
from tasks.common.verified import check_named
from tasks.dataset import shards
from tasks.dataset.shards import iter_bytes, live_shards, read_columns
from tests.flows.repo.test_pipeline import dvc
from tests.support.flips import flip


class Stage:
    """The stage's function, whose output is unlike its input; counts how often it ran."""

    def __init__(self):
        self.runs = 0

    def __call__(self, name: str, root: Path) -> None:
        self.runs += 1
        for folder in ("artifacts", "metrics"):
            (root / folder).mkdir(exist_ok=True)
        (root / "artifacts/out").write_text(f"made of {(root / 'data/a').read_text()}")
        (root / "metrics/inspect.json").write_text('{"rows": 1}\n')


def objects(root: Path, where: str = ".dvc/cache") -> list[Path]:
    return sorted((root / where / "files/md5").glob("??/*"))


def holding(root: Path, content: bytes, where: str = ".dvc/cache") -> Path:
    """The object of DVC's cache with exactly `content`."""
    (found,) = [file for file in objects(root, where) if file.read_bytes() == content]
    return found


@pytest.fixture
def linked(toy) -> Path:
    """The toy project, with hardlinks into DVC's cache, as workspaces of runs have."""
    (toy / ".dvc/config.local").write_text("[cache]\n    type = hardlink\n")
    shutil.rmtree(toy / "data")
    dvc(toy, "checkout", "data.dvc")
    assert (toy / "data/a").stat().st_nlink == 2
    return toy


@pytest.fixture
def finished(linked) -> tuple[Path, Stage]:
    """The project after its stage; nothing is in the remote."""
    stage = Stage()
    bring_up_to_date(open_repo(linked), "inspect", stage)
    return linked, stage


def add_shard(data: Path) -> str:
    images = [bytes([number]) * 50 for number in range(3)]
    rows = {name: [None] * 3 for name in sample_schema("multiclass").names}
    rows |= {"id": [sha256_bytes(image) for image in images]}
    rows |= {"image": [{"bytes": image, "path": None} for image in images]}
    name = shards.write_shard(data, pa.table(rows, schema=sample_schema("multiclass")), "multiclass")
    about = {"seq": 1, "batch": "b-000000000000", "kind": "import", "rows": 3}
    shards.write_manifest(data, shards.BatchManifest(shards=[name], **about))
    return name


def contents(root: Path) -> tuple[str, str]:
    return (root / "artifacts/out").read_text(), (root / "metrics/inspect.json").read_text()


OUT = b"made of 1\n"
GOOD = (OUT.decode(), '{"rows": 1}\n')


@pytest.mark.parametrize("damaged", ["artifacts/out", "metrics/inspect.json"])
def test_an_output_with_a_flipped_byte_is_not_believed(finished, damaged):
    root, stage = finished
    about = (root / damaged).stat()
    flip(root / damaged, 0)
    assert (root / damaged).stat().st_mtime_ns == about.st_mtime_ns, "what DVC looks at is as before"
    bring_up_to_date(open_repo(root), "inspect", stage)
    assert stage.runs == (2 if damaged == "artifacts/out" else 1), "DVC's run cache has a copy of the metrics"
    assert contents(root) == GOOD
    assert "up to date" in dvc(root, "status")


def test_an_output_with_a_flipped_byte_is_replaced_from_the_remote(finished, caplog):
    root, stage = finished
    open_repo(root).push()
    cached = holding(root, OUT)
    flip(root / "artifacts/out", 0)
    assert bring_up_to_date(open_repo(root), "inspect", stage) == "unchanged"
    assert (stage.runs, contents(root), cached.read_bytes()) == (1, GOOD, OUT)
    assert "artifacts/out was damaged: an undamaged copy is in its place" in caplog.text


def test_what_the_run_cache_restores_is_hashed(finished):
    root, stage = finished
    flip(holding(root, OUT), 1)
    for name in ("artifacts/out", "metrics/inspect.json", "dvc.lock"):
        (root / name).unlink()
    assert bring_up_to_date(open_repo(root), "inspect", stage) == "ran"
    assert contents(root) == GOOD
    assert holding(root, OUT), "the cache is repaired too"


def test_a_damaged_entry_of_the_run_cache_is_left_out(finished):
    root, stage = finished
    for entry in (root / ".dvc/cache/runs").glob("*/*/*"):
        flip(entry, 7)  # a bit of a letter, which UTF-8 does not allow
    for name in ("artifacts/out", "metrics/inspect.json", "dvc.lock"):
        (root / name).unlink()
    assert bring_up_to_date(open_repo(root), "inspect", stage) == "ran"
    assert contents(root) == GOOD


def test_a_damaged_object_does_not_take_the_place_of_what_a_stage_has_just_made(finished):
    """The object is there already, so DVC stores nothing, and links the damaged one into the workspace."""
    root, stage = finished
    out = holding(root, OUT)
    shutil.rmtree(root / ".dvc/cache/runs")
    (root / "artifacts/out").unlink()
    (root / "dvc.lock").unlink()
    flip(out, 0)
    assert bring_up_to_date(open_repo(root), "inspect", stage) == "ran"
    assert contents(root) == GOOD


def test_a_disk_that_damages_each_output_is_said(finished):
    root, _ = finished

    def failing(name: str, at: Path) -> None:
        Stage()(name, at)
        (at / "artifacts/out").write_text(os.urandom(4).hex())

    repo = open_repo(root)
    commit = repo.commit

    def and_flip(*arguments, **options):
        commit(*arguments, **options)
        flip(root / "artifacts/out", 0)

    (root / "data/a").unlink()
    (root / "data/a").write_text("2\n")
    repo.commit = and_flip
    with pytest.raises(EvergreenError, match="damaged each time they are made: check the disk"):
        bring_up_to_date(repo, "inspect", failing)


def test_a_damaged_record_of_data_is_replaced_or_named(linked, caplog):
    toy = linked
    manifest = toy / "data/a"
    flip(manifest, 0)
    with pytest.raises(DamagedFile, match="data/a is damaged: expected the digest"):
        restore_data(open_repo(toy))
    flip(manifest, 0)
    open_repo(toy).push()
    flip(manifest, 0)
    restore_data(open_repo(toy))
    assert manifest.read_text() == "1\n"
    assert "data/a was damaged" in caplog.text


def test_a_damaged_listing_is_fetched_again(linked):
    toy = linked
    open_repo(toy).push()
    (listing,) = [file for file in objects(toy) if file.suffix == ".dir"]
    whole = listing.read_bytes()
    changed = json.loads(whole)
    changed[0]["relpath"] = "b"
    listing.chmod(0o644)
    listing.write_bytes(json.dumps(changed).encode())
    listing.chmod(0o444)
    shutil.rmtree(toy / "data")
    restore_data(open_repo(toy))
    assert sorted(file.name for file in (toy / "data").iterdir()) == ["a", "dataset.json"]
    assert not listing.exists() or listing.read_bytes() == whole


def test_a_damaged_shard_is_replaced_from_the_remote_while_it_is_read(linked, caplog):
    toy, name = linked, add_shard(linked / "data")
    record_data(toy)
    shard = toy / "data" / name
    whole = shard.read_bytes()
    repo = open_repo(toy)
    flip(shard, len(whole) // 2)
    with pytest.raises(DamagedFile, match=name):
        repairing(repo, lambda: read_columns(shard, ["id"]))
    flip(shard, len(whole) // 2)
    repo.push()
    for at in (10, len(whole) // 2, len(whole) - 5):
        flip(shard, at)
        repairing(repo, lambda: read_columns(shard, ["id"]))
        assert shard.read_bytes() == whole
        assert holding(toy, whole)
    assert caplog.text.count(f"{name} was damaged: an undamaged copy is in its place now") == 3
    (live,) = live_shards(toy / "data")
    assert len(list(iter_bytes(live.path))) == 3


def test_what_a_person_publishes_later_is_hashed_first(finished):
    root, _ = finished
    checkout_whole(open_repo(root))
    flip(root / "artifacts/out", 0)
    with pytest.raises(DamagedFile, match="artifacts/out"):
        checkout_whole(open_repo(root))
    flip(root / "artifacts/out", 0)
    open_repo(root).push()
    flip(root / "artifacts/out", 0)
    checkout_whole(open_repo(root))
    assert contents(root) == GOOD


def test_a_damaged_manifest_is_not_recorded_as_what_was_ingested(linked):
    """data.dvc would name the damaged manifest, and every later check would take it for the right one."""
    before = (linked / "data.dvc").read_bytes()
    flip(linked / "data/a", 0)
    with pytest.raises(DamagedFile, match="data/a"), undone_if_refused(linked):
        record_data(linked)
    flip(linked / "data/a", 0)
    open_repo(linked).push()
    flip(linked / "data/a", 0)
    with undone_if_refused(linked):
        record_data(linked)
    assert (linked / "data.dvc").read_bytes() == before


def test_what_is_recorded_damaged_is_said_and_not_tried_again_and_again(linked):
    name = add_shard(linked / "data")
    flip(linked / "data" / name, 100)
    record_data(linked)
    with pytest.raises(DamagedFile, match=name):
        repairing(open_repo(linked), lambda: read_columns(linked / "data" / name, ["id"]))


def test_a_command_that_meets_a_damaged_shard_puts_a_copy_in_its_place(linked, monkeypatch, capsys):
    name = add_shard(linked / "data")
    record_data(linked)
    open_repo(linked).push()
    (image, *_) = read_columns(linked / "data" / name, ["id"])["id"].to_pylist()
    flip(linked / "data" / name, 100)
    monkeypatch.chdir(linked)
    monkeypatch.setattr("sys.argv", ["evergreen", "why", image])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"{name} is damaged: expected the digest {name.removesuffix('.parquet')}" in said
    assert "an undamaged copy is in its place now: run the same command again" in said
    check_named(linked / "data" / name)
