"""What exports say about their model, read without running it."""

from pathlib import Path

import pytest

from flows.project.deployed_exports import opened_export
from tasks.adopt.exports.class_files import classes_in
from tasks.adopt.exports.hugging_face import processor_facts
from tasks.adopt.exports.recognise import recognise
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tests.support.deployed_models import YOLO, edit, to_onnx


@pytest.mark.parametrize(
    ("about", "size", "fit", "mean", "notes"),
    [
        ({"size": 224, "image_mean": [0.5] * 3}, 224, "squash", 0.5, 0),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": [0.4] * 3}, 224, "crop", 0.4, 1),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, "squash", 0.5, 0),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
         224, "crop", 0.5, 1),
        ({"size": 64, "rescale_factor": 1 / 127.5, "do_normalize": False}, 64, "squash", 0.0, 0),
        ({"size": 64, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 64, "squash", 0.5, 0),
    ],
)  # fmt: skip
def test_a_processor_of_hugging_face_gives_size_cut_and_colours(about, size, fit, mean, notes):
    found = processor_facts(about, Path("p.json"), Path("model"))
    assert (found.size, found.fit, len(found.notes)) == (size, fit, notes)
    assert found.mean == pytest.approx([mean] * 3)
    if about.get("do_normalize") is False:
        assert found.std == pytest.approx([0.5] * 3)  # x / 127.5 is (x / 255) / 0.5


def test_a_model_of_timm_on_the_hub_names_its_backbone(tmp_path):
    cfg = {"input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    write_json(tmp_path / "config.json", {"architecture": "resnet18", "label_names": ["a", "b"], "pretrained_cfg": cfg})
    (tmp_path / "model.safetensors").write_bytes(b"-")
    found = recognise(tmp_path)
    assert (found.backbone, found.size, found.mean, found.classes) == ("resnet18", 224, [0.1, 0.2, 0.3], ["a", "b"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "b\na\n"),
        ("notes.json", '{"categories": [{"id": 1, "name": "a"}, {"id": 0, "name": "b"}]}'),
        ("_classes.csv", "filename,b,a\n1.jpg,0,1\n"),
        ("data.yaml", "names: [b, a]\n"),
        ("data.yaml", "names:\n  1: a\n  0: b\n"),
        ("config.xml", '<View><Choices name="label"><Choice value="b"/><Choice value="a"/></Choices></View>'),
    ],
)
def test_classes_come_in_the_order_that_the_export_gives(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert classes_in(tmp_path) == (["b", "a"], None)


def test_what_cannot_be_adopted_says_what_to_do(net, tmp_path):
    with pytest.raises(EvergreenError, match=r"has no model: expected one \.onnx file"):
        recognise(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"-")
    with pytest.raises(EvergreenError, match=r"weights\.pt, a pickle, .*yolo export model=weights\.pt format=onnx"):
        recognise(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"-")
    with pytest.raises(EvergreenError, match=r"without a config\.json"):
        recognise(tmp_path)
    write_json(tmp_path / "config.json", {"architectures": ["DetrForObjectDetection"]})
    with pytest.raises(EvergreenError, match="describes DetrForObjectDetection: only image classifiers"):
        recognise(tmp_path)
    made = to_onnx(tmp_path / "model.onnx", net)
    with (
        pytest.raises(EvergreenError, match=r"does not say its classes: .*--classes"),
        opened_export(made, {}, "squash", say=str),
    ):
        pass
    edit(made, lambda model: model.metadata_props.add(key="Image.NominalPixelRange", value="NominalRange_16_235"))
    with pytest.raises(EvergreenError, match="'NominalRange_16_235': expected one of NominalRange_0_255"):
        recognise(made)
    edit(
        made,
        lambda model: [
            model.metadata_props.add(key=key, value=value) for key, value in (YOLO | {"task": "detect"}).items()
        ],
    )
    with pytest.raises(EvergreenError, match="a YOLO model for 'detect'"):
        recognise(made)
    (tmp_path / "other.onnx").write_bytes(made.read_bytes())
    with pytest.raises(EvergreenError, match=r"has 2 \.onnx files \(model\.onnx, other\.onnx\): name the one"):
        recognise(tmp_path)
