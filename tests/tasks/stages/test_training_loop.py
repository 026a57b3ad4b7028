"""The training loop on arrays: phases open what they say, the best epoch is kept, a kill costs one epoch.

Networks are small and untrained: timm builds any name.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases
from tasks.stages.train_backbone import checkpoint, feeding, judging, optimisation, phases, progress, sampling, trainer
from tests.support.small_training import SCRATCH, STAGED, examples, setting, small


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


def test_pretrained_layers_learn_at_a_fifth_of_the_rate_and_only_matrices_decay():
    assert [optimisation.rate(phase, STAGED) for phase in phases.plan(STAGED)] == pytest.approx([0.01, 0.002, 0.002])
    assert [optimisation.rate(phase, SCRATCH) for phase in phases.plan(SCRATCH)] == [0.01]
    light = STAGED.model_copy(update={"tuning": "lora"})
    assert [optimisation.rate(phase, light) for phase in phases.plan(light)] == [0.01] * 3
    model = small()
    phases.open_parts(model, phases.plan(STAGED)[-1])
    groups = optimisation.parameter_groups(model, STAGED)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for group in groups:
        assert all((value.ndim > 1) == (group["weight_decay"] > 0) for value in group["params"])


def test_the_rate_warms_up_and_falls_to_zero_in_the_last_phase_only():
    last, everything = phases.Phase("last", 3, 2), phases.Phase("all", 3, None)
    rates = [optimisation.rate_factor(everything, step, 300) for step in range(300)]
    assert rates[0] < 0.1
    assert max(rates) == rates[20] == 1
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-3
    assert optimisation.rate_factor(last, 299, 300) == 1
    assert optimisation.rate_factor(everything, 0, 1) == 1  # a phase of one step trains too


def history(*scores: float, error: float = 0.05) -> list[dict]:
    return [
        {"epoch": number, "calibration_score": score, "calibration_loss": 0.1, "calibration_error": error}
        for number, score in enumerate(scores, 1)
    ]


def test_the_kept_epoch_is_the_latest_that_is_not_clearly_worse_than_the_best():
    assert phases.best_epoch(history(0.5, 0.95, 0.9, 0.86)) == 4  # within two errors of 0.95
    assert phases.best_epoch(history(0.5, 0.95, 0.9, 0.84)) == 3
    assert phases.best_epoch(history(0.5, 0.95, 0.84, 0.2)) == 2
    assert phases.best_epoch(history(0.5, 0.95, 0.94, error=0.0)) == 2


def test_patience_counts_epochs_since_the_best_score():
    done = history(0.5, 0.9, 0.95, 0.95, 0.9)  # the loss is the same: the later of equal scores
    assert not phases.phase_over(done, phases.Phase("all", 9, None), patience=2)
    assert phases.phase_over(done, phases.Phase("all", 9, None), patience=1)
    assert phases.phase_over(done, phases.Phase("all", 5, None), patience=0)


# --- the loop ----------------------------------------------------------------------------------------------------


def test_every_image_once_an_epoch_in_even_batches_and_the_same_order_twice():
    def batches_of(rows, epoch):
        return sampling.epoch_batches(np.zeros(rows, np.int64), 1, TrainBackboneParams(batch_size=64), epoch, 0.0)

    for rows in (1, 2, 63, 64, 65, 129, 200):
        batches = batches_of(rows, 3)
        assert sorted(np.concatenate(batches)) == list(range(rows))
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= 64
        assert max(sizes) - min(sizes) <= 1
        assert all(map(np.array_equal, batches, batches_of(rows, 3)))
    assert not np.array_equal(batches_of(200, 4)[0], batches_of(200, 3)[0])


def test_prefetching_keeps_the_order_and_passes_errors_on():
    values = np.arange(40).reshape(20, 2)
    index = [np.array([3, 1]), np.array([0]), np.array([19, 4]), np.array([5])]
    assert [batch.tolist() for batch in feeding.prefetch(index, values)] == [values[rows].tolist() for rows in index]
    with pytest.raises(IndexError):
        list(feeding.prefetch([np.array([0]), np.array([20])], values))


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
    again = judging.judge(other, examples(seed=1), setting(SCRATCH), phase, 0, np.full(3, 12))
    assert again["calibration_score"] == pytest.approx(chosen["calibration_score"], abs=0.03)  # 1 of 36 images
    assert again["calibration_loss"] == pytest.approx(chosen["calibration_loss"], rel=1e-4)


def test_an_epochs_score_looks_through_the_bias_to_common_classes():
    targets = np.repeat([0, 1], 50)
    counts = np.array([900, 9])
    rng = np.random.default_rng(0)
    logits = np.eye(2)[targets] * 2 + rng.normal(size=(100, 2)) * 0.5
    assert judging.score(targets, logits, counts)[0] > 0.9
    biased = logits + np.log(counts / counts.sum())
    assert (biased.argmax(axis=1) == 0).mean() > 0.8
    assert judging.score(targets, biased, counts)[0] > 0.9
    assert np.isfinite(judging.score(targets, logits, np.array([900, 0]))).all()


def test_the_error_of_a_score_shrinks_with_the_number_of_images():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 4000)
    logits = np.eye(4)[targets] + rng.normal(size=(4000, 4))
    counts = np.bincount(targets)

    def scores(rows: int) -> np.ndarray:
        drawn = [rng.choice(4000, rows, replace=False) for _ in range(100)]
        return np.array([judging.score(targets[part], logits[part], counts) for part in drawn])

    for rows in (40, 160):
        found = scores(rows)
        assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.25)
    several = judging.score(np.eye(4)[targets[:160]], logits[:160], counts)
    assert 0.005 < several[1] < 0.1


def test_the_classifier_starts_as_the_best_linear_one_on_the_pretrained_features():
    model, train = small(), examples()
    trainer.start_from_probe(model, train, 3)
    x = torch.from_numpy(np.asarray(train.features, np.float32))
    with torch.inference_mode():
        assert (timm_models.classifier(model)(x).argmax(dim=1).numpy() == train.targets).all()
    other = small()
    _, rows = fit(other, setting(STAGED, epochs=UnfreezePhases(frozen=1, last=0, all=0), learning_rate=1e-9))
    assert rows[0]["train_loss"] < 0.5  # of the frozen phase, on the same features; ln 3 without the probe


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
    best = max(history, key=lambda row: (row["calibration_score"], -row["calibration_loss"]))
    assert len(history) - best["epoch"] == 2


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


def test_the_first_batches_say_how_long_the_training_takes_and_long_epochs_that_they_go_on():
    plan = [phases.Phase("frozen", 2, 0), phases.Phase("last", 1, 2), phases.Phase("all", 5, None)]
    said: list[str] = []
    now = [0.0]
    shown = progress.Progress(plan, 1000, said.append, lambda: now[0])
    shown.epoch(1, plan[0], 1)(500)
    seen = shown.epoch(3, plan[1], 0)
    for second in range(1, 11):  # 50 images a second
        now[0] = second
        seen(50 * second)
    # 750 of this epoch, and 5 epochs that cost 1 / 0.6 as much
    assert said == ["epoch   3  last   25% at 50 images/s, about 3 min left"]
    now[0] += 60
    seen(550)
    assert len(said) == 2
    seen(1000)  # the epoch's own line follows
    assert len(said) == 2


def test_a_training_says_in_its_first_epoch_how_long_it_will_take(monkeypatch, capfd):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    fit(small(), setting(SCRATCH))
    assert re.search(r"epoch   1  all    33% at [\d,]+ images/s, about \d+ s left", capfd.readouterr().err)


# --- resuming ----------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for a kill inside this process; the real SIGKILL has its own test."""


@pytest.mark.parametrize("last", [1, 3, 5, 6])
def test_interrupted_after_any_epoch_it_ends_with_the_same_weights(last, tmp_path, monkeypatch):
    random = {"augment": ["crop", "rand_augment"], "rare_augment": ["rotate"], "mix": ["mixup", "cutmix"]}
    how = setting(STAGED, loss="ldam_drw", sampler="progressive", **random)  # these two look at progress
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


def test_a_kill_between_the_checkpoint_and_its_seal_leaves_the_epoch_before(tmp_path, monkeypatch):
    file, state = tmp_path / "checkpoint.safetensors", {"a": torch.arange(6.0)}

    def saved(epoch: int) -> None:
        checkpoint.save(file, checkpoint.Checkpoint([{"epoch": epoch}], state, state, {}))

    saved(1)
    saved(2)
    seal = file.with_suffix(".sha256")
    before = seal.read_text()
    assert len(list(tmp_path.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "drop", lambda path: None)  # the kill comes before it
        saved(3)
    seal.write_text(before)
    assert checkpoint.load(file).history == [{"epoch": 2}]
    saved(4)
    assert checkpoint.load(file).history == [{"epoch": 4}]


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
