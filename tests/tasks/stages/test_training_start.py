"""Where stage 1 starts: the champion's weights, moved back, its classifier's rows, and the choice among them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.backbones import timm_models
from tasks.common import artifacts
from tasks.common.errors import ParamsError, StageInputError
from tasks.common.files import read_json, write_json
from tasks.common.params import ImagesParams
from tasks.common.paths import cache_dir
from tasks.common.sections.training import TrainBackboneParams, UnfreezePhases
from tasks.models import stage1
from tasks.releases.bundle import digest as bundle_digest
from tasks.stages.train_backbone import stage, start, trainer, warm
from tasks.stages.train_backbone.processes import Ranks
from tests.support import small_project
from tests.support.small_training import SCRATCH, examples, setting, small

DIGEST = "a" * 64
CLASSES = ["a", "b", "c"]


def test_shrinking_keeps_a_share_of_the_displacement():
    champion = {"w": torch.tensor([[2.0, 4.0]]), "seen": torch.tensor(7)}
    fresh = {"w": torch.tensor([[1.0, 0.0]]), "seen": torch.tensor(0)}
    found = start.shrink_perturb(champion, fresh, 0.5)
    assert found["w"].tolist() == [[1.5, 2.0]]
    assert int(found["seen"]) == 7  # a counter has no share


def test_dash_keeps_what_points_where_the_loss_falls():
    champion = {"w": torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), "b": torch.tensor([2.0])}
    fresh = {"w": torch.zeros(3, 2), "b": torch.zeros(1)}
    slopes = {"w": torch.tensor([[-3.0, 0.0], [3.0, 0.0], [-1.0, 1.0]]), "b": torch.tensor([1.0])}
    found = start.dash(champion, fresh, slopes, least=0.3)
    assert found["w"][:, 0].tolist() == pytest.approx([2.0, 0.6, 2 * 0.5**0.5])
    assert found["b"].tolist() == [2.0]  # biases and norms stay


def test_gradients_are_averaged_with_the_newest_weighing_most():
    one, two = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    assert start.moving_average(iter([one, two]), 0.25)["w"].tolist() == pytest.approx([0.75 * 1 + 0.25 * 3])


def test_rows_of_known_classes_are_kept_in_any_order():
    rows = start.kept_rows(["a", "b", "c"], ["c", "new", "a"])
    assert rows == [(0, 2), (2, 0)]
    champion = torch.tensor([[1.0], [2.0], [3.0]])
    assert start.with_rows(champion, torch.zeros(3, 1), rows).tolist() == [[3.0], [0.0], [1.0]]


def test_a_warm_start_takes_its_share_of_the_epochs_and_none_for_the_classifier_alone():
    params = TrainBackboneParams(epochs=UnfreezePhases(frozen=3, last=1, all=5), warm_epochs=0.4)
    assert start.warm_params(params).epochs == UnfreezePhases(frozen=0, last=1, all=2)


def bundle(root: Path, model: torch.nn.Module, classes: list[str]) -> Path:
    """A bundle with this network in the project's cache."""
    folder = cache_dir("bundles", root) / DIGEST
    folder.mkdir(parents=True)
    state = {f"backbone.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    write_json(folder / "bundle.json", {"classes": ["today"], "backbone": {"classes": classes}})
    sha256 = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    manifest = {"files": {"weights.safetensors": {"sha256": sha256, "bytes": 1}}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def champion_model() -> torch.nn.Module:
    model = small()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.01)
    return model


@pytest.fixture
def champion(tmp_path, champion_model) -> start.Champion:
    (tmp_path / "dvc.yaml").touch()
    bundle(tmp_path, champion_model, CLASSES)
    return start.read_champion(tmp_path, DIGEST, start.classifier_name(champion_model))


def test_the_champion_is_read_with_its_own_classes(champion, champion_model):
    assert champion.classes == CLASSES
    assert torch.equal(champion.weight, timm_models.classifier(champion_model).weight)


def test_a_missing_or_altered_champion_is_refused(tmp_path, champion_model):
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(StageInputError, match=r"start_bundle .* names a{64}.*`evergreen retrain` fetches it"):
        start.read_champion(tmp_path, DIGEST, "classifier")
    folder = bundle(tmp_path, champion_model, CLASSES)
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(StageInputError, match="has sha256"):
        start.read_champion(tmp_path, DIGEST, "classifier")


def test_another_network_is_refused(champion):
    with pytest.raises(StageInputError, match=r"holds another network than train_backbone\.backbone makes"):
        start.put_champion(timm_models.create_model("test_resnet", "none", 3, 32), champion, CLASSES)


@pytest.mark.parametrize("method", ["champion", "shrink_perturb", "dash"])
def test_each_method_begins_at_its_own_place(champion, champion_model, method):
    fresh = small()
    before, wanted = {k: v.clone() for k, v in fresh.state_dict().items()}, champion_model.state_dict()
    found = warm.put(fresh, champion, CLASSES, examples(), examples(1), setting(SCRATCH, start=method))
    assert (found["method"], found["kept_classes"]) == (method, 3)
    name = "conv_stem.weight"
    now = fresh.state_dict()[name]
    share = ((now - before[name]) / (wanted[name] - before[name])).flatten(1).mean(dim=1)
    if method == "dash":
        assert ((share > 0.29) & (share <= 1.001)).all()
    else:
        assert share.tolist() == pytest.approx(
            [{"champion": 1.0, "shrink_perturb": 0.6}[method]] * len(share), rel=1e-3
        )
    last = start.classifier_name(fresh)
    assert torch.equal(fresh.state_dict()[f"{last}.weight"], wanted[f"{last}.weight"])


def test_a_new_class_gets_a_row_that_knows_it_and_the_others_keep_theirs(champion):
    model = small()
    classes, train = ["a", "new", "c"], examples()
    found = warm.put(model, champion, classes, train, examples(1), setting(SCRATCH, start="champion"))
    weight = timm_models.classifier(model).weight
    assert found["kept_classes"] == 2
    assert torch.equal(weight[[0, 2]], champion.weight[[0, 2]])
    x = warm.features(model, train.pixels, np.arange(36), setting(SCRATCH))
    own = x @ weight[1].detach().numpy()
    assert own[12:24].mean() > np.delete(own, slice(12, 24)).mean() + 1


def test_auto_starts_from_the_pretrained_network_only_where_its_features_are_clearly_better(champion):
    def begun(train, held) -> tuple[dict, bool]:
        model = small()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = warm.put(model, champion, CLASSES, train, held, setting(SCRATCH, start="auto"))
        return found, all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    train, held = (replace(one, features=one.features[:, :3]) for one in (examples(), examples(1)))
    grey = [replace(one, pixels=np.full_like(one.pixels, 128)) for one in (train, held)]  # its features tell nothing
    found, unchanged = begun(*grey)
    assert (found["method"], unchanged) == ("pretrained", True)
    assert found["champion_score"] == pytest.approx(1 / 3, abs=0.01)
    assert found["pretrained_score"] > 0.8
    blind = [replace(one, features=np.zeros_like(one.features)) for one in (train, held)]
    found, unchanged = begun(*blind)
    assert (found["method"], unchanged) == (start.AUTO, False)


# --- the stage, from a real bundle


@pytest.fixture
def root(tmp_path) -> Path:
    return small_project.copy(tmp_path / "project")


@pytest.fixture
def digest(root) -> str:
    """The bundle of `small_project`, fetched into the cache."""
    folder = small_project.finished_project() / "artifacts/bundle"
    found = bundle_digest(folder)
    shutil.copytree(folder, cache_dir("bundles", root) / found)
    return found


IMAGES = ImagesParams(resolution=small_project.SIZE)
WARM = TrainBackboneParams(
    epochs=UnfreezePhases(frozen=2, last=0, all=2), batch_size=32, start="champion", learning_rate=1e-6, augment=[]
)


def trained(root: Path, params: TrainBackboneParams) -> tuple[dict, dict, dict]:
    """(weights, model.json, metrics) of the stage."""
    stage.run(root, train_backbone=params, images=IMAGES)
    folder = root / artifacts.FOLDER
    figures = read_json(root / "metrics/train_backbone.json")
    return load_file(folder / "weights.safetensors"), read_json(folder / "model.json"), figures


def test_the_stage_starts_from_the_pinned_bundle_and_nothing_else(root, digest):
    """At a rate near zero, the weights stay those that it started from."""
    champion = load_file(cache_dir("bundles", root) / digest / "weights.safetensors")
    weights, about, figures = trained(root, WARM.model_copy(update={"start_bundle": digest}))
    assert max(float((weights[name] - champion[f"backbone.{name}"]).abs().max()) for name in weights) < 1e-3
    assert about["start"] == "champion"
    assert figures["start"] == {"method": "champion", "bundle": digest, "kept_classes": 3}
    assert figures["epochs"] == 1  # 40 % of two, and none for the classifier alone
    cold, about, figures = trained(root, WARM.model_copy(update={"start": "pretrained", "start_bundle": digest}))
    assert (about["start"], figures["epochs"]) == ("pretrained", 4)
    assert float((cold["classifier.weight"] - weights["classifier.weight"]).abs().max()) > 1e-2


class Share(Ranks):
    """One of two processes, whose sums are left to the test."""

    def sum(self, values):
        return values


def test_the_processes_share_the_gradients_that_dash_looks_at():
    def slopes(*ranks: Ranks) -> dict[str, torch.Tensor]:
        parts = []
        for rank in ranks:
            how = replace(setting(SCRATCH), ranks=rank)
            parts.append(list(warm.gradients(small("test_vit"), examples(), how)))
        assert len(parts[0]) == 2  # batches of 16 of the 36 images, sizes differing by at most one
        return {name: sum(part[1][name] for part in parts) for name in parts[0][1]}

    device = torch.device("cpu")
    alone, together = slopes(Ranks(0, 1, device)), slopes(Share(0, 2, device), Share(1, 2, device))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-5)


ONE_EPOCH = SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=1), "seeds": 2})


def test_the_stage_makes_one_network_of_several_seeds(root):
    first = trained(root, ONE_EPOCH.model_copy(update={"seeds": 1}))[0]
    best = trained(root, ONE_EPOCH)[2]
    weights, about, figures = trained(root, ONE_EPOCH.model_copy(update={"combine": "ensemble"}))
    assert torch.equal(weights["members.0.conv_stem.weight"], first["conv_stem.weight"])  # it has the setting's seed
    assert not torch.equal(weights["members.1.conv_stem.weight"], first["conv_stem.weight"])
    model, _ = stage1.load(root)
    rows = artifacts.training_rows(root)["test"]
    assert about["feature_dim"] == timm_models.feature_dim(model) == 2 * 256
    assert stage1.stage1_features(root, rows, IMAGES).shape == (len(rows), 2 * 256)
    found = figures["seeds"]
    assert found["scores"] == best["seeds"]["scores"]
    assert found["spread"] == pytest.approx(abs(found["scores"][0] - found["scores"][1]) / 2**0.5)
    assert best["calibration_score"] == max(found["scores"])
    assert not list((root / ".evergreen/cache/training").glob("*/*.safetensors"))


def test_the_stage_makes_a_soup_of_seeds_with_a_common_start(root, digest):
    params = WARM.model_copy(update={"start_bundle": digest, "warm_epochs": 0.1, "seeds": 2, "learning_rate": 5e-3})
    champion = load_file(cache_dir("bundles", root) / digest / "weights.safetensors")["backbone.conv_stem.weight"]
    one, soup = (
        trained(root, params.model_copy(update=change))[0]["conv_stem.weight"]
        for change in ({"seeds": 1}, {"combine": "soup"})
    )
    moved = [float((weights - champion).norm()) for weights in (one, soup)]
    assert 0.3 * moved[0] < moved[1] < 1.2 * moved[0]
    assert float((soup - one).norm()) > 0.1 * moved[0]


def test_a_killed_training_of_several_seeds_keeps_those_that_ended(root, capfd, monkeypatch):
    params = ONE_EPOCH.model_copy(update={"combine": "ensemble"})
    fit = trainer.fit

    def second_fails(model, train, calibration, how, file):
        if how.params.seed != params.seed:
            raise KeyboardInterrupt
        return fit(model, train, calibration, how, file)

    monkeypatch.setattr(trainer, "fit", second_fails)
    with pytest.raises(KeyboardInterrupt):
        trained(root, params)
    monkeypatch.setattr(trainer, "fit", fit)
    capfd.readouterr()
    resumed = trained(root, params)[0]
    assert "continuing after epoch 1" in capfd.readouterr().err
    whole = trained(root, params)[0]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_soup_of_random_starts_is_refused(root):
    with pytest.raises(ParamsError, match=r"combine: soup means weights"):
        trained(root, SCRATCH.model_copy(update={"seeds": 2, "combine": "soup"}))
