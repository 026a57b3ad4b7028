"""Distillation: its losses against values by hand, its settings in a training, and every kind of teacher."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tasks.backbones import timm_models
from tasks.common import artifacts
from tasks.common.errors import EvergreenError, StageInputError
from tasks.common.params import ImagesParams
from tasks.common.sections.training import DistillParams, UnfreezePhases
from tasks.inference.scaling import Scaling
from tasks.releases.bundle import SCHEMA_VERSION, digest, write_manifest
from tasks.stages.calibrate import export
from tasks.stages.train_backbone import stage as train_backbone_stage
from tasks.stages.train_backbone import teachers, trainer
from tasks.stages.train_backbone.distill import (
    Answers,
    Seen,
    attention_map,
    attention_vector,
    distilled_losses,
    look,
    mean_answers,
    similarity,
)
from tasks.stages.train_backbone.teachers import Teachers, TorchTeacher, bundle_teacher, pretrained_teacher
from tests.support import small_project
from tests.support.small_training import SCRATCH, examples, setting, small

CPU = torch.device("cpu")
NAMES = ["red", "green", "blue"]
ABOUT = {"resolution": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
BOTH = torch.tensor([0, 1])
TWO = SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=2), "augment": ["flip"]})


def teacher(seed: int = 0, classes=NAMES, name: str = "test_resnet", size: int = 32) -> TorchTeacher:
    """A random network with a random classifier: what it says differs from the labels."""
    torch.manual_seed(seed)
    network = timm_models.create_model(name, "none", 0, size)
    weight = torch.randn(len(classes), timm_models.feature_dim(network))
    return TorchTeacher(network, weight, torch.zeros(len(classes)), classes, ABOUT | {"resolution": size}, CPU)


def taught(members=None, **values) -> dict:
    """Changes of a Setting that make it learn from `members`."""
    params = DistillParams(teachers=["resnet18"], **values)
    return {"distill": params}, Teachers(members or [teacher()], NAMES, params, False)


def trained(params=TWO, members=None, **values):
    changes, teachers = taught(members, **values)
    how = replace(setting(params, **changes), teachers=teachers)
    return trainer.fit(small(), examples(), examples(1), how)


def weights(state) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in state.values()])


def test_the_answers_weigh_as_much_as_asked_times_the_squared_temperature():
    """Logits (2, 0) at temperature 2 are ln(p) = (-ln(1 + 1/e), -1 - ln(1 + 1/e))."""
    student = Seen(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 1), None)
    answers = Answers(torch.tensor([[0.75, 0.25]]), torch.zeros(1, 1), None, BOTH)
    first = -math.log(1 + math.exp(-1))
    of_answers = -(0.75 * first + 0.25 * (first - 1))
    found = distilled_losses(torch.tensor([3.0]), student, answers, DistillParams(temperature=2, weight=0.25))
    assert found.item() == pytest.approx(0.75 * 3 + 0.25 * 4 * of_answers)
    only = distilled_losses(torch.tensor([3.0]), student, answers, DistillParams(temperature=2, weight=0))
    assert only.item() == 3


def test_each_label_counts_on_its_own_where_images_have_several():
    student = Seen(torch.tensor([[0.0, 0.0]]), torch.zeros(1, 1), None)
    answers = Answers(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 1), None, BOTH)
    found = distilled_losses(torch.zeros(1), student, answers, DistillParams(temperature=1, weight=1), True)
    assert found.item() == pytest.approx(math.log(2))


def test_classes_that_a_teacher_does_not_know_are_left_out():
    answers = Answers(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 1), None, torch.tensor([0, 2]))
    params = DistillParams(temperature=1, weight=1)
    for of_other in (-9.0, 9.0):
        student = Seen(torch.tensor([[1.0, of_other, 1.0]]), torch.zeros(1, 1), None)
        assert distilled_losses(torch.zeros(1), student, answers, params).item() == pytest.approx(math.log(2))


def test_features_are_compared_by_which_images_are_alike():
    """Rows (1, 0) and (1, 1): products 1, 1 and 1, 2; of length 1 that is .707, .707 and .447, .894."""
    same = similarity(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert torch.allclose(same, torch.tensor([[0.7071, 0.7071], [0.4472, 0.8944]]), atol=1e-4)
    student = Seen(torch.zeros(2, 2), torch.eye(2), None)
    answers = Answers(torch.full((2, 2), 0.5), same, None, BOTH)
    params = DistillParams(weight=0, features=2)
    found = distilled_losses(torch.zeros(2), student, answers, params)
    assert found[0].item() == pytest.approx(2 * ((1 - 0.7071) ** 2 + 0.7071**2) / 2, abs=1e-3)


def test_attention_is_compared_where_the_last_map_is_strong():
    network = torch.nn.Module()
    network.num_features, network.num_prefix_tokens, network.patch_embed = 2, 1, SimpleNamespace(grid_size=(2, 2))
    maps = torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]] * 2])  # (1, 2, 2, 2): both channels alike
    assert attention_map(network, maps).tolist() == [[[9, 0], [0, 16]]]
    tokens = torch.cat([torch.full((1, 1, 2), 99.0), maps.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(attention_map(network, tokens), attention_map(network, maps)), "the class token is no place"
    vector = attention_vector(attention_map(network, maps), 2)
    assert vector.norm().item() == pytest.approx(1)
    student = Seen(torch.zeros(1, 2), torch.zeros(1, 1), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    answers = Answers(torch.full((1, 2), 0.5), torch.zeros(1, 1), vector, BOTH)
    found = distilled_losses(torch.zeros(1), student, answers, DistillParams(weight=0, attention=3))
    first, last = 9 / math.hypot(9, 16), 16 / math.hypot(9, 16)
    assert found.item() == pytest.approx(3 * ((1 - first) ** 2 + last**2), abs=1e-5)


def test_an_ensemble_teaches_its_mean():
    seen = [
        Seen(torch.tensor([[50.0, -50.0]]), torch.zeros(1, 3), None),
        Seen(torch.zeros(1, 2), torch.zeros(1, 1), None),
    ]
    answers = mean_answers(seen, BOTH, DistillParams(temperature=1), False)
    assert torch.allclose(answers.probabilities, torch.tensor([[0.75, 0.25]]))


@pytest.mark.parametrize(
    "values",
    [{"weight": 0.9}, {"temperature": 1.0}, {"features": 1.0}, {"teachers": [1]}, {"teachers": []}],
    ids=str,
)
def test_each_setting_changes_the_trained_network(plain, values):
    seeds = values.get("teachers", [0])
    values = {name: value for name, value in values.items() if name != "teachers"}
    if seeds:
        state, _ = trained(members=[teacher(seed) for seed in seeds], **values)
    else:
        state, _ = trainer.fit(small(), examples(), examples(1), setting(TWO))
    assert not torch.equal(weights(state), plain)


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return weights(trained()[0])


def test_attention_changes_the_trained_network_where_maps_have_places():
    params = TWO.model_copy(update={"backbone": "test_vit", "epochs": UnfreezePhases(frozen=0, last=0, all=1)})

    def of(attention: float) -> torch.Tensor:
        changes, teachers = taught([teacher(name="test_vit")], attention=attention)
        how = replace(setting(params, **changes), teachers=teachers)
        return weights(trainer.fit(small("test_vit"), examples(width=64), examples(1), how)[0])

    assert not torch.equal(of(1.0), of(0.0))


class Contrary:
    """Calls every image by the colour after its own."""

    classes = NAMES

    def __call__(self, images):
        said = (images.mean((2, 3)).argmax(1) + 1) % 3
        return Seen(9 * torch.nn.functional.one_hot(said, 3).float(), images.flatten(1), None)


def test_a_student_learns_what_its_teacher_says_and_not_the_labels():
    longer = TWO.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=6)})
    state, _ = trained(longer, members=[Contrary()], weight=1.0)
    student, of = small(), examples(1)
    student.load_state_dict(state)
    with torch.no_grad():
        x = timm_models.to_input(of.pixels, (0.5,) * 3, (0.5,) * 3, CPU)
        said = student.eval()(x).argmax(1).numpy()
    assert (said == (of.targets + 1) % 3).mean() > 0.6


def test_a_killed_distillation_goes_on_with_the_same_weights(tmp_path, plain):
    changes, teachers = taught()
    calls = []

    class Dying(Teachers):
        def __call__(self, *given):
            calls.append(1)
            if len(calls) == 4:  # in the second epoch: three batches each
                raise KeyboardInterrupt
            return super().__call__(*given)

    dying = Dying(teachers.members, NAMES, teachers.params, False)
    how = replace(setting(TWO, **changes), teachers=dying)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(small(), examples(), examples(1), how, tmp_path / "checkpoint.safetensors")
    again = replace(how, teachers=teachers)
    state, history = trainer.fit(small(), examples(), examples(1), again, tmp_path / "checkpoint.safetensors")
    assert [row["epoch"] for row in history] == [1, 2]
    assert torch.equal(weights(state), plain)


def test_every_family_shows_its_features_and_where_it_looks():
    for name in ("test_resnet", "test_vit", "test_convnext", "test_efficientnet"):
        network = timm_models.create_model(name, "none", 3, 64)
        with torch.no_grad():
            seen = look(network, torch.randn(2, 3, 64, 64))
            assert torch.allclose(seen.logits, timm_models.classifier(network)(seen.features))
        assert seen.attention.shape[0] == 2
        assert seen.attention.shape[1] == seen.attention.shape[2] > 1


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    """A function: a small bundle in the cache of a new project -> (root, digest)."""

    def make(kind: str):
        root = tmp_path_factory.mktemp("project")
        model, scratch = teacher(), root / "bundle"
        scratch.mkdir()
        body, weight = model._network, model._weight.numpy()
        about = {"backbone": "test_resnet", "task": "multiclass"} | ABOUT
        finished = export.Finished(body, about, weight, np.zeros(3, np.float32), Scaling())
        export.export(scratch / "model.onnx", finished, np.zeros((0, 32, 32, 3), np.uint8))
        from safetensors.torch import save_file

        full = timm_models.create_model("test_resnet", "none", 3, 32).state_dict() | body.state_dict()
        state = {f"backbone.{name}": value.contiguous() for name, value in full.items()}
        if kind == "ensemble":  # or any other with more than its name says
            state["backbone.members.0.weight"] = torch.zeros(1)
        save_file(state | {"head.weight": model._weight, "head.bias": model._bias}, scratch / "weights.safetensors")
        network = {
            "backbone": "onnx" if kind == "adopted" else "test_resnet",
            "mean": ABOUT["mean"],
            "std": ABOUT["std"],
        }
        facts = {"schema": SCHEMA_VERSION, "classes": NAMES, "backbone": network, "preprocess": {"resolution": 32}}
        (scratch / "bundle.json").write_text(json.dumps(facts))
        write_manifest(scratch)
        name = digest(scratch)
        place = root / ".evergreen" / "cache" / "bundles" / name
        place.parent.mkdir(parents=True)
        scratch.rename(place)
        return root, name

    return make


@pytest.mark.parametrize("kind", ["of timm", "adopted", "ensemble"])
def test_a_bundle_teaches_with_its_network_or_its_exported_model(bundle_of, kind):
    root, name = bundle_of(kind)
    images = torch.from_numpy(examples().pixels[:4]).permute(0, 3, 1, 2).float() / 255
    found, wanted = bundle_teacher(root, name, CPU)(images), teacher()(images)
    assert torch.allclose(found.logits, wanted.logits, atol=1e-3)
    assert torch.allclose(found.features, wanted.features, atol=1e-3)
    assert (found.attention is None) is (kind != "of timm")
    (root / ".evergreen/cache/bundles" / name / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(StageInputError, match=rf"{name}.*weights\.safetensors.*`evergreen retrain` fetches it"):
        bundle_teacher(root, name, CPU)
    with pytest.raises(StageInputError, match="holds no bundle"):
        bundle_teacher(root, "0" * 64, CPU)


def test_a_pretrained_network_teaches_with_a_classifier_fitted_on_its_features():
    one = examples(width=1280)
    images = torch.from_numpy(one.pixels).permute(0, 3, 1, 2).float() / 255
    network = timm_models.create_model(timm_models.OFFLINE_BACKBONE, "auto", 0, 32)
    with torch.no_grad():
        features = timm_models.features(network, (images - 0.5) / 0.5).numpy()
    found = pretrained_teacher(timm_models.OFFLINE_BACKBONE, features, one.targets, NAMES, 32, CPU)(images)
    assert (found.logits.argmax(1).numpy() == one.targets).mean() > 0.9


def test_teachers_of_other_classes_are_refused_with_both_lists():
    other = Teachers([teacher(classes=["red", "cat"])], NAMES, DistillParams(), False)
    with pytest.raises(EvergreenError, match=r"share 1 classes.*red, green, blue.*red, cat"):
        other(torch.zeros(1, 3, 32, 32), (0.5,) * 3, (0.5,) * 3)


def test_attention_is_refused_where_no_teacher_shows_where_it_looks(monkeypatch):
    blind = teachers.OnnxTeacher.__new__(teachers.OnnxTeacher)
    blind.classes = NAMES
    monkeypatch.setattr(teachers, "bundle_teacher", lambda *given: blind)
    wanted = DistillParams(teachers=["a" * 64], attention=1.0)
    given = (None, NAMES, "multiclass", wanted, ImagesParams(), CPU)
    with pytest.raises(EvergreenError, match=r"distill\.attention is 1, but no teacher shows where it looks"):
        teachers.read_teachers(None, *given)


def test_the_stage_trains_with_the_teachers_that_params_name(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    shutil.rmtree(root / artifacts.FOLDER)
    params = SCRATCH.model_copy(update={"epochs": UnfreezePhases(frozen=0, last=0, all=1)})

    def run(*teachers: str) -> np.ndarray:
        wanted = params.model_copy(update={"distill": DistillParams(teachers=list(teachers))})
        train_backbone_stage.run(root, train_backbone=wanted, images=ImagesParams(resolution=small_project.SIZE))
        return load_file(root / artifacts.FOLDER / "weights.safetensors")["classifier.weight"]

    assert not np.array_equal(run("edge"), run())
    with pytest.raises(StageInputError, match=r"names the bundle a{64}.*`evergreen retrain` fetches it"):
        run("a" * 64)
