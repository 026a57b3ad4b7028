"""The stage train_backbone on real small images: resuming, and what it trains on.

One test fine-tunes the packaged pretrained network. The process that is killed is real.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from tasks.backbones import timm_models
from tasks.common import artifacts
from tasks.common.errors import DataError, EvergreenError, ParamsError, StageInputError
from tasks.common.files import read_json
from tasks.common.params import ImagesParams, TrainBackboneParams, TrainHeadParams
from tasks.common.sections.training import UnfreezePhases
from tasks.models import stage1
from tasks.models.head import read_head
from tasks.stages import train_head
from tasks.stages.train_backbone import stage as train_backbone_stage
from tests.support import small_project
from tests.support.small_project import CLASSES, SIZE
from tests.support.small_training import SCRATCH, checkpoints, small, stage_command, stage_environment, write_params

IMAGES = ImagesParams(resolution=SIZE)


@pytest.fixture
def root(tmp_path) -> Path:
    made = small_project.copy(tmp_path, "multiclass")
    shutil.rmtree(made / artifacts.FOLDER)
    return made


# --- the stage ---------------------------------------------------------------------------------------------------


def run(root: Path, params: TrainBackboneParams) -> dict[str, np.ndarray]:
    train_backbone_stage.run(root, train_backbone=params, images=IMAGES)
    return load_file(root / artifacts.FOLDER / "weights.safetensors")


def test_the_packaged_network_is_fine_tuned_and_loads_again(root, capfd):
    params = TrainBackboneParams(epochs=UnfreezePhases(frozen=3, last=1, all=1), batch_size=32)
    weights = run(root, params)
    model, about = stage1.load(root)
    assert about["classes"] == CLASSES
    assert (about["backbone"], about["task"], about["resolution"], about["fit"]) == (
        "tf_efficientnet_lite0",
        "multiclass",
        SIZE,
        "squash",
    )
    assert weights["classifier.weight"].shape == (3, about["feature_dim"]) == (3, 1280)
    assert not model.training
    lines = (root / artifacts.FOLDER / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,phase,learning_rate,train_loss,calibration_loss,calibration_score,calibration_error"
    assert [line.split(",")[1] for line in lines[1:]] == ["frozen"] * 3 + ["last", "all"]
    figures = read_json(root / "metrics/train_backbone.json")
    assert figures["calibration_score"] == float(lines[figures["best_epoch"]].split(",")[-2])
    assert figures["calibration_score"] > 0.6  # three easily told classes, 20 images each; chance is 0.33
    assert checkpoints(root) == []
    assert "all      1/1" in capfd.readouterr().err
    rows = artifacts.training_rows(root)["test"]
    features = stage1.stage1_features(root, rows, IMAGES)
    assert features.shape == (36, 1280)
    assert np.isfinite(features[:]).all()


def test_a_lightly_tuned_and_extended_network_is_read_by_later_stages(root):
    """Every setting of the network's shape and of what trains, in one training: a later stage knows none of them."""
    params = TrainBackboneParams(
        epochs=UnfreezePhases(frozen=0, last=0, all=1),
        batch_size=32,
        tuning="norm",
        head="mlp",
        pooling="bilinear",
        attention_crop=True,
    )
    weights = run(root, params)
    about = stage1.load(root)[1]
    found = [about[key] for key in ("tuning", "head", "pooling", "attention_crop", "feature_dim")]
    assert found == ["norm", "mlp", "bilinear", True, 512]
    assert weights["extra_hidden.0.weight"].shape == (512, 1280 + 528)
    assert "extra_crop.smallest" in weights
    pretrained = timm_models.packaged_weights()
    assert np.array_equal(weights["conv_stem.weight"], pretrained["conv_stem.weight"].numpy())
    assert not np.array_equal(weights["bn1.weight"], pretrained["bn1.weight"].numpy())
    train_head.run(root, train_head=TrainHeadParams(), images=IMAGES)
    rows = artifacts.training_rows(root)["test"]
    features = stage1.stage1_features(root, rows, IMAGES)
    assert features.shape[1] == len(read_head(root).weight[0])
    assert np.isfinite(features[:]).all()


def test_a_pruned_network_is_trained_and_read_by_later_stages(root):
    params = TrainBackboneParams(epochs=UnfreezePhases(frozen=1, last=0, all=1), batch_size=32, prune=0.5)
    weights = run(root, params)
    assert weights["blocks.1.0.conv_pw.weight"].shape == (48, 16, 1, 1)  # of 96
    assert stage1.load(root)[1]["prune"] == 0.5
    train_head.run(root, train_head=TrainHeadParams(), images=IMAGES)
    assert "probe" not in read_json(root / "artifacts/train_head/head.json")  # the whole network would come back
    features = stage1.stage1_features(root, artifacts.training_rows(root)["test"], IMAGES)
    assert np.isfinite(features[:]).all()
    with pytest.raises(ParamsError, match="self_supervised_epochs is 1"):
        run(root, params.model_copy(update={"self_supervised_epochs": 1}))


def test_the_choice_of_what_trains_is_made_from_data_and_recorded(root, capfd):
    params = TrainBackboneParams(epochs=UnfreezePhases(frozen=0, last=0, all=1), batch_size=32, tuning="auto")
    run(root, params)
    about = stage1.load(root)[1]
    choice = about["tuning_trials"]
    assert about["tuning"] == choice["tuning"] in ("linear", "lora", "full")
    assert choice["images"] == 60
    assert f"-> {about['tuning']}" in capfd.readouterr().err
    phase = (root / artifacts.FOLDER / "history.csv").read_text().splitlines()[1].split(",")[1]
    assert phase == ("frozen" if about["tuning"] == "linear" else "all")


def test_a_multi_label_project_trains_too(tmp_path):
    root = small_project.copy(tmp_path, "multilabel")
    run(root, SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=1)}))
    assert stage1.load(root)[1]["task"] == "multilabel"
    assert read_json(root / "metrics/train_backbone.json")["score"] == "mean_average_precision"


def test_the_outputs_are_the_same_each_time(root):
    first = run(root, SCRATCH)
    files = [
        "artifacts/train_backbone/history.csv",
        "artifacts/train_backbone/model.json",
        "metrics/train_backbone.json",
    ]
    before = [(root / file).read_bytes() for file in files]
    second = run(root, SCRATCH)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert [(root / file).read_bytes() for file in files] == before


def test_killed_by_sigkill_it_goes_on_and_ends_as_if_nothing_had_happened(root, capfd):
    write_params(root, SCRATCH)
    environment = stage_environment({"EVERGREEN_FAILPOINT": "train_backbone.epoch.2"})
    killed = subprocess.run(stage_command(), cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (root / artifacts.FOLDER).exists()
    assert len(checkpoints(root)) == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process that was killed
    try:
        resumed = run(root, SCRATCH)
        assert "continuing after epoch 2" in capfd.readouterr().err
        whole = run(root, SCRATCH)
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert checkpoints(root) == []


# --- what it trains on -------------------------------------------------------------------------------------------


def rewrite_labels(root: Path, change) -> None:
    file = root / "artifacts/clean/labels.parquet"
    table = pa.Table.from_pylist([change(row) for row in pq.read_table(file).to_pylist()], pq.read_schema(file))
    file.unlink()
    pq.write_table(table, file)


def test_dropped_rows_are_left_out_and_relabelled_ones_carry_their_new_label(root):
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet")
    train = accepted.filter(pc.equal(accepted["split"], "train"))["id"].to_pylist()
    dropped, relabelled = train[0], train[1]

    def change(row):
        if row["id"] == dropped:
            return row | {"action": "drop"}
        return row | ({"action": "relabel", "label": "Bag"} if row["id"] == relabelled else {})

    rewrite_labels(root, change)
    rows = artifacts.training_rows(root)
    labels = dict(zip(rows["train"]["id"].to_pylist(), rows["train"]["label"].to_pylist(), strict=True))
    assert list(labels) == train[1:]  # canonical order
    assert labels[relabelled] == "Bag"
    assert {split: len(table) for split, table in rows.items()} == {
        "train": len(train) - 1,
        "calibration": 48,
        "test": 36,
        "hard": 0,
    }


def test_labels_of_another_run_and_missing_files_are_errors_that_name_the_stage(root):
    rewrite_labels(root, lambda row: row | {"id": "0" * 64 if row["split"] == "hard" else row["id"][::-1]})
    with pytest.raises(StageInputError, match=r"144 samples .* not in .*Run the stage clean again"):
        artifacts.training_rows(root)
    (root / "artifacts/clean/labels.parquet").unlink()
    with pytest.raises(StageInputError, match="run the stage clean first"):
        train_backbone_stage.run(root, train_backbone=SCRATCH, images=IMAGES)


def test_a_split_without_labels_is_refused(root):
    rewrite_labels(root, lambda row: row | {"action": "drop" if row["split"] == "calibration" else "keep"})
    with pytest.raises(DataError, match="calibration split has 0 labelled images"):
        train_backbone_stage.run(root, train_backbone=SCRATCH, images=IMAGES)


def test_a_loss_for_several_labels_is_refused_before_training(root):
    with pytest.raises(ParamsError, match=r"train_backbone.loss: asymmetric"):
        run(root, SCRATCH.model_copy(update={"loss": "asymmetric"}))


def test_no_epochs_at_all_are_refused(root):
    with pytest.raises(EvergreenError, match=r"train_backbone.epochs"):
        run(root, SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=3, last=0, all=0)}))


def test_new_data_order_or_parameters_never_continue_an_old_training(root):
    rows, model = artifacts.training_rows(root), small()

    def key(rows=rows, params=SCRATCH, images=IMAGES, classes=CLASSES, model=model):
        return train_backbone_stage.run_key(rows, classes, params, images, model)

    train = rows["train"]
    other = small()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    variants = [
        key(),
        key(rows | {"train": train.slice(1)}),
        key(rows | {"train": train.take(list(range(len(train)))[::-1])}),
        key(params=SCRATCH.model_copy(update={"seed": 1})),
        key(images=ImagesParams(resolution=SIZE, fit="pad")),
        key(classes=CLASSES[::-1]),
        key(model=other),
    ]
    assert key() == variants[0]
    assert len(set(variants)) == len(variants)
