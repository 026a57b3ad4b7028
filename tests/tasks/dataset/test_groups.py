"""Groups of samples in shards of both versions, and the group key of each row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.files import sha256_bytes
from tasks.common.schemas import sample_schema
from tasks.dataset import shards
from tasks.dataset.shards import group_keys, shard_groups
from tasks.ingest.erase import erase_ids, ids_of
from tasks.scoring.slices import with_sources


def shard(data, version: int, count: int = 3):
    encoded = [bytes([number]) for number in range(count)]
    rows = {name: [None] * count for name in sample_schema("multiclass").names}
    rows |= {
        "id": [sha256_bytes(data) for data in encoded],
        "image": [{"bytes": data, "path": None} for data in encoded],
        "source": ["cam"] * count,
        "group": [f"track {number}" for number in range(count)],
    }
    return data / shards.write_shard(data, pa.table(rows, schema=sample_schema("multiclass")), "multiclass", version)


def test_the_source_of_a_version_1_shard_is_its_group(tmp_path):
    old, new = shard(tmp_path, 1), shard(tmp_path, 2)
    assert shard_groups(old).to_pylist() == ["cam"] * 3
    assert shard_groups(new).to_pylist() == ["track 0", "track 1", "track 2"]
    assert shards.read_columns(old, ["group", "source"]).to_pydict() == {"group": [None] * 3, "source": ["cam"] * 3}
    assert pq.read_schema(old).names == [name for name in sample_schema("multiclass").names if name not in shards.ADDED]
    assert b'"group"' in pq.read_schema(new).metadata[b"huggingface"]
    assert b'"group"' not in pq.read_schema(old).metadata[b"huggingface"]


def test_shards_before_version_3_do_not_say_how_an_image_was_picked(tmp_path):
    rows = dict.fromkeys(sample_schema("multiclass").names, [None] * 3)
    rows |= {
        "id": list("abc"),
        "origin": ["import", "production", "review"],
        "group": ["g"] * 3,
        "key": ["k1", "k2", None],
    }
    rows |= {"picked": ["queue", "audit", "feedback"], "sampling_probability": [None, 0.5, None]}
    table = pa.table(rows, schema=sample_schema("multiclass"))
    paths = [tmp_path / shards.write_shard(tmp_path, table, "multiclass", version) for version in (1, 2, 3)]
    assert [shards.shard_version(path) for path in paths] == [1, 2, 3]
    columns = ["picked", "key", "sampling_probability"]
    for path in paths[:2]:
        found = shards.read_columns(path, columns)
        assert found.column_names == columns
        assert found["picked"].to_pylist() == ["representative", "unknown", "unknown"]
        assert found["key"].null_count == found["sampling_probability"].null_count == 3
    assert shards.read_columns(paths[2], columns).to_pydict() == {name: rows[name] for name in columns}
    assert b"float32" in pq.read_schema(paths[2]).metadata[b"huggingface"]


def test_an_erasure_keeps_groups_and_the_version_of_a_shard(tmp_path):
    shards.create_dataset(tmp_path, "multiclass")
    names = [shard(tmp_path, version).name for version in (1, 2, 3)]
    shards.write_manifest(tmp_path, shards.BatchManifest(seq=1, batch="b", kind="import", shards=names, rows=9))
    erase_ids(tmp_path, {sha256_bytes(b"\0")})
    kept = [found.path for found in shards.live_shards(tmp_path)]
    assert [shards.shard_version(path) for path in kept] == [1, 2, 3]
    assert [shard_groups(path).to_pylist() for path in kept] == [["cam"] * 2, *[["track 1", "track 2"]] * 2]
    assert [len(ids_of(path, "track 1")) for path in kept] == [0, 1, 1]
    assert [len(ids_of(path, "cam")) for path in kept] == [2, 2, 2]


def test_the_group_key_is_the_group_else_the_cluster():
    table = pa.table({"group": ["g", None, "g"], "cluster": ["c", "c", "d"]})
    assert group_keys(table).tolist() == ["g", "c", "g"]
    assert group_keys(table.slice(0, 0)).dtype.kind == np.array([""]).dtype.kind


def test_a_source_is_a_slice():
    found = with_sources([[{"name": "light", "value": "dim"}], None, []], ["cam", None, "cam"])
    cam = {"name": "source", "value": "cam"}
    assert found == [[{"name": "light", "value": "dim"}, cam], [], [cam]]
    many = with_sources([[]] * 120, [f"s{number // 2}" for number in range(118)] + ["t", "t"])
    assert sum(map(len, many)) == 100
    assert with_sources([[{"name": "source", "value": "own"}]], ["cam"]) == [[{"name": "source", "value": "own"}]]
