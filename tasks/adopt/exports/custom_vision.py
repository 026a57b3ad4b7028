"""What Custom Vision writes beside its model.onnx: metadata_properties.json."""

import json
from pathlib import Path

from tasks.adopt.exports.facts import Facts, square, triple
from tasks.adopt.exports.onnx_facts import RANGES, image_facts
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json

FILE, MANIFEST = "metadata_properties.json", "cvexport.manifest"
PART = "CustomVision.Preprocess."
FITS = {"Stretch": "squash", "Fit": "pad", "Fill": "crop"}


def is_custom_vision(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (FILE, MANIFEST))


def custom_vision_facts(folder: Path, model: Path) -> Facts:
    """Facts of `model`. The colours that the model itself states count before those of the file."""
    facts, file = Facts("Custom Vision", model, fit="squash"), folder / FILE
    if not file.is_file():
        return facts
    try:
        about = {key: value for key, value in read_json(file).items() if isinstance(value, str)}
        parts = {key.removeprefix(PART): value for key, value in about.items() if key.startswith(PART)}
        lists = {key: json.loads(parts[key]) for key in ("NormalizeMean", "NormalizeStd") if parts.get(key)}
        sides = [int(parts[key]) for key in ("TargetHeight", "TargetWidth") if int(parts.get(key) or 0)]
    except (OSError, ValueError, AttributeError) as error:
        raise EvergreenError(f"{file} cannot be read: {error}") from None
    said = image_facts(about, file)
    low, step = RANGES[about.get("Image.NominalPixelRange", "Normalized_0_1")]
    mean = triple(lists.get("NormalizeMean") or [0.0], file, "NormalizeMean")
    std = triple(lists.get("NormalizeStd") or [1.0], file, "NormalizeStd")
    return Facts(
        "Custom Vision",
        model,
        size=square(sides, file, "TargetHeight x TargetWidth") if sides else None,
        mean=[low + one * step for one in mean],  # they speak of values in the model's own range
        std=[one * step for one in std],
        fit=FITS.get(parts.get("ResizeMethod", "Stretch"), "squash"),
        bgr=said.bgr,
    )
