"""A wrong byte of a shard or of annotations never becomes truth: each process hashes what it reads."""

import hashlib
import os

import numpy as np
import pyarrow as pa
import pytest

from tasks.common.errors import DamagedFile
from tasks.common.files import sha256_bytes
from tasks.common.schemas import sample_schema
from tasks.common.verified import check_named, open_verified, read_verified
from tasks.dataset import shards
from tasks.ingest.erase import erase_ids
from tasks.labels.annotations import read_annotations
from tasks.labels.storing import write_annotations
from tests.support.annotating import said
from tests.support.flips import flip, flipped, places, truncate

COUNT = 70  # more than one row group


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    rng = np.random.default_rng(1)
    data = tmp_path_factory.mktemp("damage") / "data"
    images = [rng.bytes(40) for _ in range(COUNT)]
    rows = {name: [None] * COUNT for name in sample_schema("multiclass").names}
    rows |= {
        "id": [sha256_bytes(image) for image in images],
        "image": [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)],
        "label": ["cat", "dog"] * (COUNT // 2),
    }
    shards.create_dataset(data, "multiclass")
    name = shards.write_shard(data, pa.table(rows, schema=sample_schema("multiclass")), "multiclass")
    about = {"seq": 1, "batch": "b-000000000000", "kind": "import", "rows": COUNT}
    shards.write_manifest(data, shards.BatchManifest(shards=[name], **about))
    return data / name


READERS = {
    "columns": lambda shard: shards.read_columns(shard, ["id", "label"]),
    "version": shards.shard_version,
    "groups": shards.shard_groups,
    "owner's paths": lambda shard: shards.read_paths(shard.parent, [shard.name], [3]),
    "erasure": lambda shard: erase_ids(shard.parent, ["0" * 64]),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_of_a_shard_believes_a_flipped_byte(shard, reader):
    READERS[reader](shard)  # this process has hashed the whole file before
    for at in places(shard, 12):
        with flipped(shard, at), pytest.raises(DamagedFile) as error:
            READERS[reader](shard)
        assert str(shard) in str(error.value)
        assert shard.stem in str(error.value)
        assert "--repair" in str(error.value)
    READERS[reader](shard)


def test_an_image_is_hashed_when_it_is_read(shard):
    """Only a flip that changes no image is let through, and a flip is said, not a decoder's error."""
    whole, said = dict(shards.iter_bytes(shard)), 0
    for at in places(shard, 150):
        with flipped(shard, at):
            try:
                assert dict(shards.iter_bytes(shard)) == whole
            except DamagedFile:
                said += 1
    assert said > 50
    assert [row for row, _ in shards.iter_bytes(shard, [3, 66])] == [3, 66]


def test_a_shard_that_is_cut_off_is_damaged(tmp_path, shard):
    copy = tmp_path / shard.name
    copy.write_bytes(shard.read_bytes())
    truncate(copy, copy.stat().st_size // 2)
    with pytest.raises(DamagedFile):
        shards.read_columns(copy, ["id"])
    with pytest.raises(DamagedFile):
        list(shards.iter_bytes(copy))


def test_annotations_are_hashed(tmp_path):
    shards.create_dataset(tmp_path, "multiclass")
    write_annotations(tmp_path, [said("a", "cat", 2), said("b", "dog", 2)])
    (file,) = (tmp_path / "annotations").glob("*.parquet")
    before = read_annotations(tmp_path)
    for at in places(file, 40):
        with flipped(file, at), pytest.raises(DamagedFile, match=file.stem):
            read_annotations(tmp_path)
    assert read_annotations(tmp_path).equals(before)


def test_a_file_is_hashed_again_when_it_is_written_to_with_the_same_time_and_size(tmp_path):
    content = os.urandom(1000)
    file, digest = tmp_path / "file", hashlib.sha256(content).hexdigest()
    file.write_bytes(content)
    with open_verified(file, digest[:24]) as opened:
        assert opened.read() == content
    assert read_verified(file, digest) == content
    flip(file, 500)
    with pytest.raises(DamagedFile, match=digest):
        open_verified(file, digest)
    with pytest.raises(DamagedFile, match=digest):
        read_verified(file, digest)
    flip(file, 500)
    file.rename(tmp_path / digest)
    check_named(tmp_path / digest)
