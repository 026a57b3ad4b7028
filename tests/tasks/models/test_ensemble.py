"""Several networks as one: the mean of their logits, features side by side, through export and stage 2's reader."""

import numpy as np
import pytest
import torch

from tasks.backbones import timm_models
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.scaling import Scaling
from tasks.models.ensemble import Ensemble, member_count
from tasks.stages.calibrate import export
from tasks.stages.train_backbone import seeds
from tasks.stages.train_backbone.start import Champion


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm_models.create_model("test_efficientnet", "none", 3, 32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def test_its_logits_are_the_mean_and_its_features_lie_side_by_side(images):
    x = timm_models.to_input(images, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"))
    with torch.inference_mode():
        logits = torch.stack([network(seed)(x) for seed in (0, 1)]).mean(dim=0)
        features = torch.cat([timm_models.features(network(seed), x) for seed in (0, 1)], dim=1)
        whole = Ensemble([network(0), network(1)]).eval()
        torch.testing.assert_close(whole(x), logits)
        torch.testing.assert_close(timm_models.features(whole, x), features)
        torch.testing.assert_close(timm_models.classifier(whole)(features), logits)
    assert timm_models.feature_dim(whole) == features.shape[1] == 2 * timm_models.feature_dim(network(0))
    assert member_count(whole.state_dict()) == 2
    assert member_count(network(0).state_dict()) == 0


def test_it_is_exported_like_any_network(tmp_path, images):
    whole = Ensemble([network(0), network(1)]).eval()
    about = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "task": "multiclass", "resolution": 32, "backbone": "two"}
    last = timm_models.classifier(whole)
    finished = export.Finished(whole, about, last.weight.detach().numpy(), last.bias.detach().numpy(), Scaling(1.0))
    assert export.export(tmp_path / "model.onnx", finished, images) < export.MAX_DIFFERENCE
    assert OnnxModel(tmp_path / "model.onnx")(images).features.shape == (3, timm_models.feature_dim(whole))


def test_a_soup_is_the_mean_of_weights():
    found = seeds.soup(
        [{"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(5)}, {"w": torch.tensor([3.0, 4.0]), "n": torch.tensor(9)}]
    )
    assert found["w"].tolist() == [2.0, 3.0]
    assert int(found["n"]) == 5


def test_the_noise_of_seeds_is_the_deviation_of_their_scores():
    assert seeds.seed_noise([0.8, 0.9]) == {
        "scores": [0.8, 0.9],
        "mean": pytest.approx(0.85),
        "spread": pytest.approx(0.0707, abs=1e-4),
    }
    assert seeds.seed_noise([0.8])["spread"] is None


def test_the_first_seed_is_the_setting_and_the_others_differ():
    found = [seeds.member_seed(4, number) for number in range(4)]
    assert found[0] == 4
    assert len(set(found)) == 4
    assert found == [seeds.member_seed(4, number) for number in range(4)]


def test_each_training_starts_from_its_own_member_of_an_ensemble():
    models = [network(0), network(1)]
    own = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    state = Ensemble(models).state_dict()
    weight, bias = state.pop("classifier.weight"), state.pop("classifier.bias")
    champion = Champion("a" * 64, state, weight, bias, ["a", "b", "c"])
    for number in (0, 1, 2):
        member = champion.member(number)
        torch.testing.assert_close(member.weight, own[number % 2]["classifier.weight"])
        assert all(torch.equal(member.body[name], own[number % 2][name]) for name in member.body)
