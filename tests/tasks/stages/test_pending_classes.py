"""Changes of classes that the network was not trained with: only the head and what follows know them."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tasks.common import artifacts
from tasks.common.errors import StageInputError
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tasks.models.head import Head
from tasks.stages import train_head
from tasks.stages.calibrate import stage as calibrate_stage
from tests.support import small_project
from tests.support.small_project import CLASSES


def pending(root, names: dict[str, str | None]) -> None:
    """What `validate` writes of a project whose classes became `names` after the network was trained."""
    accepted = root / artifacts.ACCEPTED
    (root / artifacts.NETWORK).mkdir()
    shutil.copyfile(accepted, root / artifacts.NETWORK / accepted.name)
    write_json(root / artifacts.NETWORK / "classes.json", CLASSES)
    rows = pq.read_table(accepted)
    kept = rows.filter(pa.array([names[label] is not None for label in rows["label"].to_pylist()]))
    labels = pa.array([names[label] for label in kept["label"].to_pylist()])
    accepted.unlink()
    pq.write_table(kept.set_column(kept.schema.get_field_index("label"), "label", labels), accepted)
    write_json(root / artifacts.VALIDATED / "classes.json", sorted({name for name in names.values() if name}))
    write_json(root / artifacts.VALIDATED / "taxonomy.json", {"names": names, "groups": {"goods": ["Boot", "Other"]}})


def clean_actions(root, change) -> None:
    """Rewrite artifacts/clean/labels.parquet; change: row -> the row after cleaning."""
    file = root / "artifacts/clean/labels.parquet"
    table = pq.read_table(file)
    file.unlink()
    pq.write_table(pa.Table.from_pylist([change(row) for row in table.to_pylist()], schema=table.schema), file)


MERGED = {"Ankle boot": "Boot", "Bag": "Other", "Trouser": "Other"}


def test_head_and_calibration_know_the_classes_of_today_and_the_network_its_own(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    before = artifacts.network_rows(root)
    pending(root, MERGED)
    assert artifacts.network_rows(root)["train"].equals(before["train"])
    assert artifacts.network_classes(root) == CLASSES
    params = load_params(root / "params.yaml")
    train_head.run(root, train_head=params.train_head, images=params.images)
    assert load_file(root / "artifacts/train_head/head.safetensors")["weight"].shape[0] == 2
    calibrate_stage.run(root, images=params.images, calibrate=params.calibrate)
    about = read_json(root / "artifacts/calibrate/calibration.json")
    assert about["classes"] == ["Boot", "Other"]
    assert about["hierarchy"]["groups"] == {"goods": ["Boot", "Other"]}
    assert read_json(root / "metrics/train_head.json")["score"] > 0.8


def test_what_clean_repaired_is_read_in_the_names_of_today(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    rows = artifacts.training_rows(root)["train"]
    boots = [row["id"] for row in rows.select(["id", "label"]).to_pylist() if row["label"] == "Ankle boot"]
    pending(root, MERGED | {"Trouser": None})

    def repaired(row: dict) -> dict:
        new = {boots[0]: "Bag", boots[1]: "Trouser"}.get(row["id"])
        row |= {"action": "relabel", "label": new} if new else {}
        return row | ({"action": "drop"} if row["id"] == boots[2] else {})

    clean_actions(root, repaired)
    found = dict(zip(*artifacts.training_rows(root)["train"].select(["id", "label"]).to_pydict().values(), strict=True))
    assert found[boots[0]] == "Other"
    assert found[boots[1]] == "Boot", "a repair to a class that is gone is not made"
    assert boots[2] not in found
    assert set(found.values()) == {"Boot", "Other"}
    assert len(artifacts.network_rows(root)["train"]) == len(rows) - 1


def test_rows_that_only_the_classes_of_today_accept_are_trained_on(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    count = len(artifacts.training_rows(root)["train"])
    pending(root, MERGED)
    file = root / artifacts.NETWORK / "accepted.parquet"
    fewer = pq.read_table(file)
    left_out = fewer["id"][0].as_py()
    file.unlink()
    pq.write_table(fewer.slice(1), file)
    with pytest.raises(StageInputError, match="different runs"):
        artifacts.training_rows(root)
    table = pq.read_table(root / "artifacts/clean/labels.parquet")
    (root / "artifacts/clean/labels.parquet").unlink()
    kept = table.filter(pa.array([one != left_out for one in table["id"].to_pylist()]))
    pq.write_table(kept, root / "artifacts/clean/labels.parquet")
    rows = artifacts.training_rows(root)
    assert sum(left_out in rows[split]["id"].to_pylist() for split in rows) == 1
    assert len(rows["train"]) == count


def test_renamed_and_retired_classes_keep_or_leave_stage_1s_classifier():
    names = {"a": "x", "b": None, "c": "c"}
    assert train_head.same_classes(["a", "b", "c"], ["c", "x"], names) == [2, 0]
    assert train_head.same_classes(["a", "b", "c"], ["c", "x"], names | {"b": "x"}) is None
    assert train_head.same_classes(["ab", "c"], ["a", "b", "c"], {"ab": None, "c": "c"}) is None


def test_a_part_of_a_head_answers_its_classes_in_their_order():
    head = Head(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([7, 8, 9], np.float32))
    x = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(head.part([2, 0]).logits(x), head.logits(x)[:, [2, 0]])
