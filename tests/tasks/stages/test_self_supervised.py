"""Pretraining on images without labels: the loss by hand, what it learns, and how the stage uses it."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file

from tasks.common import artifacts
from tasks.common.params import EmbedParams, ImagesParams
from tasks.common.sections.training import TrainBackboneParams, UnfreezePhases
from tasks.models.pretrained import pretrained_features
from tasks.stages.train_backbone import self_supervised, stage, tuning
from tests.support import small_project
from tests.support.small_project import SIZE
from tests.support.small_training import SCRATCH, examples, setting, small

IMAGES = ImagesParams(resolution=SIZE)
SHORT = SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=1), "self_supervised_epochs": 1})


@pytest.fixture
def root(tmp_path) -> Path:
    made = small_project.copy(tmp_path, "multiclass")
    shutil.rmtree(made / artifacts.FOLDER)
    return made


def test_the_loss_punishes_views_apart_dimensions_that_stay_and_dimensions_that_repeat():
    z = torch.tensor([[1.0, 2.0], [3.0, 2.0]])  # the first dimension has variance 2, the second none
    still = (1 - np.sqrt(1e-4)) / 2
    assert self_supervised.vicreg_loss(z, z).item() == pytest.approx(25 * still)
    moved = z + torch.tensor([1.0, 0.0])
    assert self_supervised.vicreg_loss(z, moved).item() == pytest.approx(25 * still + 25 * 0.5)
    same = torch.tensor([[1.0, 1.0], [3.0, 3.0]])  # covariance 2, twice, squared, over two dimensions, of both views
    assert self_supervised.vicreg_loss(same, same).item() == pytest.approx(2 * (2 * 2**2 / 2))


def test_pretraining_lowers_its_loss_and_changes_the_backbone_the_same_way_twice():
    how, images = setting(SCRATCH, batch_size=18), examples().pixels
    found = []
    for _ in range(2):
        model = small()
        before = model.conv_stem.weight.detach().clone()
        losses = list(self_supervised.pretrain(model, images, how, 2))
        assert losses[-1] < losses[0]
        assert not torch.equal(model.conv_stem.weight, before)
        found.append((losses, model.conv_stem.weight.detach()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_the_stage_pretrains_once_and_starts_from_what_it_learnt(root, capfd):
    def run(params: TrainBackboneParams) -> dict:
        stage.run(root, train_backbone=params, images=IMAGES)
        return load_file(root / artifacts.FOLDER / "weights.safetensors")

    first = run(SHORT)
    assert "pretraining epoch 1/1" in capfd.readouterr().err
    again = run(SHORT)
    assert "pretraining epoch" not in capfd.readouterr().err  # it is in the cache
    assert all(np.array_equal(first[name], again[name]) for name in first)
    plain = run(SHORT.model_copy(update={"self_supervised_epochs": 0}))
    assert any(not np.array_equal(first[name], plain[name]) for name in first)
    first_only = SHORT.model_copy(update={"start": "champion", "start_bundle": "a" * 64})
    assert stage.adapt(root, first_only, IMAGES) is None, "all weights come from the champion"
    (kept,) = (root / ".evergreen/cache/self_supervised").glob("*.safetensors")
    assert not any("classifier" in name for name in load_file(kept))


@pytest.mark.parametrize("changes", [{"rotation": 40.0}, {"augment": ["flip"]}, {"batch_size": 8}], ids=str)
def test_what_decides_the_pretraining_is_in_its_key(changes):
    rows, model = pa.table({"id": ["a"]}), torch.nn.Linear(1, 1)
    params = SHORT.model_copy(update={"augment": ["rotate"]})
    keys = [
        self_supervised._key(rows, one, IMAGES, model)
        for one in (params, params.model_copy(update=changes), params.model_copy(update={"loss": "focal"}))
    ]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2], "the loss is of the training after it"


def test_how_much_trains_is_chosen_on_the_pretrained_weights(root, monkeypatch):
    params = TrainBackboneParams(
        epochs=UnfreezePhases(frozen=0, last=0, all=1), tuning="auto", self_supervised_epochs=1, batch_size=32
    )
    seen = []

    def choose(make, train, *rest):
        seen.append((make().state_dict()["conv_stem.weight"], np.asarray(train.features[:4])))
        return tuning.Choice("linear", {}, {}, 4)

    monkeypatch.setattr(tuning, "choose_tuning", choose)
    stage.run(root, train_backbone=params, images=IMAGES)
    (kept,) = (root / ".evergreen/cache/self_supervised").glob("*.safetensors")
    ((weight, features),) = seen
    assert np.array_equal(weight.numpy(), load_file(kept)["conv_stem.weight"])
    embed = EmbedParams(backbone=params.backbone)
    rows = artifacts.network_rows(root)["train"]
    plain = pretrained_features(root, rows, embed=embed, images=IMAGES)[:4]
    assert np.abs(features - plain).max() > 0.1
