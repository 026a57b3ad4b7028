"""A real timm network exported and run under ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch

from tasks.backbones import onnx_graph, timm_models
from tasks.common.errors import EvergreenError
from tasks.inference.onnx_model import OnnxModel, Outputs
from tasks.inference.scaling import Scaling, scale
from tasks.stages.calibrate import export

SIZE, CLASSES = 32, 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
DEEPER = "mobilenetv3_small_050"
WARM = Scaling("temperature", 1.7)
CLASSWISE = Scaling("classwise", 1.7, 0.02, np.array([0.5, 1, 2, 3, 1.5]), np.array([-2, 0, 1, 0.5, 0.3]))


def tiny(
    task: str = "multiclass", scaling: Scaling = WARM, spoil: bool = False, name: str = "test_efficientnet"
) -> export.Finished:
    """A small random network whose answers vary with its input; `spoil`: with a NaN in its head."""
    torch.manual_seed(0)
    backbone = timm_models.create_model(name, "none", CLASSES, SIZE)
    about = {"backbone": name, "task": task, "resolution": SIZE, "mean": MEAN, "std": STD}
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(CLASSES, timm_models.feature_dim(backbone))).astype(np.float32)
    if spoil:
        weight[0, 0] = np.nan
    return export.Finished(backbone, about, weight, rng.normal(size=CLASSES), scaling)


def pixels(count: int) -> np.ndarray:
    """Smooth real-looking images, no noise: gradients of different directions and colours."""
    rng = np.random.default_rng(2)
    ramp = np.linspace(0, 1, SIZE)
    grid = ramp[:, None, None] * rng.random((count, 1, 1, 3)) + ramp[None, :, None] * rng.random((count, 1, 1, 3))
    return (grid * 127).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    found = export.export(folder / "model.onnx", tiny(name=DEEPER), pixels(6))
    return folder, found


def test_exported_model_answers_as_the_trained_one(exported):
    folder, found = exported
    assert found <= 1e-4
    model = OnnxModel(folder / "model.onnx")
    for count in (1, 7, 130):
        images = pixels(count)
        ours, theirs = model(images), export.trained(tiny(name=DEEPER), images)
        assert ours.probabilities.shape == (count, CLASSES)
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-4, rtol=1e-4)
    assert np.ptp(ours.probabilities, axis=0).max() > 1e-3, "a constant model would pass any parity check"


def test_sizes_are_constants_in_the_graph_and_the_answers_the_same_to_the_bit(tmp_path):
    """This network pads by size, as EfficientNet-Lite does: tracing alone leaves the arithmetic in the graph."""
    finished = tiny(name="tf_efficientnet_lite0")
    export.export(tmp_path / "model.onnx", finished, pixels(6))
    before = onnx_graph.traced_freely(finished, pixels(2), Outputs._fields)
    now = onnx.load(tmp_path / "model.onnx")
    assert len(now.graph.node) < len(before.graph.node) / 2
    assert not {node.op_type for node in now.graph.node} & {"Shape", "Gather", "Ceil"}
    assert (now.ir_version, now.opset_import) == (before.ir_version, before.opset_import)
    (tmp_path / "before.onnx").write_bytes(before.SerializeToString())
    for count in (1, 5, 64):
        both = [OnnxModel(tmp_path / name)(pixels(count)) for name in ("model.onnx", "before.onnx")]
        for mine, expected in zip(*both, strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_a_network_that_tracing_gets_wrong_is_exported_the_longer_way(tmp_path, capfd):
    """A transformer's class token is repeated once an image: a trace knows one number of images only."""
    assert export.export(tmp_path / "model.onnx", tiny(name="test_vit"), pixels(6)) <= 1e-4
    model = OnnxModel(tmp_path / "model.onnx")
    for count in (1, 7):
        expected = export.trained(tiny(name="test_vit"), pixels(count))
        np.testing.assert_allclose(model(pixels(count)).features, expected.features, atol=1e-4, rtol=1e-4)
    assert "onnxruntime" not in capfd.readouterr().err


def test_temperature_is_in_the_probabilities_only(exported):
    folder, _ = exported
    out = OnnxModel(folder / "model.onnx")(pixels(4))
    scaled = np.exp(out.logits / 1.7)
    np.testing.assert_allclose(out.probabilities, scaled / scaled.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("scaling", [Scaling(), Scaling("temperature", 0.6, 0.1), CLASSWISE])
def test_the_scaling_is_in_the_graph(tmp_path, task, scaling):
    export.export(tmp_path / "model.onnx", tiny(task, scaling), pixels(6))
    out = OnnxModel(tmp_path / "model.onnx")(pixels(7))
    np.testing.assert_allclose(out.probabilities, scale(out.logits, scaling, task), atol=1e-5)


def test_no_images_give_empty_outputs(exported):
    out = OnnxModel(exported[0] / "model.onnx")(pixels(0))
    assert [part.shape for part in out] == [(0, CLASSES), (0, CLASSES), (0, 1024)]


def test_wrong_pixels_are_refused(exported):
    model = OnnxModel(exported[0] / "model.onnx")
    with pytest.raises(ValueError, match=r"float32.*uint8"):
        model(pixels(2).astype(np.float32))
    with pytest.raises(ValueError, match=r"16, 16.*32, 32"):
        model(pixels(2)[:, :16, :16])


def test_one_file_that_names_no_path(exported):
    folder, _ = exported
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]
    content = (folder / "model.onnx").read_bytes()
    for word in (b"site-packages", b"/tasks/", b".py", b"stack_trace", b"File "):
        assert word not in content
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert not model.metadata_props


def test_same_weights_give_the_same_bytes(tmp_path):
    for name in ("once.onnx", "again.onnx"):
        export.export(tmp_path / name, tiny(), pixels(6))
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "once.onnx").read_bytes()


def test_multilabel_probabilities_are_independent(tmp_path):
    export.export(tmp_path / "model.onnx", tiny("multilabel", Scaling("temperature", 0.8)), pixels(6))
    out = OnnxModel(tmp_path / "model.onnx")(pixels(3))
    np.testing.assert_allclose(out.probabilities, 1 / (1 + np.exp(-out.logits / 0.8)), atol=1e-5)


def test_a_model_that_differs_is_not_put_in_place(tmp_path):
    with pytest.raises(EvergreenError, match="differs from the trained one"):
        export.export(tmp_path / "model.onnx", tiny(spoil=True), pixels(2))
    assert list(tmp_path.iterdir()) == []
