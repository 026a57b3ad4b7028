"""The inspect stage on small real projects."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.common.errors import DataError, StageInputError
from tasks.common.files import read_json, sha256_bytes, write_json
from tasks.common.params import ImagesParams, InspectParams
from tasks.common.schemas import sample_schema, samples_schema
from tasks.dataset import shards
from tasks.inspection.measures import shard_measures, store_measures
from tasks.stages import inspect
from tests.support.annotating import old_annotations
from tests.support.photos import cutouts, encode, tracks

IMAGES, ONE = ImagesParams(), InspectParams(workers=1)


class Project:
    """A data set written batch by batch, without the ingest."""

    def __init__(self, root: Path, task: str = "multiclass"):
        self.root, self.task, self.seq = root, task, 0
        shards.create_dataset(root / "data", task)

    def batch(self, name: str, rows: list[dict], annotations: list[dict] = (), quarantined: dict | None = None) -> str:
        """Each row needs image; label, split (train) and all else are optional. Returns the shard's name."""
        schema = sample_schema(self.task)
        full = [
            dict.fromkeys(schema.names) | {"split": "train", "batch": name, "origin": "import"} | row for row in rows
        ]
        for row in full:
            row["id"] = sha256_bytes(row["image"])
            row["image"] = {"bytes": row["image"], "path": row.pop("path", None)}
        files = []
        if annotations:
            files = [old_annotations(self.root / "data", annotations, self.task)]
        names = []
        if full:
            table = pa.Table.from_pylist(full, schema=schema)
            names = [shards.write_shard(self.root / "data", table, self.task)]
        self.seq += 1
        manifest = shards.BatchManifest(
            seq=self.seq,
            batch=name,
            kind="import",
            shards=names,
            annotations=files,
            rows=len(rows),
            quarantined=quarantined or {},
        )
        shards.write_manifest(self.root / "data", manifest)
        return names[0] if names else ""

    def inspect(self, params: InspectParams = ONE, images: ImagesParams = IMAGES) -> pa.Table:
        inspect.run(self.root, images=images, inspect=params)
        return pq.read_table(self.root / "artifacts" / "inspect" / "samples.parquet")

    @property
    def metrics(self) -> dict:
        return read_json(self.root / "metrics" / "inspect.json")


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


PHOTOS = cutouts(8)
PNG = [encode(photo) for photo in PHOTOS]
ID = [sha256_bytes(data) for data in PNG]
JPEG = [encode(photo, "JPEG", quality=70) for photo in PHOTOS]


def test_a_group_that_two_branches_put_into_two_splits_is_not_trained_on(project):
    project.batch("b-1", [{"image": PNG[n], "label": "a", "group": f"g{n}", "split": "test"} for n in (0, 1)])
    rows = [("g0", "train"), (None, "train"), ("g2", "train"), ("g2", "hard")]
    project.batch("b-2", [{"image": PNG[n + 2], "label": "a", "group": g, "split": s} for n, (g, s) in enumerate(rows)])
    assert project.inspect()["excluded"].to_pylist() == [None, None, "leaks_test", None, None, None]


def test_one_row_a_sample_in_canonical_order_with_schema_and_measures(project):
    second = project.batch("b-2", [{"image": PNG[n], "label": "a"} for n in (3, 2)])
    first = project.batch("b-3", [{"image": PNG[n], "label": "b", "source": "s"} for n in (5, 4, 3)])
    found = project.inspect()
    assert found.schema.names == samples_schema("multiclass").names
    assert found["id"].to_pylist() == [ID[n] for n in (3, 2, 5, 4)]  # the second coming of 3 is dropped
    assert found["shard"].to_pylist() == [second] * 2 + [first] * 2
    assert found["row"].to_pylist() == [0, 1, 0, 1]
    assert found["label"].to_pylist() == ["a", "a", "b", "b"]
    assert found["source"].to_pylist() == [None, None, "s", "s"]
    assert set(found["status"].to_pylist()) == {"ok"}
    assert found["width"].to_pylist() == [200] * 4
    assert found["cluster"].to_pylist() == found["id"].to_pylist()
    assert project.metrics["repeated"] == 1
    assert (project.metrics["rows"], project.metrics["labelled"]) == (4, 4)
    brightness = project.metrics["measures"]["brightness"]
    assert 0 < brightness["p05"] <= brightness["p50"] <= brightness["p95"] < 255


def test_same_input_same_bytes(project):
    project.batch("b-1", [{"image": data, "label": "a"} for data in (*PNG, *JPEG[:3])])
    outputs = [
        project.root / "artifacts/inspect/samples.parquet",
        project.root / "artifacts/inspect/duplicates.parquet",
    ]
    project.inspect()
    before = [file.read_bytes() for file in outputs]
    project.inspect(InspectParams(workers=2))
    assert [file.read_bytes() for file in outputs] == before


def test_a_training_image_that_looks_like_a_held_out_one_is_excluded(project):
    splits = ["test", "calibration", "hard", "train", "train"]
    project.batch("b-1", [{"image": PNG[n], "split": split} for n, split in enumerate(splits)])
    project.batch("b-2", [{"image": JPEG[n]} for n in range(6)])
    small = [encode(PHOTOS[n].resize((100, 100)), "JPEG") for n in (0, 1)]
    project.batch("b-3", [{"image": small[0], "split": "hard"}, {"image": small[1], "split": "test"}])
    found = project.inspect()
    expected = [None] * 5 + ["leaks_hard", "leaks_test", "leaks_hard", None, None, None] + [None] * 2
    assert found["excluded"].to_pylist() == expected  # and only training rows are
    assert project.metrics["leaks"] == {"leaks_hard": 2, "leaks_test": 1, "leaks_calibration": 0}
    clusters = found["cluster"].to_pylist()
    assert clusters[3] == clusters[8] == min(found["id"][3].as_py(), found["id"][8].as_py())
    assert project.metrics["near_duplicates"]["clusters"] == 5
    pairs = pq.read_table(project.root / "artifacts/inspect/duplicates.parquet").to_pylist()
    assert {(pair["id"], pair["near_id"]) for pair in pairs} >= {(ID[3], sha256_bytes(JPEG[3]))}
    assert all(pair["bits"] <= 4 and pair["difference"] <= 4 for pair in pairs)


def test_calibration_leak_is_named(project):
    project.batch("b-1", [{"image": PNG[0], "split": "calibration"}, {"image": JPEG[0]}])
    assert project.inspect()["excluded"].to_pylist() == [None, "leaks_calibration"]


def test_undecodable_rows_stay_with_their_reason(project):
    half = JPEG[1][: len(JPEG[1]) // 2]
    project.batch(
        "b-1",
        [{"image": PNG[0], "label": "a"}, {"image": half, "label": "a"}, {"image": b"x"}],
        quarantined={"bad_label": 2},
    )
    project.batch("b-2", [{"image": PNG[2]}], quarantined={"bad_label": 1, "empty_file": 4})
    found = project.inspect()
    assert found["status"].to_pylist() == ["ok", "truncated", "unknown_format", "ok"]
    assert found["brightness"].null_count == 2
    assert found["cluster"].null_count == 0
    metrics = project.metrics
    assert (metrics["ok"], metrics["quarantined"]) == (2, {"truncated": 1, "unknown_format": 1})
    assert metrics["refused_at_ingest"] == {"bad_label": 3, "empty_file": 4}


def test_a_data_set_of_undecodable_rows_is_reported_not_hidden(project):
    project.batch("b-1", [{"image": b"x"}])
    assert project.inspect()["status"].to_pylist() == ["unknown_format"]
    assert project.metrics["measures"]["brightness"] == {}


def test_tombstoned_batches_are_not_there(project):
    project.batch("b-1", [{"image": PNG[0], "label": "a"}])
    project.batch("b-2", [{"image": PNG[1]}], [{"id": ID[0], "label": "z", "why": "review"}], {"bad_label": 9})
    write_json(project.root / "tombstones.json", {"b-2": {"why": "flipped", "at": "now", "by": "me"}})
    found = project.inspect()
    assert found["id"].to_pylist() == [ID[0]]
    assert found["label"].to_pylist() == ["a"]
    assert project.metrics["refused_at_ingest"] == {}
    write_json(project.root / "tombstones.json", {"b-1": {"why": "bad"}, "b-2": {"why": "bad"}})
    with pytest.raises(StageInputError, match=r"no live samples.*Batch b-1 is tombstoned.*Batch b-2 is tombstoned"):
        project.inspect()


def test_missing_files_are_named(project):
    with pytest.raises(StageInputError, match="ingest"):
        project.inspect()
    shard = project.batch("b-1", [{"image": PNG[0]}])
    (project.root / "data" / shard).unlink()
    with pytest.raises(DataError, match=rf"{shard} is missing, but batch b-1"):
        project.inspect()


def test_only_new_shards_are_decoded(project):
    old = project.batch("b-1", [{"image": PNG[0]}])
    project.inspect()
    known = shard_measures(project.root, old, IMAGES, ONE)
    at = known.column_names.index("brightness")
    store_measures(project.root, old, IMAGES, known.set_column(at, "brightness", pa.array([1.5], pa.float32())))
    project.batch("b-2", [{"image": PNG[1]}])
    brightness = project.inspect()["brightness"].to_pylist()
    assert brightness[0] == 1.5  # from the cache
    assert brightness[1] > 2


def test_no_annotation_changes_what_inspect_finds(project):
    project.batch("b-1", [{"image": PNG[n], "label": label} for n, label in enumerate(["a", "b", None, "d"])])
    review = [{"id": ID[1], "label": "z", "why": "review"}, {"id": ID[2], "label": "new", "why": "import"}]
    project.batch("b-2", [], [*review, {"id": "f" * 64, "label": "unknown image", "why": "review"}])
    assert project.inspect()["label"].to_pylist() == ["a", "b", None, "d"]
    assert project.metrics["labelled"] == 3


def test_multilabel(tmp_path):
    project = Project(tmp_path, "multilabel")
    project.batch("b-1", [{"image": PNG[n], "label": label} for n, label in enumerate([["a", "b"], [], None])])
    found = project.inspect()
    assert found.schema.field("label").type == pa.list_(pa.string())
    assert found["label"].to_pylist() == [["a", "b"], [], None]


def test_leaks_need_only_splits_and_clusters():
    splits = {name: np.array(list("tttch")) == name[0] for name in ("train", "calibration", "hard")}
    splits["train"] = np.array([True, True, True, False, False])
    splits["test"] = np.zeros(5, bool)
    assert inspect.leaks(splits, np.array([0, 1, 1, 1, 0])).tolist() == [
        "leaks_hard",
        "leaks_calibration",
        "leaks_calibration",
        None,
        None,
    ]


def test_tracks_that_nobody_recorded_are_reported_with_what_they_cost(tmp_path, capsys):
    project = Project(tmp_path)
    rows = [
        {"image": encode(image), "label": name.split("/")[0], "path": name, "split": "test" if view == 3 else "train"}
        for (name, image), view in zip(tracks(12, views=4).items(), [0, 1, 2, 3] * 24, strict=True)
    ]
    project.batch("b-1", rows)
    inspect.run(tmp_path, images=IMAGES, inspect=ONE)
    found = read_json(tmp_path / "metrics/inspect.json")["hidden_groups"]
    assert found["layout"] == "{class+group}/{group}_{*}"
    assert (found["test_images"], found["test_images_with_group_in_train"]) == (24, 24)
    assert "ingest into a new project with --layout '{class+group}/{group}_{*}'" in capsys.readouterr().out


def test_nothing_is_reported_where_groups_are_recorded_or_names_mean_nothing(tmp_path):
    images = list(tracks(12, views=4).items())
    for folder, fields in (("grouped", {"group": "g"}), ("counted", {})):
        project = Project(tmp_path / folder)
        rows = [
            {"image": encode(image), "label": name[:3], "path": name if fields else f"{number}.png", **fields}
            for number, (name, image) in enumerate(images)
        ]
        project.batch("b-1", rows)
        inspect.run(tmp_path / folder, images=IMAGES, inspect=ONE)
        assert read_json(tmp_path / folder / "metrics/inspect.json")["hidden_groups"] is None
