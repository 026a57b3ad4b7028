"""Large shards leave a sealed copy of their columns: readers hash that, and a damaged image is still found."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.common.errors import DamagedFile
from tasks.common.files import sha256_bytes
from tasks.common.schemas import sample_schema
from tasks.common.sealed import is_damaged
from tasks.dataset import column_copies, shards
from tests.support.flips import flip, places

COUNT, ENCODED = 70, 20_000  # more than one row group, more than a megabyte
COLUMNS = [name for name in sample_schema("multiclass").names if name != "image"]


def add_shard(data, encoded: int = ENCODED) -> str:
    rng = np.random.default_rng(encoded)
    images = [rng.bytes(encoded) for _ in range(COUNT)]
    rows = {name: [None] * COUNT for name in sample_schema("multiclass").names}
    rows |= {
        "id": [sha256_bytes(image) for image in images],
        "image": [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)],
        "label": ["cat", "dog"] * (COUNT // 2),
        "group": [f"object-{number // 3}" for number in range(COUNT)],
        "slice": [[{"name": "light", "value": "dark"}]] * COUNT,
    }
    return shards.write_shard(data, pa.table(rows, schema=sample_schema("multiclass")), "multiclass")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    (root / ".evergreen").mkdir()
    return root, add_shard(root / "data")


@pytest.fixture
def shard(made, tmp_path):
    """A shard of a project of its own."""
    root, name = made
    shutil.copytree(root / "data", tmp_path / "data")
    (tmp_path / ".evergreen").mkdir()
    return tmp_path / "data" / name


def copy_of(shard):
    return shard.parent.parent / ".evergreen/cache/columns" / column_copies.LAYOUT / shard.name


def read(shard) -> tuple:
    """Everything but the images."""
    paths = shards.read_paths(shard.parent, [shard.name], [3])
    named = shards.read_image_paths(shard.parent.parent, pa.table({"shard": [shard.name], "row": [69]}))
    return (
        shards.read_columns(shard, COLUMNS).to_pylist(),
        shards.shard_version(shard),
        shards.shard_groups(shard).to_pylist(),
        paths,
        named,
    )


def test_a_copy_has_all_columns_but_the_images_and_is_read_instead_of_the_shard(shard):
    shutil.move(shard.parent.parent / ".evergreen", shard.parent.parent / "elsewhere")
    whole = read(shard)  # of the shard itself: this is not a project
    shutil.move(shard.parent.parent / "elsewhere", shard.parent.parent / ".evergreen")
    assert not copy_of(shard).exists()
    assert read(shard) == whole
    assert not is_damaged(copy_of(shard))
    assert copy_of(shard).stat().st_size < shard.stat().st_size / 50
    assert "image.bytes" not in [pq.ParquetFile(copy_of(shard)).schema.column(at).path for at in range(14)]
    assert (whole[3], whole[4]) == (["3.png"], ["69.png"])
    flip(shard, shard.stat().st_size // 2)
    assert read(shard) == whole, "what was copied was undamaged"
    with pytest.raises(DamagedFile):
        list(shards.iter_bytes(shard))


def test_a_damaged_copy_is_made_again_and_a_damaged_shard_is_never_copied(shard, caplog):
    whole = read(shard)
    for at in places(copy_of(shard), 3):
        flip(copy_of(shard), at)
        assert read(shard) == whole
    assert "was damaged: it is thrown away and made again" in caplog.text
    flip(copy_of(shard), 9)
    flip(shard, 5000)
    with pytest.raises(DamagedFile, match=shard.stem):
        read(shard)
    assert not copy_of(shard).exists()


def test_a_shard_that_is_gone_is_not_read_from_its_copy(shard):
    read(shard)
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        shards.read_columns(shard, ["id"])


def test_a_copy_that_cannot_be_written_costs_nothing_but_time(shard):
    blocked = shard.parent.parent / ".evergreen/cache"
    blocked.write_text("a file in the place of the folder")
    assert len(read(shard)[0]) == COUNT
    assert blocked.is_file()


def test_a_small_shard_has_no_copy(shard):
    small = shard.parent / add_shard(shard.parent, 40)
    assert len(shards.read_columns(small, ["id"])) == COUNT
    assert not copy_of(small).exists()
