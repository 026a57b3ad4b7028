"""The gate is asked about the files of a real run."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.publishing.judge_run import judge_run, with_marks
from tasks.common.artifacts import ACCEPTED
from tasks.common.files import write_json
from tasks.common.floors import Floor
from tasks.common.params import GateParams, load_params
from tasks.common.schemas import predictions_schema
from tasks.dataset import shards
from tasks.releases.looks import read_looks
from tasks.releases.store import open_store
from tests.support.small_project import CLASSES, finished_project


def test_an_error_about_an_image_names_its_key(tmp_path):
    root = shutil.copytree(finished_project(), tmp_path / "main")
    (shard,) = shards.live_shards(root / "data")
    rows = pq.read_table(shard.path)
    at = rows.schema.get_field_index("key")
    keys = pa.array([f"part {row}" for row in range(len(rows))], rows.schema.field(at).type)
    name = shards.write_shard(root / "data", rows.set_column(at, rows.schema.field(at), keys), "multiclass")
    manifest = shards.BatchManifest(seq=1, batch="b-1", kind="import", shards=[name], rows=len(rows))
    next((root / "data/batches").glob("*.json")).unlink()
    shards.write_manifest(root / "data", manifest)

    tested = pq.read_table(root / ACCEPTED)
    tested = tested.filter(pc.equal(tested["split"], "test"))
    answers = np.full((len(tested), len(CLASSES)), 1 / len(CLASSES), np.float32)
    answers[3] = np.nan
    schema = predictions_schema("multiclass")
    known = {"probabilities": pa.array(list(answers), schema.field("probabilities").type)}
    known |= {name: tested[name] for name in schema.names if name in tested.column_names and name not in known}
    columns = [known.get(field.name, pa.nulls(len(tested), field.type)) for field in schema]
    (root / "artifacts/evaluate").mkdir()
    pq.write_table(pa.table(columns, schema=schema), root / "artifacts/evaluate/predictions.parquet")

    params = load_params(root / "params.yaml")
    verdict = judge_run(root, params, open_store(params.store, root), None)
    image = tested["id"][3].as_py()
    key = keys[rows["id"].to_pylist().index(image)].as_py()
    (error,) = [check.detail for check in verdict.checks if check.name == "challenger"]
    assert f"of {len(tested)} images are not finite, e.g. image {image[:12]} ({key}, t10k-" in error

    releases = open_store(params.store, root)
    assert "seed noise" not in verdict.sentence
    write_json(root / "metrics/train_backbone.json", {"seeds": {"scores": [0.5, 0.6], "spread": 0.07}})
    for run in ("r-1", "r-1"):  # judged again: the same look
        verdict = judge_run(root, params, releases, None, run=run, by="ann")
        said = {check.name: check for check in verdict.checks}
    assert "seed noise: the calibration scores of 2 trainings" in verdict.sentence
    assert (said["test.looks"].value, said["test.looks"].status) == (1, "pass")
    (look,) = read_looks(releases.store)
    assert (look.run, look.by, look.how, look.seq, look.sets["test"].images) == ("r-1", "ann", "run", 1, len(tested))


def test_marked_images_are_floors_where_models_are_judged_on_them():
    policy = GateParams(floors=[Floor(image="aaaa")])
    found = with_marks(policy, {"aaaa1", "bbbb1", "cccc1"}, ["aaaa1", "bbbb1", "dddd1"])
    assert [floor.code for floor in found.floors] == ["floor.image.aaaa", "floor.image.bbbb1"]
    assert with_marks(policy, set(), ["aaaa1"]) == policy
    one, other = "b" * 64, "b" * 12 + "c" * 52
    (floor,) = with_marks(GateParams(), {one}, [one]).floors
    assert floor.image == one[:12]
    (floor,) = with_marks(GateParams(), {one}, [one, other]).floors
    assert floor.image == one
