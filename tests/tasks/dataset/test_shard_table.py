"""A table over many shards: any index, tables of some rows, and memory that stays small."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.dataset import shard_table
from tasks.dataset.shard_table import ShardTable

WIDE = 4096  # numbers a row, float16


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> tuple[ShardTable, np.ndarray]:
    """(table, the same as an array): 2,400 rows out of 3,000 of three memory-mapped shards, not in their order."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    whole = {name: rng.integers(0, 999, (1000, WIDE)).astype(np.float16) for name in ("b", "a", "c")}
    for name, values in whole.items():
        np.save(folder / f"{name}.npy", values)
    places = [(name, row) for name in whole for row in range(1000)]
    places = [places[number] for number in rng.permutation(3000)[:2400]]
    names, rows = zip(*places, strict=True)
    samples = pa.table({"shard": pa.array(names), "row": pa.array(rows, pa.int32())})
    expected = np.stack([whole[name][row] for name, row in places])
    return ShardTable(samples, lambda name: np.load(folder / f"{name}.npy", mmap_mode="r")), expected


def test_it_is_indexed_like_an_array(table):
    found, expected = table
    assert (len(found), found.shape, found.dtype) == (2400, expected.shape, np.float16)
    for index in (slice(3, 500), slice(None), np.array([5, 5, 2399, 0]), np.arange(2400) % 7 == 0, np.array([], int)):
        np.testing.assert_array_equal(found[index], expected[index])
    parts = [rows for _, rows in found.batches(999)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    with pytest.raises(IndexError):
        found[np.array([2400])]


def test_some_rows_are_a_table_and_rows_are_copied_as_another_type(table, monkeypatch):
    found, expected = table
    some = found.take(np.arange(2400) % 3 == 1).take(np.arange(700, 100, -1))
    np.testing.assert_array_equal(some[:], expected[1::3][700:100:-1])
    monkeypatch.setattr(shard_table, "ROWS", 64)
    out = np.zeros((600, WIDE), np.float32)
    some.read_into(slice(0, 600), out)
    np.testing.assert_array_equal(out, expected[1::3][700:100:-1])


def test_a_pass_over_a_table_does_not_keep_its_pages(table, monkeypatch):
    found, expected = table
    monkeypatch.setattr(shard_table, "RESIDENT", 4 << 20)
    found[:]
    assert mapped() < 8 << 20, "of 24 MB"
    np.testing.assert_array_equal(found[:9], expected[:9])


def mapped() -> int:
    """Resident bytes of mapped .npy files of this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    sizes, ours = 0, False
    for line in lines:
        if "-" in line.split(" ")[0] and not line.split(" ")[0].endswith(":"):
            ours = line.endswith(".npy")
        elif ours and line.startswith("Rss:"):
            sizes += int(line.split()[1]) * 1024
    return sizes


def test_a_table_without_samples_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        ShardTable(pa.table({"shard": pa.array([], pa.string()), "row": pa.array([], pa.int32())}), np.empty)
