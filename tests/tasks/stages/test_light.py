"""Light fine-tuning: few parameters train, and plain weights come out."""

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError, ParamsError
from tasks.common.sections.training import UnfreezePhases
from tasks.models.extended import Structure, extend
from tasks.stages.train_backbone import checkpoint, checks, light, phases, trainer
from tests.support.small_training import SCRATCH, STAGED, examples, setting, small

LINEAR = STAGED.model_copy(update={"tuning": "linear", "epochs": UnfreezePhases(frozen=0, last=1, all=2)})


class Stop(Exception):
    """Stands for a kill inside this process."""


def fit(model, how, file=None):
    width = 64 if isinstance(model, type(small("test_vit"))) else 256
    return trainer.fit(model, examples(width=width), examples(1, width=width), how, file)


def test_the_change_of_low_rank_is_a_hand_computed_product():
    weight = torch.zeros(2, 3)
    down, up = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    assert light.changed(weight, down, up).tolist() == [[1, 2, 3], [-1, -2, -3]]
    kernels = torch.ones(2, 3, 1, 1)
    assert light.changed(kernels, down, up)[1, :, 0, 0].tolist() == [0, -1, -2]
    untouched = {"fc.weight": weight, "fc.bias": torch.zeros(2)}
    state = {f"fc{light.DOWN}": down, f"fc{light.UP}": up, "fc.bias": torch.ones(2)}
    merged = light.merge(untouched, state)
    assert merged.keys() == untouched.keys()
    assert merged["fc.weight"].tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert merged["fc.bias"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
@pytest.mark.parametrize("tuning", ["lora", "bitfit", "norm"])
def test_each_tuning_changes_its_own_parameters_and_no_others(name, tuning):
    model = small(name)
    before = checkpoint.cpu_copy(model.state_dict())
    only = UnfreezePhases(frozen=0, last=0, all=1)
    best, _ = fit(model, setting(STAGED, tuning=tuning, epochs=only))
    assert best.keys() == before.keys() == model.state_dict().keys()
    moved = {key for key in best if not torch.equal(best[key], before[key])}
    last = next(key for key, module in model.named_modules() if module is timm_models.classifier(model))
    own = {f"{last}.weight", f"{last}.bias"}
    assert own <= moved
    modules = dict(model.named_modules())
    kinds = {key: type(modules[key.rpartition(".")[0]]).__name__ for key in moved - own if "." in key}
    assert kinds, "something of the backbone trains"
    if tuning == "bitfit":
        assert {key.rpartition(".")[2] for key in kinds} == {"bias"}
    elif tuning == "norm":
        assert all("Norm" in kind for kind in kinds.values())
    else:
        assert {key.rpartition(".")[2] for key in kinds} == {"weight"}
        assert not any("Norm" in kind for kind in kinds.values())
        change = best[next(iter(kinds))].flatten(1) - before[next(iter(kinds))].flatten(1)
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= light.RANK


def test_linear_trains_the_classifier_alone_for_all_epochs():
    assert phases.plan(LINEAR) == [phases.Phase("frozen", 3, 0)]
    model = small("test_vit")
    before = checkpoint.cpu_copy(model.state_dict())
    best, _ = fit(model, setting(LINEAR))
    assert {name for name in best if not torch.equal(best[name], before[name])} == {"head.weight", "head.bias"}


def test_merged_weights_give_the_answers_of_the_network_that_trained():
    model = small("test_vit")
    params = STAGED.model_copy(update={"tuning": "lora"})
    untouched = checkpoint.cpu_copy(model.state_dict())
    light.attach(model, params)
    phases.open_parts(model, phases.plan(params)[-1])
    light.close_others(model, params)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model.eval()(x)
        plain = small("test_vit")
        plain.load_state_dict(light.merge(untouched, trainer._touched(model)))
        assert torch.allclose(plain(x), expected, atol=1e-5)
        assert not torch.allclose(small("test_vit")(x), expected, atol=1e-2)
        light.detach(model)
        assert set(model.state_dict()) == set(untouched)


def test_interrupted_a_light_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    how = setting(STAGED, tuning="lora", epochs=UnfreezePhases(frozen=0, last=1, all=2))
    whole, history = fit(small("test_vit"), how)
    file = tmp_path / "checkpoint.safetensors"

    def stop(name):
        if name == "train_backbone.epoch.2":
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "failpoint", stop)
        with pytest.raises(Stop):
            fit(small("test_vit"), how, file)
    assert file.stat().st_size < 1_000_000, "changes of low rank, not the weights that they change"
    resumed, rows = fit(small("test_vit"), how, file)
    assert rows == history
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("structure", [Structure("mlp"), Structure("mlp", "bilinear", True)], ids=str)
def test_an_extended_network_trains_in_every_phase(structure):
    model = extend(small(), structure, 32)
    before = checkpoint.cpu_copy(model.state_dict())
    frozen = 1 if structure.pooling == "average" else 0
    only = UnfreezePhases(frozen=frozen, last=1, all=1)
    best, history = fit(model, setting(STAGED, epochs=only))
    assert [row["phase"] for row in history] == ["frozen"] * frozen + ["last", "all"]
    for name in ("extra_hidden.0.weight", *(["extra_pairs.reduce.weight"] if not frozen else [])):
        assert not torch.equal(best[name], before[name])
    assert np.isfinite(history[-1]["train_loss"])


def test_a_network_without_such_parameters_and_random_weights_are_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2))
    model.get_classifier = lambda: model[1]
    with pytest.raises(EvergreenError, match="tuning is norm, but test_efficientnet has none"):
        light.close_others(model, STAGED.model_copy(update={"tuning": "norm"}))
    with pytest.raises(ParamsError, match="tuning: lora trains few parameters of a pretrained network"):
        checks.check({}, [], "multiclass", SCRATCH.model_copy(update={"tuning": "lora"}))
    with pytest.raises(ParamsError, match=r"epochs\.frozen is 2 and tuning is full, but with pooling: bilin"):
        checks.check({}, [], "multiclass", STAGED.model_copy(update={"pooling": "bilinear"}))
    with pytest.raises(ParamsError, match=r"tuning is linear, but with pooling: bilinear"):
        checks.check({}, [], "multiclass", LINEAR.model_copy(update={"pooling": "bilinear"}))
