"""What an ONNX file says about itself: size, classes, colours. Nothing is run.

Its metadata is read as ONNX's own MetadataProps (Image.BitmapPixelFormat, Image.NominalPixelRange) and as Ultralytics
writes it (names, imgsz, task).
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.adopt.exports.facts import Facts, square
from tasks.common.errors import EvergreenError

RANGES = {  # mean and std of channels scaled to 0..1
    "NominalRange_0_255": (0.0, 1 / 255),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
}
COLOURS = {"Rgb8": False, "Bgr8": True}
MAPS = "ZipMap"  # gives probabilities by name, and knows the classes


def onnx_facts(path: Path) -> Facts:
    """Facts of the model at `path`. Raises EvergreenError for one that is not readable or not square."""
    from tasks.adopt.graph import input_layout, read_model

    model = read_model(path)
    about = {one.key: one.value for one in model.metadata_props}
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    sides = input_layout(model, inputs[0])[1] if len(inputs) == 1 else None
    fixed = [side for side in sides or () if isinstance(side, int)]
    facts = Facts("ONNX", path, _classes_of_maps(model), square(fixed, path, "its input") if len(fixed) == 2 else None)
    return _ultralytics(about, path).filled(facts) if "names" in about else facts.filled(image_facts(about, path))


def image_facts(about: Mapping[str, Any], path: Path) -> Facts:
    """Facts of ONNX's standard metadata of images, in a model or a file beside it."""
    colours, scale = about.get("Image.BitmapPixelFormat"), about.get("Image.NominalPixelRange")
    for value, known, name in (
        (colours, COLOURS, "Image.BitmapPixelFormat"),
        (scale, RANGES, "Image.NominalPixelRange"),
    ):
        if value is not None and value not in known:
            raise EvergreenError(f"{path}: {name} is {value!r}: expected one of {', '.join(known)}")
    mean, std = RANGES[scale] if scale else (None, None)
    return Facts(
        "ONNX",
        path,
        mean=None if mean is None else [mean] * 3,
        std=None if std is None else [std] * 3,
        bgr=COLOURS[colours] if colours else None,
    )


def _classes_of_maps(model: Any) -> list[str] | None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == MAPS and attribute.name == "classlabels_strings":
                return [name.decode("utf-8", "replace") for name in attribute.strings]
    return None


def _ultralytics(about: Mapping[str, str], path: Path) -> Facts:
    """A YOLO classifier: the middle of the image, channels 0..1."""
    if (task := about.get("task", "classify")) != "classify":
        raise EvergreenError(f"{path} is a YOLO model for {task!r}: only classifiers (task classify) can be adopted")
    try:
        names = ast.literal_eval(about["names"])  # literals only: runs nothing
        size = ast.literal_eval(about["imgsz"]) if "imgsz" in about else None
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise EvergreenError(f"{path}: its metadata cannot be read: {error}") from None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[place] for place in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise EvergreenError(f"{path}: names in its metadata is {about['names'][:100]!r}: expected {{0: name, ...}}")
    side = None if size is None else square(size, path, "imgsz")
    return Facts("YOLO classifier", path, names, side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "crop", bgr=False)
