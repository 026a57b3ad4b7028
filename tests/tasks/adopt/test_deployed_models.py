"""A deployed model inside the ONNX contract, and the bundle that is built from it: real models, no flow."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from serving.predictor import Predictor
from tasks.adopt.build import build, read_classes
from tasks.adopt.onnx import AdoptedOnnx
from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.scaling import Scaling, scale
from tests.support.deployed_models import HALF, deployed, fast, to_onnx
from tests.support.small_project import BACKBONE, CLASSES, SIZE, finished_project, image_bytes

CLASSWISE = Scaling("classwise", 1.7, 0.02, np.array([0.5, 1, 3]), np.array([-2, 0, 1]))


def wrap(path: Path, **changes) -> AdoptedOnnx:
    return AdoptedOnnx(deployed(path, **changes), "multiclass")


def pixels(n: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def expected(net, images: np.ndarray, mean=HALF, std=HALF) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        x = timm_models.to_input(images, mean, std, torch.device("cpu"))
        return net(x).numpy(), timm_models.features(net, x).numpy()


# --- the wrapped graph -----------------------------------------------------------------------------------------


def test_logits_and_features_are_those_of_the_deployed_model(net, exported):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    source = wrap(exported, mean=mean, std=std)
    for n in (1, 5, 70):
        logits, features = source.outputs(pixels(n))
        for found, wanted in zip((logits, features), expected(net, pixels(n), mean, std), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_model_that_ends_in_a_softmax_gives_the_same_logits_and_probabilities(net, tmp_path, exported):
    path = to_onnx(tmp_path / "soft.onnx", torch.nn.Sequential(net, torch.nn.Softmax(dim=1)).eval())
    np.testing.assert_allclose(wrap(path).outputs(pixels())[0], wrap(exported).outputs(pixels())[0], atol=1e-4)
    for scaling in (Scaling(), Scaling("temperature", 2.0, 0.01), CLASSWISE):
        for task in ("multiclass", "multilabel"):
            model = AdoptedOnnx(deployed(exported), task)
            assert model.write(tmp_path / "model.onnx", scaling, pixels()) < 1e-5
            found = OnnxModel(tmp_path / "model.onnx")(pixels())
            np.testing.assert_allclose(found.probabilities, scale(found.logits, scaling, task), atol=1e-5)
        assert wrap(path).write(tmp_path / "model.onnx", scaling, pixels()) < 1e-5


class ChannelsLast(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.permute(0, 3, 1, 2))


def test_channels_last_input_is_recognised(net, tmp_path):
    path = tmp_path / "last.onnx"
    torch.onnx.export(
        ChannelsLast(net).eval(), (torch.zeros(2, SIZE, SIZE, 3),), str(path), dynamic_axes={"x": {0: "n"}},
        input_names=["x"], dynamo=False,
    )  # fmt: skip
    np.testing.assert_allclose(wrap(path).outputs(pixels())[0], expected(net, pixels())[0], rtol=1e-3, atol=1e-3)


def graph(path: Path, nodes: list, shape: list, out: list, weights: dict | None = None, kind=TensorProto.FLOAT) -> Path:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def test_what_does_not_fit_is_said_with_both_sides(exported, tmp_path):
    with pytest.raises(EvergreenError, match=r"reads batch x 3 x 32 x 32, --size 64 means N x 3 x 64 x 64"):
        wrap(exported, size=64)
    with pytest.raises(EvergreenError, match=r"answers with 3 values an image, but 2 classes are given \(a, b\)"):
        wrap(exported, classes=["a", "b"])
    with pytest.raises(EvergreenError, match=r"has no tensor 'pooled'"):
        wrap(exported, features="pooled")
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    with pytest.raises(EvergreenError, match="not a readable ONNX model"):
        wrap(tmp_path / "junk.onnx")
    grey = graph(
        tmp_path / "grey.onnx", [helper.make_node("Identity", ["x"], ["y"])], ["N", 1, 32, 32], ["N", 1, 32, 32]
    )
    with pytest.raises(EvergreenError, match=r"reads N x 1 x 32 x 32"):
        wrap(grey)
    raw = graph(tmp_path / "raw.onnx", [helper.make_node("Cast", ["x"], ["y"], to=1)], ["N", 3, 32, 32],
                ["N", 3, 32, 32], kind=TensorProto.INT32)  # fmt: skip
    with pytest.raises(EvergreenError, match="expected floats"):
        wrap(raw)


def test_no_features_is_an_error_until_their_tensor_is_named(tmp_path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "w"], ["scores"]),
        helper.make_node("Flatten", ["scores"], ["y"], axis=1),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    path = graph(tmp_path / "conv.onnx", nodes, ["N", 3, SIZE, SIZE], ["N", 3], {"w": weight})
    with pytest.raises(EvergreenError, match=r"does not end in a linear layer.*--features.*Flatten -> y"):
        wrap(path)
    source = wrap(path, features="pooled")
    logits, features = source.outputs(pixels())
    assert (source.feature_dim, logits.shape, features.shape) == (3, (5, 3), (5, 3))
    np.testing.assert_allclose(logits, features @ weight[:, :, 0, 0].T, atol=1e-5)


def test_a_fixed_batch_is_made_free_or_refused(net, tmp_path):
    assert wrap(to_onnx(tmp_path / "one.onnx", net, batch=False)).outputs(pixels())[0].shape == (5, 3)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"shape": np.array([1, 3 * SIZE * SIZE]), "w": np.ones((3 * SIZE * SIZE, 3), np.float32)}
    fixed = graph(tmp_path / "fixed.onnx", nodes, [1, 3, SIZE, SIZE], [1, 3], weights)
    with pytest.raises(EvergreenError, match=r"fails on a batch of 3 images .*free first dimension"):
        wrap(fixed)


@pytest.mark.parametrize("order", [("y", "features"), ("features", "y")])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_output_with_a_value_per_class_is_the_answer_in_both_float_types(tmp_path, order, kind):
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "v"], ["features"]),
        helper.make_node("MatMul", ["features", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {"v": rng.normal(size=(3, 8)).astype(dtype), "w": rng.normal(size=(8, 3)).astype(dtype)}
    shapes = {"y": ["N", 3], "features": ["N", 8]}
    made = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", kind, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name in order],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "two.onnx")
    logits, features = wrap(tmp_path / "two.onnx").outputs(pixels())
    assert (logits.shape, features.shape) == ((5, 3), (5, 8))
    np.testing.assert_allclose(logits, features @ weights["w"].astype(np.float32), atol=2e-2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\xef\xbb\xbfcaf\xc3\xa9\r\n bag\xc2\xa0\r\n"),
        ("a.txt", "cafe\u0301\nbag\n".encode("utf-16")),
        ("a.txt", "caf\u00e9\nbag".encode("cp1252")),
        ("a.json", '["café", "bag"]'.encode()),
        ("a.json", '{"1": "bag", "0": "café"}'.encode()),
        ("a.json", '{"bag": 1, "café": 0}'.encode()),
        ("config.json", '{"id2label": {"0": "café", "1": "bag"}, "hidden": 3}'.encode()),
    ],
)
def test_class_files_are_read_as_programs_write_them(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_classes(str(tmp_path / name)) == ["café", "bag"]


def test_a_class_file_of_another_form_says_what_is_expected(tmp_path):
    for content in ('{"1": "bag", "2": "shoe"}', "[1, 2]", "{", '{"a": "b"}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(EvergreenError, match=r"--classes .*a.json cannot be read"):
            read_classes(str(tmp_path / "a.json"))


def test_class_names_come_from_a_file_or_a_list(tmp_path):
    (tmp_path / "classes.txt").write_text("Ankle boot\n\nBag\n")
    assert read_classes(str(tmp_path / "classes.txt")) == read_classes("Ankle boot, Bag") == ["Ankle boot", "Bag"]
    for text in ("no-such-file.txt", "a,b,a"):
        with pytest.raises(EvergreenError, match=r"is not a file|'a' more than once"):
            read_classes(text)


# --- weights ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path) -> Path:
    """The small project as `validate` leaves it: no model."""
    root = tmp_path / "small"
    shutil.copytree(finished_project(), root)
    for name in ("train_backbone", "train_head", "calibrate", "bundle", "clean"):
        shutil.rmtree(root / "artifacts" / name)
    write_json(root / "metrics/evaluate.json", {})
    return root


def test_weights_in_a_trainers_wrapper_are_adopted(net, small, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({f"module.{name}": value.contiguous() for name, value in net.state_dict().items()}, path)
    assert build(small, deployed(path, backbone=BACKBONE), fast(small)) == {}
    predictor = Predictor(small / "artifacts/bundle")
    images = [data for name in CLASSES for data in image_bytes(name, 4)]
    answers = [answer.label for answer in predictor.predict(images)]
    assert sum(a == name for a, name in zip(answers, [n for n in CLASSES for _ in range(4)], strict=True)) >= 10
    assert read_json(small / "metrics/evaluate.json")["parity"]["max_difference"] < 1e-3
    assert predictor.about["adopted"]["file"] == "net.safetensors"
    measured = read_json(finished_project() / "metrics/calibrate.json")
    assert read_json(small / "metrics/calibrate.json").keys() == measured.keys(), "the figures of the stage calibrate"
    weights, trained = (
        load_file(root / "artifacts/bundle/weights.safetensors") for root in (small, finished_project())
    )
    assert {n: v.shape for n, v in weights.items()} == {n: v.shape for n, v in trained.items()}

    with pytest.raises(EvergreenError, match="--backbone says which"):
        build(small, deployed(path), fast(small))
    with pytest.raises(EvergreenError, match=r"answers with 3 values an image, but 4 classes"):
        build(small, deployed(path, backbone=BACKBONE, classes=[*CLASSES, "Coat"]), fast(small))
    with pytest.raises(EvergreenError, match="does not hold weights of resnet10t"):
        build(small, deployed(path, backbone="resnet10t"), fast(small))
    for wrong, says in (({"fit": "stretch"}, "--fit 'stretch'"), ({"std": (0.5, 0, 0.5)}, "three numbers above 0")):
        with pytest.raises(EvergreenError, match=says):
            build(small, deployed(path, backbone=BACKBONE, **wrong), fast(small))


def test_labels_must_be_the_models_or_are_left_out(exported, small):
    with pytest.raises(EvergreenError, match=r"split has no image labelled with one of the model's.*spelt alike"):
        build(small, deployed(exported, classes=["x", "y", "z"]), fast(small))
    assert build(small, deployed(exported, classes=["Ankle boot", "Bag", "Coat"]), fast(small)) == {"Trouser": 48}
    assert read_json(small / "metrics/evaluate.json")["test"]["n"] == 24
