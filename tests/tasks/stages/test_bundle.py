"""The bundle of a real, if untrained, model: complete, self-checking, reproducible."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file

from serving.predictor import Predictor
from tasks.common.artifacts import record_used
from tasks.common.errors import NewerFormat, StageInputError
from tasks.common.params import load_params
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.ood import scores as ood
from tasks.releases import bundle
from tasks.stages.bundle import card, stage
from tests.support.small_project import CLASSES, finished_project, image_bytes


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished_project() / "artifacts/bundle", tmp_path / "bundle"))


def test_a_whole_bundle_passes_and_its_digest_is_in_the_metrics(folder):
    bundle.verify(folder)
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "MANIFEST.json"])
    measured = json.loads((finished_project() / "metrics/bundle.json").read_text())
    assert bundle.digest(folder) == measured["digest"]


FILES = ["bundle.json", "card.md", "model.onnx", "ood.safetensors", "reference.parquet", "weights.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_and_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(bundle.BundleDamaged, match=f"{name} is altered"):
        bundle.verify(folder)


def test_missing_extra_truncated_and_linked_files_are_all_named_at_once(folder):
    (folder / "card.md").unlink()
    (folder / "extra.py").write_text("surprise")
    with open(folder / "model.onnx", "r+b") as file:
        file.truncate(100)
    shutil.move(folder / "ood.safetensors", folder.parent / "elsewhere")
    (folder / "ood.safetensors").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(bundle.BundleDamaged) as error:
        bundle.verify(folder)
    for words in (
        "card.md is missing",
        "extra.py is not in",
        "model.onnx has 100 bytes",
        "ood.safetensors is not a plain",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": {"a": 1}}', '{"files": []}'])
def test_a_broken_manifest_is_refused(folder, manifest):
    (folder / "MANIFEST.json").write_text(manifest)
    with pytest.raises(bundle.BundleDamaged, match="not the manifest"):
        bundle.verify(folder)


def test_a_manifest_may_not_speak_of_files_elsewhere(folder):
    outside = folder.parent / "outside"
    outside.write_text("secret")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["../outside"] = {"sha256": "0" * 64, "bytes": 6}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(bundle.BundleDamaged, match="not a plain file"):
        bundle.verify(folder)


def test_no_bundle_and_a_newer_schema_are_told(folder, tmp_path):
    with pytest.raises(bundle.BundleDamaged, match="no MANIFEST"):
        bundle.verify(tmp_path)
    about = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(about | {"schema": 99}))
    with pytest.raises(NewerFormat, match="schema 99"):
        bundle.read(folder)


def test_bundle_json_tells_what_the_model_is(folder):
    about = bundle.read(folder)
    assert about["classes"] == CLASSES
    spec = {"resolution": 32, "fit": "squash", "max_pixels": 50_000_000, "bit_depth": None}
    assert about["preprocess"] == spec
    assert about["data"]["images"]["train"] == dict.fromkeys(CLASSES, 20)
    assert set(about["metrics"]) == {"clean", "calibrate", "evaluate"}, "metrics of earlier stages only"
    assert about["params"]["validate"]["min_rows"] == 50
    assert set(about["versions"]) >= {"python", "torch", "onnxruntime"}
    assert str(finished_project()) not in json.dumps(about), "a bundle says nothing of the machine that made it"


def test_weights_are_those_of_network_and_head(folder):
    weights = load_file(folder / "weights.safetensors")
    head = load_file(finished_project() / "artifacts/train_head/head.safetensors")
    backbone = load_file(finished_project() / "artifacts/train_backbone/weights.safetensors")
    assert set(weights) == {f"backbone.{n}" for n in backbone} | {f"head.{n}" for n in head}
    np.testing.assert_array_equal(weights["head.weight"], head["weight"])


def test_reference_is_what_the_model_makes_of_held_out_images(folder):
    table = pq.read_table(folder / "reference.parquet")
    about = bundle.read(folder)
    ids = table["id"].to_pylist()
    assert ids == sorted(ids)
    assert len(ids) == 40
    assert set(table["split"].to_pylist()) == {"calibration", "test"}
    thumbnail = np.asarray(Image.open(io.BytesIO(table["thumbnail"][0].as_py())))
    assert max(thumbnail.shape[:2]) <= 64
    features = np.array(table["features"].to_pylist(), np.float32)
    probabilities = np.array(table["probabilities"].to_pylist())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    scores = ood.score(features, features, about["ood"], ood.read_tensors(folder / "ood.safetensors"))
    np.testing.assert_allclose(scores, table["ood"].to_numpy(), atol=1e-5)
    assert table["brightness"].null_count == 0
    predicted = np.array(CLASSES)[probabilities.argmax(axis=1)]
    assert np.mean(predicted == np.array(table["label"].to_pylist())) > 0.7, "rows of labels and outputs fit together"
    pixels = np.full((1, 32, 32, 3), 128, np.uint8)
    assert OnnxModel(folder / "model.onnx")(pixels).features.shape[1] == features.shape[1]


def test_the_same_inputs_make_the_same_bundle(tmp_path):
    root = Path(shutil.copytree(finished_project(), tmp_path / "again"))
    params = load_params(root / "params.yaml")
    before = bundle.digest(root / "artifacts/bundle")
    stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)
    assert bundle.digest(root / "artifacts/bundle") == before
    (root / "metrics/evaluate.json").unlink()
    with pytest.raises(StageInputError, match="evaluate"):
        stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)
    bundle.verify(root / "artifacts/bundle")  # a failed run leaves the old bundle whole


def test_multilabel_bundle_counts_every_label_of_an_image():
    about = bundle.read(finished_project("multilabel") / "artifacts/bundle")
    assert about["data"]["images"]["train"] == {"Ankle boot": 20, "Bag": 30, "Trouser": 20}


def test_card_shows_figures_and_never_interprets_names(folder):
    text = (folder / "card.md").read_text()
    assert "| Trouser | 20 | 16 | 12 | 0 |" in text
    assert "There is none yet" in text
    about = bundle.read(folder)
    hostile = "</script><img src=x onerror=alert(1)>|`[x](javascript:alert(1))`\n# title"
    shown = json.loads(json.dumps(about).replace(json.dumps("Trouser")[1:-1], json.dumps(hostile)[1:-1]))
    text = card.render(shown)
    assert "<img" not in text
    assert "](javascript" not in text
    assert "\n# title" not in text
    rows = [line for line in text.splitlines() if "onerror" in line]
    assert rows
    assert all(line.replace("\\|", "").count("|") in (0, 3, 6) for line in rows), "a name ended its table cell"


def test_the_card_says_which_score_finds_unfamiliar_images(folder):
    about = bundle.read(folder)
    assert card.escape_markdown(about["metrics"]["calibrate"]["ood"]["sentence"]) in card.render(about)
    del about["metrics"]["calibrate"]["ood"]["sentence"]  # of a bundle of before
    assert "are flagged as unfamiliar" in card.render(about)


def test_the_card_lists_the_floors_that_the_gate_holds_the_model_to(folder):
    about = bundle.read(folder)
    assert "## Floors" not in card.render(about)
    floors = [{"class": "<b>crack", "set": None, "recall": 0.98, "cost": None}, {"set": "hard", "accuracy": 0.9}]
    gate = about["params"]["gate"] | {"floors": floors}
    text = card.render(about | {"params": about["params"] | {"gate": gate}})
    assert card.escape_markdown("class: <b>crack, recall: 0.98") in text
    assert card.escape_markdown("set: hard, accuracy: 0.9") in text
    assert "<b>" not in text
    assert "None" not in text


def test_the_card_says_what_was_done_about_labels_that_look_wrong(folder):
    about = bundle.read(folder)
    assert "Of the labels" not in card.render(about), "its metrics are older than that sentence"
    about["metrics"]["clean"] = {"sentence": "391 look wrong; 0 changed"}
    assert "Of the labels, 391 look wrong; 0 changed" in card.render(about)


def _rows(ids: list[str], batches: list[str], split: str) -> pa.Table:
    return pa.table({"id": ids, "batch": batches, "split": [split] * len(ids), "picked": ["audit"] * len(ids)})


def test_production_samples_that_came_back_become_the_reference_once_there_are_enough():
    from tasks.stages.bundle.reference import ENOUGH, choose

    old = [f"{number:04x}" for number in range(300)]
    back = [f"{number:04x}" for number in range(1000, 1000 + ENOUGH)]
    batches = ["b-2"] * (ENOUGH // 2) + ["b-3"] * (ENOUGH - ENOUGH // 2)
    origins = pa.table({"id": old + back, "origin": ["import"] * 300 + ["production"] * ENOUGH})
    rows = {"calibration": _rows(old, ["b-1"] * 300, "calibration"), "test": _rows(back, batches, "test")}
    assert set(choose(rows, origins, 1000)["id"].to_pylist()) == set(back)
    assert set(choose(rows, origins, 10)["id"].to_pylist()) == set(back[:10])
    few = {**rows, "test": rows["test"].slice(1)}
    assert len(choose(few, origins, 1000)) == 300 + ENOUGH - 1


def test_what_was_picked_for_being_hard_is_no_reference():
    from tasks.stages.bundle.reference import ENOUGH, choose

    ids = [f"{number:04x}" for number in range(3 * ENOUGH)]
    table = _rows(ids, ["b-1"] * len(ids), "test")
    picked = (["representative"] * ENOUGH) + ["unknown"] * ENOUGH + ["audit"] * ENOUGH
    table = table.set_column(table.schema.get_field_index("picked"), "picked", pa.array(picked))
    origins = pa.table({"id": ids, "origin": ["import"] * ENOUGH + ["production"] * (2 * ENOUGH)})
    rows = {"calibration": table.slice(0, 0), "test": table}
    assert set(choose(rows, origins, 1000)["id"].to_pylist()) == set(ids[-ENOUGH:])
    old = {"calibration": table.slice(0, 0), "test": table.slice(ENOUGH, ENOUGH)}
    assert len(choose(old, origins, 1000)) == ENOUGH  # an older project may have nothing else


# --- params that are not what made it


@pytest.fixture
def made(tmp_path) -> Path:
    """A finished project of one's own."""
    return Path(shutil.copytree(finished_project(), tmp_path / "made"))


def say(root: Path, old: str, new: str) -> None:
    text = (root / "params.yaml").read_text()
    assert old in text
    (root / "params.yaml").write_text(text.replace(old, new))


def run_again(root: Path) -> None:
    params = load_params(root / "params.yaml")
    stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)


def test_a_model_of_another_resolution_than_params_yaml_says_is_not_bundled(made):
    before = bundle.digest(made / "artifacts/bundle")
    say(made, "resolution: 32", "resolution: 48")
    with pytest.raises(StageInputError, match=r"images\.resolution: the stage train_backbone has 32, params\.yaml 48"):
        run_again(made)
    assert bundle.digest(made / "artifacts/bundle") == before


def test_every_param_that_a_stage_has_run_with_is_held_against_params_yaml(made):
    """As where a default changed with the code: DVC sees no change, because params.yaml does not name the key."""
    params = load_params(made / "params.yaml")
    record_used(made, "clean", {"clean": params.clean, "data": params.data})
    run_again(made)
    say(made, "folds: 5", "folds: 6")
    with pytest.raises(StageInputError, match=r"clean\.folds: the stage clean has 5, params\.yaml 6"):
        run_again(made)


def test_a_bundle_that_records_other_params_than_its_worktree_has_is_refused(made):
    stage.check_params(made / "artifacts/bundle", made / "params.yaml")
    say(made, "resolution: 32", "resolution: 48")
    say(made, "max_ece: 0.1", "max_ece: 0.2")
    with pytest.raises(bundle.BundleDamaged) as error:
        stage.check_params(made / "artifacts/bundle", made / "params.yaml")
    assert "images.resolution: the bundle has 32, params.yaml 48" in str(error.value)
    assert "images.resolution: the bundle's preprocess has 32, params.yaml 48" in str(error.value)
    assert "gate.max_ece: the bundle has 0.1, params.yaml 0.2" in str(error.value)


def test_sections_that_no_stage_reads_may_change_after_the_bundle_was_made(made):
    say(made, "port: 4280", "port: 4999")
    stage.check_params(made / "artifacts/bundle", made / "params.yaml")


def with_skill(root: Path, value: float) -> None:
    file = root / "metrics/evaluate.json"
    skill = {"value": value, "low": 0.35, "high": 0.6, "chance": 1 / 3, "images": 36, "groups": 36, "confidence": 0.95}
    found = json.loads(file.read_text()) | {"skill": skill}
    file.unlink()
    file.write_text(json.dumps(found))


def test_a_model_below_the_floor_says_that_it_is_provisional(made):
    with_skill(made, 0.45)
    run_again(made)
    about, card = bundle.read(made / "artifacts/bundle"), (made / "artifacts/bundle/card.md").read_text()
    assert about["provisional"].startswith("balanced accuracy 0.450 on 36 test images")
    assert "**Provisional:** balanced accuracy 0.450" in card
    assert Predictor(made / "artifacts/bundle").provisional == about["provisional"]

    say(made, "first_model: null", "first_model: {test.balanced_accuracy: 0.4}")  # the user says what is enough
    run_again(made)
    assert bundle.read(made / "artifacts/bundle")["provisional"] is None
    say(made, "first_model: {test.balanced_accuracy: 0.4}", "first_model: null")
    with_skill(made, 0.55)
    run_again(made)
    assert bundle.read(made / "artifacts/bundle")["provisional"] is None
    assert "Provisional" not in (made / "artifacts/bundle/card.md").read_text()


def test_a_bundle_that_says_size_is_read_served_and_checked(folder, made):
    """Bundles of schema 1 call the resolution `size`."""
    file = folder / "bundle.json"
    about = json.loads(file.read_text())
    for images in (about["preprocess"], about["params"]["images"]):
        images["size"] = images.pop("resolution")
    file.unlink()
    file.write_text(json.dumps(about | {"schema": 1}))
    (folder / "MANIFEST.json").unlink()
    bundle.write_manifest(folder)
    assert bundle.read(folder)["preprocess"]["resolution"] == 32
    assert bundle.read(folder)["params"]["images"]["resolution"] == 32
    (answer,) = Predictor(folder).predict(image_bytes("Bag", 1))
    assert answer.label == "Bag"
    stage.check_params(folder, made / "params.yaml")
    say(made, "resolution: 32", "size: 32")
    stage.check_params(folder, made / "params.yaml")
