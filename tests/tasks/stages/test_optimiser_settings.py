"""Settings of the optimiser change the training as they say, and survive an interruption."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError, ParamsError
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases
from tasks.stages.train_backbone import checkpoint, checks, optimisation, phases, trainer
from tests.support.small_training import SCRATCH, STAGED, examples, setting, small

EVERYTHING = phases.Phase("all", 1, None)
ONE_EPOCH = UnfreezePhases(frozen=0, last=0, all=1)


def trained(params: TrainBackboneParams, name: str = "test_efficientnet", **changes) -> dict[str, torch.Tensor]:
    """The state of a small network after one epoch with `changes`."""
    how = setting(params, epochs=ONE_EPOCH, **changes)
    torch.manual_seed(0)
    model = timm_models.create_model(name, "none", 3, 32, how.params.drop_path)
    width = timm_models.feature_dim(model)
    state, _ = trainer.fit(model, examples(width=width), examples(1, width=width), how)
    return state


def apart(one: dict, other: dict) -> float:
    """Largest difference between two states."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"schedule": "one_cycle"},
        {"schedule": "constant"},
        {"layer_decay": 0.5},
        {"head_rate": 3.0},
        {"ema": 0.9},
        {"accumulate": 2},
        {"drop_path": 0.5},
    ],
    ids=str,
)
def test_each_setting_changes_the_training(changes):
    name = "test_vit" if "drop_path" in changes else "test_efficientnet"  # all its branches are residual
    assert apart(trained(SCRATCH, name, **changes), trained(SCRATCH, name)) > 1e-5
    assert apart(trained(SCRATCH, name, **changes), trained(SCRATCH, name, **changes)) == 0


# --- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
def test_the_rate_decays_by_layer_from_the_classifier_to_the_stem(name):
    model = small(name)
    shares = optimisation.layer_rates(model, 0.5)
    assert shares.keys() == dict(model.named_parameters()).keys()
    stem = next(name for name in shares if name.startswith(("conv_stem", "conv1", "patch_embed")))
    blocks = [name for name in shares if name.startswith(("blocks.", "layer"))]
    assert shares[stem] == min(shares.values())
    assert [shares[name] for name in blocks] == sorted(shares[name] for name in blocks)
    assert shares[blocks[-1]] == 0.5
    last = next(n for n, m in model.named_modules() if m is timm_models.classifier(model))
    assert shares[f"{last}.weight"] == 1
    numbers = timm_models.layer_numbers(model)
    deepest = max(numbers.values())
    assert shares == {name: 0.5 ** (deepest - number) for name, number in numbers.items()}
    assert set(optimisation.layer_rates(model, 1.0).values()) == {1.0}


def test_each_group_steps_at_its_share_of_the_rate():
    """One step of plain gradient descent moves a weight by its rate times its gradient."""
    params = STAGED.model_copy(
        update={"optimizer": "sgd", "layer_decay": 0.5, "head_rate": 4.0, "weight_decay": 0.0, "augment": []}
    )
    params = params.model_copy(update={"epochs": ONE_EPOCH, "batch_size": 36, "learning_rate": 50.0})
    moved = {}
    for changes in ({}, {"layer_decay": 1.0, "head_rate": 1.0}):
        model = small()
        phases.open_parts(model, EVERYTHING)
        before = checkpoint.cpu_copy(model.state_dict())
        how = setting(params, **changes)
        optimizer = optimisation.optimizer_of(model, how.params)
        trainer.train_epoch(model, optimizer, examples(), how, EVERYTHING, 1, 0)
        moved[len(changes)] = {name: (value - before[name]) for name, value in model.named_parameters()}
    shares = optimisation.layer_rates(small(), 0.5)
    shares |= {"classifier.weight": 4.0, "classifier.bias": 4.0}
    for name in ("conv_stem.weight", "blocks.2.0.conv_exp.weight", "classifier.weight", "classifier.bias"):
        expected = moved[2][name] * shares[name]
        assert float(expected.detach().abs().max()) > 1e-6
        np.testing.assert_allclose(moved[0][name].detach(), expected.detach(), rtol=0.02, atol=1e-7)


# --- accumulation ------------------------------------------------------------------------------------------------


def test_accumulated_batches_step_as_one_large_batch():
    """Layer norm and no augmentation: then nothing depends on the size of a batch. The last step has fewer batches."""
    plain = SCRATCH.model_copy(update={"augment": [], "optimizer": "sgd", "learning_rate": 0.05})
    large = trained(plain, "test_vit", batch_size=24)  # 36 images: batches of 18 and 18
    halves = trained(plain, "test_vit", batch_size=9, accumulate=2)
    assert apart(large, halves) < 1e-6
    assert apart(large, trained(plain, "test_vit", batch_size=9)) > 1e-4
    uneven = trained(plain, "test_vit", batch_size=12, accumulate=2)  # 24 images, then 12
    assert apart(uneven, trained(plain, "test_vit", batch_size=12)) > 1e-4
    assert optimisation.steps_of(3, 2) == 2


def test_the_schedule_counts_steps_not_batches():
    how = setting(SCRATCH, accumulate=2, batch_size=6, schedule="linear", epochs=ONE_EPOCH)
    model = small()
    phases.open_parts(model, EVERYTHING)
    rates = []
    optimizer = optimisation.optimizer_of(model, how.params)

    def note_rate() -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    row = trainer.train_epoch(model, optimizer, examples(), how, EVERYTHING, 1, 0, stepped=note_rate)
    assert rates == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3])
    assert row["learning_rate"] == pytest.approx(0.01 / 3)


# --- the average -------------------------------------------------------------------------------------------------


def test_the_average_of_the_weights_is_judged_and_kept():
    """With a decay near 1, each step moves the kept weights by little; the network itself trains as before."""
    how = setting(SCRATCH, ema=0.5)
    model = small()
    start = checkpoint.cpu_copy(model.state_dict())
    kept, history = trainer.fit(model, examples(), examples(1), how)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    itself = checkpoint.cpu_copy(model.state_dict())
    trainer.fit(other := small(), examples(), examples(1), setting(SCRATCH))
    assert apart(itself, checkpoint.cpu_copy(other.state_dict())) == 0
    weights = [name for name, _ in model.named_parameters()]
    assert apart({name: kept[name] for name in weights}, itself) > 1e-4
    assert apart({name: kept[name] for name in weights}, start) > 1e-4
    again = small()
    again.load_state_dict(kept)
    row = history[phases.best_epoch(history) - 1]
    judged = trainer.judge(again, examples(1), how, EVERYTHING, 0, np.full(3, 12))
    assert judged["calibration_loss"] == pytest.approx(row["calibration_loss"], rel=1e-4)


# --- interruption ------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for a kill inside this process."""


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"optimizer": "nadamlegacy", "accumulate": 2}], ids=str)
def test_interrupted_with_more_state_it_ends_with_the_same_weights(changes, tmp_path, monkeypatch):
    how = setting(STAGED, **changes)
    whole, history = trainer.fit(small(), examples(), examples(1), how)
    for last in (1, 5):  # within the first phase and within the last
        file = tmp_path / f"{last}.safetensors"

        def stop(name, last=last):
            if name == f"train_backbone.epoch.{last}":
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "failpoint", stop)
            with pytest.raises(Stop):
                trainer.fit(small(), examples(), examples(1), how, file)
        resumed, rows = trainer.fit(small(), examples(), examples(1), how, file)
        assert rows == history
        assert apart(resumed, whole) == 0


# --- what cannot be done -----------------------------------------------------------------------------------------


def test_a_network_without_residual_branches_cannot_drop_them():
    with pytest.raises(EvergreenError, match=r"vgg11 has no residual branches .*drop_path: 0 \(found 0.1"):
        timm_models.create_model("vgg11", "none", 3, 32, 0.1)
    model = timm_models.create_model("test_vit", "none", 3, 32, 0.5)
    dropped = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert dropped == sorted(dropped)
    assert 0 < dropped[-1] <= 0.5


def test_an_unknown_optimizer_is_refused_before_training():
    params = TrainBackboneParams(optimizer="adamv")
    with pytest.raises(ParamsError, match="'adamv' is not an optimizer of timm"):
        checks.check({}, ["a", "b"], "multiclass", params)


@pytest.mark.parametrize(("wanted", "half"), [("bfloat16", True), ("float32", False), ("auto", False)])
def test_precision_is_that_of_the_arithmetic(wanted, half):
    seen = []
    model = small()
    model.conv_stem.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    how = setting(SCRATCH, precision=wanted, epochs=ONE_EPOCH)
    trainer.fit(model, replace(examples(), features=None), examples(1), how)
    assert set(seen) == {torch.bfloat16 if half else torch.float32}
