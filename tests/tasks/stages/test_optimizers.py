"""Optimizers by name, schedules, averages of weights and precision, on arrays and tiny networks."""

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.common.errors import ParamsError
from tasks.stages.train_backbone import averages, checkpoint, optimizers, precision, schedules


def steps(network: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    x, y = torch.linspace(-1, 1, 64).reshape(16, 4), torch.arange(16) % 3
    for _ in range(count):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def tiny(name: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    matrices, others = ([value for value in network.parameters() if (value.ndim > 1) == many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return network, optimizers.create_optimizer(name, groups)


def weights(network: torch.nn.Module) -> np.ndarray:
    return torch.cat([value.detach().flatten() for value in network.parameters()]).numpy()


@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    """Some count steps in plain numbers, some for a whole group."""
    ended = {}
    for name in optimizers.usable_names():
        whole, optimizer = tiny(name)
        begun = weights(whole)
        steps(whole, optimizer, 2)
        state, file = checkpoint.cpu_copy(whole.state_dict()), tmp_path / name
        checkpoint.save(file, checkpoint.Checkpoint([], state, state, checkpoint.optimizer_state(optimizer)))
        steps(whole, optimizer, 2)
        resumed, optimizer = tiny(name)
        saved = checkpoint.load(file)
        resumed.load_state_dict(saved.model)
        checkpoint.restore_optimizer(optimizer, saved.optimizer)
        steps(resumed, optimizer, 2)
        assert np.array_equal(weights(whole), weights(resumed)), name
        assert not np.array_equal(weights(whole), begun), name
        ended[name] = weights(whole)
    assert len({values.tobytes() for values in ended.values()}) > 40  # the name chooses
    assert {"sgd", "adamw", "lion", "lamb", "muon", "rmsprop"} <= ended.keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adamv", "'adamv' is not an optimizer of timm. Expected one of its names, for example adam"),
        ("bnbadam8bit", "'bnbadam8bit' cannot be used: it needs the package bitsandbytes"),
        ("kron", "'kron' cannot be used: its state cannot be kept in a checkpoint"),
    ],
)
def test_another_name_is_an_error_that_says_which_to_take(name, said):
    optimizers.check_name("adamw")
    optimizers.check_name("sgdw")
    with pytest.raises(ParamsError, match=f"train_backbone.optimizer: {said}"):
        optimizers.check_name(name)


# --- schedules ---------------------------------------------------------------------------------------------------


def factors(schedule: str, count: int = 700) -> np.ndarray:
    return np.array([schedules.schedule_factor(schedule, step, count) for step in range(count)])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "warm_restarts"])
def test_each_schedule_warms_up_to_its_peak(schedule):
    found = factors(schedule)
    assert found[:20] == pytest.approx((np.arange(20) + 1) / 21)
    assert found.max() == found[20] == 1
    assert schedules.schedule_factor(schedule, 0, 1) == 1  # a phase of one step trains too


def test_each_schedule_falls_in_its_own_way():
    half = 20 + 340  # of the 680 steps after the warm-up
    assert [factors(name)[half] for name in ("cosine", "linear", "constant")] == pytest.approx([0.5, 0.5, 1])
    assert [factors(name)[-1] for name in ("cosine", "linear", "constant")] == pytest.approx([0, 1 / 680, 1], abs=1e-5)
    quarter = 20 + 170
    assert factors("cosine")[quarter] == pytest.approx(0.5 + 0.5**1.5)
    assert factors("linear")[quarter] == pytest.approx(0.75)


def test_one_cycle_rises_for_three_tenths_and_ends_at_almost_nothing():
    found = factors("one_cycle")
    assert found[0] == pytest.approx(1 / 25)
    assert found[105] == pytest.approx((1 + 1 / 25) / 2)  # half of the rise
    assert found.argmax() == 210
    assert found[210] == 1
    assert found[455] == pytest.approx(0.5, abs=1e-4)
    assert found[-1] < 1e-4
    assert (found > 0).all()


def test_warm_restarts_are_three_cosines_each_twice_as_long():
    found = schedules.warm_restarts
    assert [found(at / 7) for at in (0, 0.5, 1, 2, 3, 5)] == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5])
    assert found(0.999 / 7) < 1e-4
    assert found(2.999 / 7) < 1e-4
    assert found(0.9999) < 1e-4


# --- averages ----------------------------------------------------------------------------------------------------


def test_an_average_forgets_its_first_weights_soon_and_later_keeps_its_decay():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = averages.start_average(layer, 0.5)
    expected = None
    for step, value in enumerate([4.0, 2.0, 8.0, 1.0]):
        layer.weight.data.fill_(value)
        average.update_parameters(layer)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)
    assert averages.decay_at(0.9, 1) == pytest.approx(2 / 11)
    assert averages.decay_at(0.9, 1000) == 0.9
    assert averages.start_average(layer, 0.0) is None
    assert averages.average_state(None) == {}


def test_an_average_goes_on_where_it_was_saved_and_buffers_are_the_networks():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))

    def step() -> None:
        network(torch.randn(4, 2))  # moves the statistics
        with torch.no_grad():
            network[0].weight += 1

    average = averages.start_average(network, 0.9)
    for _ in range(3):
        step()
        average.update_parameters(network)
    state = averages.average_state(average)
    assert not any("running" in name for name in state)
    again = averages.start_average(network, 0.9, state)
    step()
    for one in (average, again):
        one.update_parameters(network)
    assert torch.equal(average.module[0].weight, again.module[0].weight)
    assert not torch.equal(average.module[0].weight, network[0].weight)
    assert torch.equal(again.module[1].running_mean, network[1].running_mean)


# --- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "linear"), [("test_efficientnet", 0.0), ("test_resnet", 0.0), ("test_vit", 0.9)])
def test_linear_layers_tell_a_transformer_from_a_convolutional_network(name, linear):
    model = timm_models.create_model(name, "none", 1000, 32)  # a large classifier does not make it one
    assert precision.linear_share(model) == pytest.approx(linear, abs=0.1)


def test_bfloat16_is_used_where_it_is_asked_for_or_wins(monkeypatch):
    """The choice, not the arithmetic: this machine may have no GPU."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    networks = {name: timm_models.create_model(name, "none", 3, 32) for name in ("test_efficientnet", "test_vit")}
    found = {
        (wanted, name, device): precision.use_bfloat16(wanted, model, torch.device(device))
        for wanted in ("auto", "float32", "bfloat16")
        for name, model in networks.items()
        for device in ("cpu", "cuda")
    }
    assert {key for key, half in found.items() if half} == {
        ("auto", "test_vit", "cuda"),
        *(("bfloat16", name, device) for name in networks for device in ("cpu", "cuda")),
    }
