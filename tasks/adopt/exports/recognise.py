"""Recognise the export of another tool: a folder becomes what it says about its model."""

from dataclasses import replace
from pathlib import Path

from tasks.adopt.exports.class_files import classes_in
from tasks.adopt.exports.custom_vision import custom_vision_facts, is_custom_vision
from tasks.adopt.exports.facts import Facts
from tasks.adopt.exports.hugging_face import KIND, hugging_face_facts, is_hugging_face
from tasks.adopt.exports.onnx_facts import onnx_facts
from tasks.common.errors import EvergreenError

MODELS = (".onnx", ".safetensors")
PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt", ".joblib")
OTHERS = (".tflite", ".pb", ".mlmodel", ".h5", ".keras", ".engine")
EXPECTED = (
    "expected one .onnx file, with its classes beside it (Custom Vision, Roboflow, Label Studio), or a folder of the "
    "Hugging Face hub (config.json, preprocessor_config.json, model.safetensors)"
)


def recognise(path: Path) -> Facts:
    """What the model at `path`, a file or the folder of an export, says about itself. Raises EvergreenError."""
    if path.suffix == ".safetensors" and path.is_file():
        return Facts("safetensors", path)
    if not path.is_dir():
        return onnx_facts(path) if path.is_file() else Facts("", path)  # `open_model` says that it is missing
    model = _model(path)
    folder = model.parent
    if is_hugging_face(folder):
        facts = hugging_face_facts(folder, model)
        return facts.filled(onnx_facts(model)) if model.suffix == ".onnx" else facts
    if model.suffix == ".safetensors":
        raise EvergreenError(f"{path} has {model.name} without a config.json that says what it belongs to: {EXPECTED}")
    own, found = onnx_facts(model), classes_in(path)
    if is_custom_vision(folder):
        facts = custom_vision_facts(folder, model)
        facts = replace(facts, bgr=facts.bgr if own.bgr is None else own.bgr)
    else:
        facts = Facts(own.form if own.form != "ONNX" else _tool(path), model)
    if found is None or own.classes is not None:
        return facts.filled(own)
    names, note = found
    return replace(facts, classes=names, notes=(note,) if note else ()).filled(own)


def from_transformers(facts: Facts) -> bool:
    """Whether the weights are those of a model of transformers, which must become ONNX first."""
    return facts.path.suffix == ".safetensors" and facts.backbone is None and facts.form.endswith(KIND)


def _model(folder: Path) -> Path:
    """The one model file in `folder`. ONNX goes before weights."""
    files = sorted(one for one in folder.rglob("*") if one.is_file() and not one.is_symlink())
    for suffix in MODELS:
        found = [one for one in files if one.suffix == suffix]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(str(one.relative_to(folder)) for one in found[:5])
            raise EvergreenError(f"{folder} has {len(found)} {suffix} files ({listed}): name the one to adopt")
    if pickles := [one for one in files if one.suffix in PICKLES]:
        raise EvergreenError(
            f"{folder} has {pickles[0].name}, a pickle, which can run code when it is read: export it to ONNX where it "
            f"was made, e.g. `yolo export model={pickles[0].name} format=onnx`, or save it as safetensors"
        )
    if others := [one for one in files if one.suffix in OTHERS]:
        raise EvergreenError(f"{folder} has {others[0].name}, which is not read: export the model as ONNX; {EXPECTED}")
    raise EvergreenError(f"{folder} has no model: {EXPECTED}")


def _tool(folder: Path) -> str:
    """The tool whose export `folder` is, by the files that it writes."""
    if any(folder.glob("README.roboflow*")) or any(folder.glob("**/_classes.csv")):
        return "Roboflow"
    return "Label Studio" if any(folder.glob("*.xml")) or any(folder.glob("*.json")) else "ONNX"
