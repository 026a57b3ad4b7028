"""Exports of other tools become a first model that the gate judges: five kinds, made here."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from flows.project.deployed_exports import opened_export
from flows.publishing.judge_adopted import judge_adopted
from tasks.adopt.bounded import check_bounded
from tasks.adopt.build import build, open_model
from tasks.backbones import timm_models
from tasks.backbones.torchvision_ops import make_timm_importable
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.dataset.decode import preprocess
from tasks.models.heads.retrained import natural
from tests.support.deployed_models import HALF, YOLO, edit, fast, to_onnx
from tests.support.small_project import CLASSES, SIZE, finished_project, image_bytes

PROCESSOR = {"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


class Reads(torch.nn.Module):
    """`net`, which was trained on channels normalised by HALF, for input that somebody else prepares."""

    def __init__(self, net, prepare: Callable, softmax: bool = False):
        super().__init__()
        self.net, self.prepare, self.softmax = net, prepare, softmax

    def forward(self, x):
        found = self.net(self.prepare(x))
        return found.softmax(dim=1) if self.softmax else found


def custom_vision(net, folder: Path) -> Path:
    """A ZIP: BGR in 0..255, {class: probability} per image as output, class names beside it."""

    def with_maps(model) -> None:
        names = helper.make_node("ZipMap", ["scores"], ["loss"], domain="ai.onnx.ml", classlabels_strings=CLASSES)
        first = helper.make_node("ArgMax", ["scores"], ["number"], axis=1, keepdims=0)
        label = helper.make_node("ArrayFeatureExtractor", ["names", "number"], ["classLabel"], domain="ai.onnx.ml")
        model.graph.node.extend([names, first, label])
        model.graph.initializer.append(helper.make_tensor("names", TensorProto.STRING, [3], [b"a", b"b", b"c"]))
        del model.graph.output[:]
        kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        model.graph.output.extend(
            [
                helper.make_tensor_value_info("classLabel", TensorProto.STRING, [1, "N"]),
                helper.make_value_info("loss", helper.make_sequence_type_proto(kind)),
            ]
        )
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
        for key, value in (("Image.BitmapPixelFormat", "Bgr8"), ("Image.NominalPixelRange", "NominalRange_0_255")):
            model.metadata_props.add(key=key, value=value)

    made = folder / "made"
    made.mkdir()
    reads = Reads(net, lambda x: x.flip(1) / 127.5 - 1, softmax=True).eval()
    edit(to_onnx(made / "model.onnx", reads), with_maps)
    (made / "labels.txt").write_text("\r\n".join(CLASSES))
    sides = {f"CustomVision.Preprocess.Target{name}": str(SIZE) for name in ("Height", "Width")}
    more = {
        "CustomVision.Preprocess.ResizeMethod": "Stretch",
        "CustomVision.Preprocess.NormalizeStd": "[1.0, 1.0, 1.0]",
    }
    colours = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    write_json(made / "metadata_properties.json", sides | more | colours)
    with zipfile.ZipFile(folder / "export.zip", "w") as file:
        for one in made.iterdir():
            file.write(one, one.name)
    return folder / "export.zip"


def roboflow(net, folder: Path) -> Path:
    """A data set with YOLO's classifier in it: 0..1, one image at a time, a softmax, names in the file's metadata."""
    (folder / "train").mkdir()
    (folder / "train/_classes.csv").write_text("filename, " + ", ".join(CLASSES) + "\na.jpg, 0, 1, 0\n")
    (folder / "README.roboflow.txt").write_text("Parts - v3")
    made = to_onnx(folder / "best.onnx", Reads(net, lambda x: 2 * x - 1, softmax=True).eval(), batch=False)
    edit(made, lambda model: [model.metadata_props.add(key=key, value=value) for key, value in YOLO.items()])
    return folder


def label_studio(net, folder: Path) -> Path:
    """Annotations in JSON, and a model of N x S x S x 3 whose every dimension is free."""
    rows = [
        {"annotations": [{"result": [{"type": "choices", "from_name": "label", "value": {"choices": [name]}}]}]}
        for name in reversed(CLASSES)
    ]
    (folder / "project-7.json").write_text(json.dumps(rows))
    reads = Reads(net, lambda x: x.permute(0, 3, 1, 2)).eval()
    axes = {"x": {0: "n", 1: "h", 2: "w", 3: "c"}}
    torch.onnx.export(
        reads, (torch.zeros(2, SIZE, SIZE, 3),), str(folder / "model.onnx"), dynamic_axes=axes, input_names=["x"],
        dynamo=False,
    )  # fmt: skip
    return folder


def half_precision(net, folder: Path) -> Path:
    """Any ONNX file: float16 in and out, three named dimensions."""

    def free(model) -> None:
        for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ("n", None, "h", "w"), strict=True):
            if name:
                dim.dim_param = name

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.float()).half()

    file = folder / "half.onnx"
    options = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"], "dynamo": False}
    torch.onnx.export(Half().eval(), (torch.zeros(2, 3, SIZE, SIZE).half(),), str(file), **options)
    return edit(file, free)


def fitted_vit(folder: Path):
    """A small ViT of transformers with random weights and a classifier that is fitted on its features."""
    make_timm_importable()  # transformers imports torchvision, too
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    about = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = ViTForImageClassification(
        ViTConfig(**about, image_size=SIZE, patch_size=8, id2label=dict(enumerate(CLASSES)), num_labels=3)
    ).eval()
    images = [data for name in CLASSES for data in image_bytes(name, 12)]
    x = prepared(np.stack([preprocess(data, SIZE, "squash", 10**6) for data in images]))
    with torch.inference_mode():
        features = model.vit(x).last_hidden_state[:, 0].numpy()
        head = natural(features, np.repeat([0, 1, 2], 12), 3)
        model.classifier.weight.copy_(torch.from_numpy(head.weight))
        model.classifier.bias.copy_(torch.from_numpy(head.bias))
    model.save_pretrained(folder, safe_serialization=True)
    write_json(folder / "preprocessor_config.json", PROCESSOR)
    return lambda pixels: model(prepared(pixels)).logits


def prepared(pixels: np.ndarray) -> torch.Tensor:
    mean, std = PROCESSOR["image_mean"], PROCESSOR["image_std"]
    return timm_models.to_input(pixels, mean, std, torch.device("cpu"))


SAID = {"mean": HALF, "std": HALF}
FIVE = {
    "Custom Vision": (custom_vision, {}),
    "YOLO classifier": (roboflow, {}),
    "Label Studio": (label_studio, SAID | {"size": SIZE}),
    "ONNX": (half_precision, SAID | {"size": SIZE, "classes": CLASSES}),
    "Hugging Face ViTForImageClassification": (None, {}),
}


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.long] if make is None else []) for form, (make, _) in FIVE.items()]
)
def test_an_export_becomes_a_first_model_that_the_gate_judges(net, tmp_path, form):
    make, said = FIVE[form]
    (tmp_path / "export").mkdir()
    own, path, answer = net, tmp_path / "export", net
    if make is None:
        answer = fitted_vit(path)
    else:
        path = make(own, path)
    root = tmp_path / "project"
    shutil.copytree(finished_project(), root)
    for name in ("train_backbone", "train_head", "calibrate", "bundle", "clean"):
        shutil.rmtree(root / "artifacts" / name)
    lines: list[str] = []
    params = fast(root)
    with opened_export(path, said, "squash", say=lines.append) as model:
        assert (model.form, model.classes, model.size) == (form, CLASSES, SIZE)
        check_bounded(model, "multiclass")
        pixels = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
        with torch.inference_mode():
            x = timm_models.to_input(pixels, HALF, HALF, torch.device("cpu"))
            expected = (answer(pixels) if make is None else answer(x)).softmax(dim=1).numpy()
        logits = torch.from_numpy(open_model(model, "multiclass").outputs(pixels)[0])
        atol = 2e-2 if form == "ONNX" else 1e-4
        np.testing.assert_allclose(logits.softmax(dim=1).numpy(), expected, atol=atol)
        assert build(root, model, params) == {}
    assert lines[0].startswith(f"  {form}: 3 classes (Ankle boot, Bag, Trouser), {SIZE} pixels a side")
    assert any("alphabetical order" in line for line in lines) == (form == "Label Studio")
    gate = params.gate.model_copy(update={"resamples": 200, "max_ece": 1.0})
    verdict = judge_adopted(root, CLASSES, params.model_copy(update={"gate": gate}))
    assert (verdict.outcome, verdict.champion) == ("promote", None), verdict.sentence
    assert read_json(root / "artifacts/bundle/bundle.json")["adopted"]["form"] == form


def test_what_is_given_goes_before_what_the_export_says(net, tmp_path):
    said = {"classes": ["x", "y", "z"], "bgr": True, "fit": "pad", "mean": None}
    with opened_export(roboflow(net, tmp_path), said, "squash", say=str) as model:
        assert (model.classes, model.bgr, model.fit, model.mean) == (["x", "y", "z"], True, "pad", (0.0, 0.0, 0.0))


def test_pixels_go_unchanged_into_a_model_that_reads_uint8(net, tmp_path):
    reads = Reads(net, lambda x: (x.float() / 127.5 - 1).permute(0, 3, 1, 2)).eval()
    file, options = tmp_path / "raw.onnx", {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"], "dynamo": False}
    torch.onnx.export(reads, (torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8),), str(file), **options)
    pixels = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    for bgr in (False, True):
        with opened_export(file, {"classes": CLASSES, "bgr": bgr}, "squash", say=str) as model:
            found = open_model(model, "multiclass").outputs(pixels)[0]
        with torch.inference_mode():
            x = timm_models.to_input(pixels[..., ::-1].copy() if bgr else pixels, HALF, HALF, torch.device("cpu"))
            np.testing.assert_allclose(found, net(x).numpy(), rtol=1e-3, atol=1e-3)


def test_weights_that_do_not_belong_to_the_config_are_refused(tmp_path):
    fitted_vit(tmp_path)
    about = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", about | {"num_hidden_layers": 3})
    with (
        pytest.raises(EvergreenError, match=r"cannot be exported to ONNX: weights for .* are missing"),
        opened_export(tmp_path, {}, "squash", say=str),
    ):
        pass
