"""What people change in the hard set, as the stages, the ingest and an erasure see it."""

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from tasks.common.errors import DamagedFile, NewerFormat
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import ImagesParams, InspectParams
from tasks.dataset import hard_set, shards
from tasks.ingest.erase import erase_ids
from tasks.stages import inspect
from tests.support.ingesting import folder, manifest, reasons, take
from tests.support.photos import cutouts, encode

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def change(data, what, ids, **about):
    """One change of the hard set, as people make it."""
    said = {"what": what, "at": NOW, "by": "ann", "why": "a scratch", "origin": "chosen"} | about
    shards.raise_schema(data, shards.HARD_SET_VERSION)
    return hard_set.write_changes(data, [{"id": name, **said} for name in ids], shards.next_seq(data))


def inspected(root):
    inspect.run(root, images=ImagesParams(), inspect=InspectParams(workers=1))
    rows = pq.read_table(root / "artifacts/inspect/samples.parquet").to_pylist()
    return {row["id"]: (row["split"], row["excluded"]) for row in rows}


@pytest.fixture
def project(tmp_path):
    """Four photos to train on, a copy of the first in another format, and one ingested for the hard set."""
    photos = cutouts(5)
    files = [encode(photo) for photo in photos[:4]] + [encode(photos[0], "JPEG", quality=90)]
    rows = [{"path": f"{n}.png", "label": "a", "split": "train"} for n in range(5)]
    for row, content in zip(rows, files, strict=True):
        (tmp_path / "s").mkdir(exist_ok=True)
        (tmp_path / "s" / row["path"]).write_bytes(content)
    take(tmp_path, manifest(tmp_path / "s", rows))
    (tmp_path / "h/a").mkdir(parents=True)
    (tmp_path / "h/a/hard.png").write_bytes(encode(photos[4]))
    take(tmp_path, tmp_path / "h", kind="hard")
    write_json(tmp_path / "tombstones.json", {})
    return tmp_path, [sha256_bytes(content) for content in [*files, encode(photos[4])]]


def test_a_training_image_moves_into_the_hard_set_and_back_and_its_copies_are_not_trained_on_meanwhile(project):
    root, (first, *_, copy, hard) = project
    before = inspected(root)
    assert before[first] == before[copy] == ("train", None)
    change(root / "data", "add", [first], was="train")
    now = inspected(root)
    assert now[first] == ("hard", None)
    assert now[copy] == ("train", "leaks_hard")
    assert now[hard] == ("hard", None)
    change(root / "data", "remove", [first, hard])
    back = inspected(root)
    assert back[first] == back[copy] == ("train", None)
    assert back[hard] == (None, "out_of_hard_set")


def test_the_newest_word_counts_and_never_again_is_a_mark_of_its_own(project):
    data, (a, b, *_) = project[0] / "data", project[1]
    assert hard_set.never_again(data) == frozenset()
    change(data, "add", [a, b])
    change(data, "never", [a, b])
    change(data, "allow", [b])
    change(data, "remove", [a])
    assert hard_set.never_again(data) == {a}
    found = hard_set.membership(data)
    assert (found.added, found.removed) == ({b}, {a})
    assert [one.seq for one in hard_set.change_files(data)] == [3, 4, 5, 6]
    assert [row["by"] for row in hard_set.read_changes(data).to_pylist()] == ["ann"] * 6


def test_an_ingest_knows_images_that_people_moved(project):
    root, (first, *_) = project
    change(root / "data", "add", [first], was="train")
    report = take(root, root / "s/m.csv")
    assert (report.known, report.quarantined) == (5, ())
    (root / "t/a").mkdir(parents=True)
    (root / "t/a/near.jpg").write_bytes(encode(cutouts(1)[0], "JPEG", quality=80))
    assert reasons(take(root, root / "t")) == {"a/near.jpg": "in_hard_set"}


def test_an_erased_image_is_in_no_change(project):
    root, (first, second, *_) = project
    change(root / "data", "add", [first, second])
    change(root / "data", "never", [first])
    erase_ids(root / "data", {first})
    assert {row["id"] for row in hard_set.read_changes(root / "data").to_pylist()} == {second}
    assert not any(first.encode() in file.read_bytes() for file in (root / "data").rglob("*.parquet"))
    assert len(hard_set.change_files(root / "data")) == 1


def test_a_damaged_change_is_not_believed_and_earlier_code_refuses_the_data_set(project, monkeypatch):
    data = project[0] / "data"
    change(data, "add", project[1][:1])
    (file,) = data.glob("batches/*.parquet")
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    hard_set._read.cache_clear()
    hard_set._membership.cache_clear()
    with pytest.raises(DamagedFile, match=file.name):
        hard_set.membership(data)
    monkeypatch.setattr(shards, "HARD_SET_VERSION", shards.SCHEMA_VERSION)  # what earlier code reads
    with pytest.raises(NewerFormat, match="newer Evergreen"):
        shards.read_task(data)


def test_without_changes_nothing_is_read_twice(tmp_path):
    take(tmp_path, folder(tmp_path / "s", 4))
    (shard,) = shards.live_shards(tmp_path / "data")
    assert shards.read_columns(shard.path, ["split"]).column_names == ["split"]
    ids = shards.read_columns(shard.path, ["id"])["id"].to_pylist()
    change(tmp_path / "data", "add", ids[:1])
    table = shards.read_columns(shard.path, ["split", "label"])
    assert table.column_names == ["split", "label"]
    assert table["split"][0].as_py() == "hard"
