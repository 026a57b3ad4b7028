"""Stage 1 on real small images: phases open what they say, the best epoch is kept, a kill costs one epoch.

Networks are small and untrained (timm builds any name); the packaged pretrained network has one test of the whole
stage. Processes are real: SIGKILL, and two of torchrun's.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from tasks.backbones import timm_models
from tasks.common import artifacts
from tasks.common.errors import DataError, EvergreenError, StageInputError
from tasks.common.files import read_json
from tasks.common.params import ImagesParams, TrainBackboneParams, UnfreezePhases
from tasks.models import stage1
from tasks.stages.train_backbone import checkpoint, phases, processes, trainer
from tasks.stages.train_backbone import stage as train_backbone_stage
from tasks.stages.train_backbone.processes import Ranks
from tests.support import small_project
from tests.support.checkout import ROOT
from tests.support.small_project import CLASSES, SIZE

IMAGES = ImagesParams(resolution=SIZE)
ONE = Ranks(0, 1, torch.device("cpu"))
SCRATCH = TrainBackboneParams(  # 4 epochs of a small network from random weights
    backbone="test_efficientnet",
    pretrained="none",
    epochs=UnfreezePhases(frozen=1, last=2, all=2),
    batch_size=16,
    learning_rate=0.01,
    augment=["crop", "flip", "erase"],
)
STAGED = SCRATCH.model_copy(update={"pretrained": "auto", "epochs": UnfreezePhases(frozen=2, last=2, all=2)})


@pytest.fixture
def root(tmp_path) -> Path:
    made = small_project.copy(tmp_path, "multiclass")
    shutil.rmtree(made / artifacts.FOLDER)
    return made


def examples(seed: int = 0, multilabel: bool = False, width: int = 256) -> trainer.Examples:
    """36 noise images whose class is told by which colour is bright; features (36, width) are made up likewise."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(3), 12)
    pixels = rng.integers(0, 100, (len(targets), 32, 32, 3), np.uint8)
    pixels[np.arange(len(targets)), :, :, targets] += 120
    features = rng.normal(size=(len(targets), width)).astype(np.float16)
    features[np.arange(len(targets)), targets] += 3
    y = np.eye(3, dtype=np.float32)[targets] if multilabel else targets
    return trainer.Examples(pixels, features, y)


def small(name: str = "test_efficientnet") -> torch.nn.Module:
    torch.manual_seed(0)
    return timm_models.create_model(name, "none", 3, 32)


def setting(params: TrainBackboneParams, **changes) -> trainer.Setting:
    params = params.model_copy(update=changes)
    return trainer.Setting(params, 3, (0.5,) * 3, (0.5,) * 3, ONE)


def changed(before: dict, model: torch.nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def fit(model, how, file=None, train=None):
    width = timm_models.feature_dim(model)
    return trainer.fit(model, train or examples(width=width), examples(1, width=width), how, file)


# --- phases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
def test_each_phase_trains_its_own_parts_and_no_others(name):
    model = small(name)
    head = {
        f"{n}.{p}" for n, m in model.named_modules() if m is timm_models.classifier(model) for p in ("weight", "bias")
    }
    parameters = {n for n, _ in model.named_parameters()}
    last = {id(p) for block in timm_models.blocks(model)[-2:] for p in block.parameters()}
    last = {n for n, p in model.named_parameters() if id(p) in last}
    expected = {"frozen": head, "last": head | last, "all": parameters}
    assert head < expected["last"] < parameters
    for phase in phases.plan(STAGED):
        before = checkpoint.cpu_copy(model.state_dict())
        only = STAGED.model_copy(update={"epochs": UnfreezePhases(**{"frozen": 0, "last": 0, "all": 0, phase.name: 1})})
        fit(model, setting(only, weight_decay=0.0))
        moved = changed(before, model)
        assert moved <= expected[phase.name]
        assert len(moved) > 0.9 * len(expected[phase.name])  # a gradient may be exactly 0 somewhere


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_batch_norm_statistics_move_only_where_asked(batch_norm):
    model = small()
    before = checkpoint.cpu_copy(model.state_dict())
    fit(model, setting(STAGED, batch_norm=batch_norm))
    statistics = {name for name, _ in model.named_buffers() if "running" in name}
    moved = changed(before, model)
    assert statistics <= moved if batch_norm == "train" else not statistics & moved
    assert any(name.endswith("bn1.weight") for name in moved)  # its scale trains either way


def test_from_scratch_everything_trains_from_the_first_epoch_and_batch_norm_with_it():
    assert phases.plan(SCRATCH) == [phases.Phase("all", 4, None)]
    model = small()
    before = checkpoint.cpu_copy(model.state_dict())
    fit(model, setting(SCRATCH, epochs=UnfreezePhases(frozen=0, last=0, all=1)))
    assert changed(before, model) >= {name for name, _ in model.named_buffers()}


def test_dropout_is_off_in_closed_parts_and_on_in_open_ones():
    closed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    opened = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    closed.requires_grad_(False)
    phases.set_mode(torch.nn.Sequential(closed, opened), moving_statistics=False)
    assert [module.training for module in closed] == [False, False]
    assert [module.training for module in opened] == [True, True, False]


def test_pretrained_layers_learn_at_a_tenth_of_the_rate_and_only_matrices_decay():
    assert [phases.rate(phase, STAGED) for phase in phases.plan(STAGED)] == pytest.approx([0.01, 0.001, 0.001])
    assert [phases.rate(phase, SCRATCH) for phase in phases.plan(SCRATCH)] == [0.01]
    model = small()
    phases.open_parts(model, phases.plan(STAGED)[-1])
    groups = phases.parameter_groups(model, STAGED)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for group in groups:
        assert all((value.ndim > 1) == (group["weight_decay"] > 0) for value in group["params"])


def test_the_rate_warms_up_and_falls_to_zero_in_the_last_phase_only():
    last, everything = phases.Phase("last", 3, 2), phases.Phase("all", 3, None)
    rates = [phases.rate_factor(everything, step, 300) for step in range(300)]
    assert rates[0] < 0.1
    assert max(rates) == rates[20] == 1
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-3
    assert phases.rate_factor(last, 299, 300) == 1
    assert phases.rate_factor(everything, 0, 1) == 1  # a phase of one step trains too


def test_the_best_epoch_is_the_highest_score_then_the_lower_loss_then_the_later():
    rows = [(1, 0.5, 0.1), (2, 0.9, 0.5), (3, 0.9, 0.4), (4, 0.9, 0.4), (5, 0.8, 0.1)]
    history = [{"epoch": e, "calibration_score": s, "calibration_loss": loss} for e, s, loss in rows]
    assert phases.best_epoch(history) == 4
    assert not phases.phase_over(history, phases.Phase("all", 9, None), patience=2)
    assert phases.phase_over(history, phases.Phase("all", 9, None), patience=1)
    assert phases.phase_over(history, phases.Phase("all", 5, None), patience=0)


# --- the loop ----------------------------------------------------------------------------------------------------


def test_every_image_once_an_epoch_in_even_batches_and_the_same_order_twice():
    for rows in (1, 2, 63, 64, 65, 129, 200):
        params = TrainBackboneParams(batch_size=64)
        batches = trainer.batch_order(rows, params, 3)
        assert sorted(np.concatenate(batches)) == list(range(rows))
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= 64
        assert max(sizes) - min(sizes) <= 1
        assert all(map(np.array_equal, batches, trainer.batch_order(rows, params, 3)))
    assert not np.array_equal(trainer.batch_order(200, params, 4)[0], trainer.batch_order(200, params, 3)[0])


def test_prefetching_keeps_the_order_and_passes_errors_on():
    values = np.arange(40).reshape(20, 2)
    index = [np.array([3, 1]), np.array([0]), np.array([19, 4]), np.array([5])]
    assert [batch.tolist() for batch in trainer.prefetch(index, values)] == [values[rows].tolist() for rows in index]
    with pytest.raises(IndexError):
        list(trainer.prefetch([np.array([0]), np.array([20])], values))


def test_it_learns_and_returns_the_state_of_its_best_epoch():
    model = small()
    best, history = fit(model, setting(SCRATCH, epochs=UnfreezePhases(frozen=0, last=0, all=6)))
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    chosen = history[phases.best_epoch(history) - 1]
    assert chosen["calibration_score"] > 0.6
    other = small()
    other.load_state_dict(best)
    phase = phases.plan(SCRATCH)[0]
    again = trainer.judge(other, examples(seed=1), setting(SCRATCH), phase, 0, np.full(3, 12))
    assert again["calibration_score"] == pytest.approx(chosen["calibration_score"], abs=0.03)  # 1 of 36 images
    assert again["calibration_loss"] == pytest.approx(chosen["calibration_loss"], rel=1e-4)


def test_an_epochs_score_looks_through_the_bias_to_common_classes():
    targets = np.repeat([0, 1], 50)
    counts = np.array([900, 9])
    rng = np.random.default_rng(0)
    logits = np.eye(2)[targets] * 2 + rng.normal(size=(100, 2)) * 0.5
    assert trainer.score(targets, logits, counts) > 0.9
    biased = logits + np.log(counts / counts.sum())
    assert (biased.argmax(axis=1) == 0).mean() > 0.8
    assert trainer.score(targets, biased, counts) > 0.9
    assert np.isfinite(trainer.score(targets, logits, np.array([900, 0])))


def test_several_labels_an_image_train_too():
    how = setting(STAGED, label_smoothing=0.1)
    train, held = examples(multilabel=True), examples(seed=1, multilabel=True)
    best, history = trainer.fit(small(), train, held, how)
    assert all(np.isfinite(list(row.values())[2:]).all() for row in history)
    assert history[-1]["calibration_score"] > 0.8  # chance is 0.33
    assert all(torch.isfinite(value).all() for value in best.values())


def test_patience_ends_a_phase_early():
    useless = replace(examples(), targets=np.random.default_rng(0).integers(0, 3, 36))
    how = setting(SCRATCH, epochs=UnfreezePhases(frozen=0, last=0, all=30), patience=2, learning_rate=1e-9)
    _, history = fit(small(), how, train=useless)
    assert len(history) < 30
    assert len(history) - phases.best_epoch(history) == 2


def test_bfloat16_can_be_asked_for():
    _, history = fit(small(), setting(SCRATCH, precision="bfloat16", epochs=UnfreezePhases(frozen=0, last=0, all=1)))
    assert np.isfinite(history[0]["train_loss"])


def test_a_loss_that_is_not_finite_is_an_error_that_names_epoch_batch_and_rate():
    with pytest.raises(EvergreenError, match=r"epoch 1 .*batch \d of 3, at learning rate 1e\+30: lower"):
        fit(small(), setting(SCRATCH, learning_rate=1e30))


def test_too_little_memory_is_an_error_that_names_the_batch_size():
    class Hungry(torch.nn.Linear):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = small()
    model.classifier = Hungry(timm_models.feature_dim(model), 3)
    with pytest.raises(
        EvergreenError, match=r"ran out of memory with batches of 16 images: lower train_backbone.batch_size"
    ):
        fit(model, setting(STAGED))


# --- resuming ----------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for a kill inside this process; the real SIGKILL has its own test."""


@pytest.mark.parametrize("last", [1, 3, 5, 6])
def test_interrupted_after_any_epoch_it_ends_with_the_same_weights(last, tmp_path, monkeypatch):
    how = setting(STAGED)
    whole, history = fit(small(), how)
    file = tmp_path / "checkpoint.safetensors"

    def stop(name):
        if name == f"train_backbone.epoch.{last}":
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "failpoint", stop)
        with pytest.raises(Stop):
            fit(small(), how, file)
    assert len(checkpoint.load(file).history) == last
    resumed, rows = fit(small(), how, file)
    assert rows == history
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_checkpoint_that_cannot_be_read_is_none(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    assert checkpoint.load(file) is None
    state = {"a": torch.arange(6.0)}
    checkpoint.save(file, checkpoint.Checkpoint([{"epoch": 1}], state, state, {"0/step": torch.tensor(3.0)}))
    content = file.read_bytes()
    kept = checkpoint.load(file)
    assert kept.history == [{"epoch": 1}]
    assert torch.equal(kept.best["a"], state["a"])
    for length in (0, 5, 40, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert checkpoint.load(file) is None
    assert list(tmp_path.iterdir()) == [file]  # no temporary file left


# --- the stage ---------------------------------------------------------------------------------------------------


def run(root: Path, params: TrainBackboneParams) -> dict[str, np.ndarray]:
    train_backbone_stage.run(root, train_backbone=params, images=IMAGES)
    return load_file(root / artifacts.FOLDER / "weights.safetensors")


def checkpoints(root: Path) -> list[Path]:
    return list((root / ".evergreen/cache/training").glob("*/*"))


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
    assert lines[0] == "epoch,phase,learning_rate,train_loss,calibration_loss,calibration_score"
    assert [line.split(",")[1] for line in lines[1:]] == ["frozen"] * 3 + ["last", "all"]
    figures = read_json(root / "metrics/train_backbone.json")
    assert figures["calibration_score"] == max(float(line.split(",")[-1]) for line in lines[1:])
    assert figures["calibration_score"] > 0.6  # three easily told classes, 20 images each; chance is 0.33
    assert checkpoints(root) == []
    assert "all      1/1" in capfd.readouterr().err
    rows = artifacts.training_rows(root)["test"]
    features = stage1.stage1_features(root, rows, IMAGES)
    assert features.shape == (36, 1280)
    assert np.isfinite(features[:]).all()


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
    killed = stage(root, extra={"EVERGREEN_FAILPOINT": "train_backbone.epoch.2"})
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


def test_two_processes_train_the_same_network_as_one(root):
    """Layer norm, no augmentation: nothing then depends on how a batch is shared out, but for rounding."""
    changes = {"backbone": "test_vit", "augment": [], "batch_size": 18, "learning_rate": 1e-4}
    params = SCRATCH.model_copy(update=changes)
    write_params(root, params)
    done = stage(root, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch   4") == 1  # one of them reports
    assert checkpoints(root) == []
    together = load_file(root / artifacts.FOLDER / "weights.safetensors")
    history = np.loadtxt(root / artifacts.FOLDER / "history.csv", delimiter=",", skiprows=1, usecols=(2, 3, 4))
    alone = run(root, params)
    expected = np.loadtxt(root / artifacts.FOLDER / "history.csv", delimiter=",", skiprows=1, usecols=(2, 3, 4))
    np.testing.assert_allclose(history, expected, rtol=1e-3)
    difference = max(np.abs(together[name] - alone[name]).max() for name in alone)
    halves = run(root, params.model_copy(update={"batch_size": 9}))  # what sharing out wrongly would look like
    other = max(np.abs(halves[name] - alone[name]).max() for name in alone)
    assert difference < 0.1 * other


def test_a_long_training_on_cpus_has_one_process_per_core_and_ends_with_the_same_network(root, monkeypatch, capfd):
    """Frozen BatchNorm, no augmentation: nothing then depends on how a batch is shared out, but for rounding."""
    params = STAGED.model_copy(update={"backbone": "tf_efficientnet_lite0", "augment": [], "batch_size": 32})
    assert train_backbone_stage.worker_count(10**5, params.model_copy(update={"batch_norm": "train"})) == 0
    assert train_backbone_stage.worker_count(10**5, params.model_copy(update={"threads": 2})) == 0
    short = params.model_copy(update={"epochs": UnfreezePhases(frozen=1, last=1, all=1)})
    alone = run(root, short)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # wherever the test runs
    assert train_backbone_stage.worker_count(1400, params) == 0  # 4 epochs through the network: not worth their start
    assert train_backbone_stage.worker_count(1600, params) == 1
    monkeypatch.setattr(train_backbone_stage, "MIN_PASSES", 0)
    capfd.readouterr()
    together = run(root, short)
    assert capfd.readouterr().err.count("epoch   3") == 1  # one of them reports
    assert checkpoints(root) == []
    difference = max(np.abs(together[name] - alone[name]).max() for name in alone)
    halves = run(root, short.model_copy(update={"batch_size": 16}))  # what sharing out wrongly would look like
    other = max(np.abs(halves[name] - alone[name]).max() for name in alone)
    assert difference < 0.1 * other


def killed_worker() -> None:
    """A worker that the kernel kills in the middle of the training."""
    with processes.processes() as ranks:
        ranks.barrier()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("work", "how"), [(killed_worker, "SIGKILL"), (partial(os._exit, 3), "exit code 3")])
def test_a_worker_that_dies_ends_the_training_with_an_error_that_says_how(work, how):
    def training() -> None:
        with processes.processes(1, work) as ranks:
            ranks.barrier()
            ranks.sum(torch.ones(3))

    before = multiprocessing.active_children()  # of other tests: joblib's pools
    with pytest.raises(EvergreenError, match=f"2 processes ended: .*{how}.*train_backbone.threads"):
        training()
    assert not set(multiprocessing.active_children()) - set(before)


KILLED = """
import multiprocessing, os, signal
from tasks.stages.train_backbone.processes import processes

def work():
    with processes() as ranks:
        ranks.barrier()
        ranks.barrier()

if __name__ == "__main__":
    with processes(1, work) as ranks:
        ranks.barrier()
        print(multiprocessing.active_children()[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_training_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "killed.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)


def stage(root: Path, *before: str, extra: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", *before, "tasks.stages", "train_backbone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(extra or {})}
    return subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def write_params(root: Path, params: TrainBackboneParams) -> None:
    values = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(values | {"train_backbone": params.model_dump()}))


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
