"""A model repository of Triton Inference Server: the ONNX model, dynamic batching, labels.

    model_repository/<name>/config.pbtxt
    model_repository/<name>/labels.txt      class names, so that Triton can answer with the top k
    model_repository/<name>/1/model.onnx

N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

import json
import shutil
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.export.source import Source, Written
from tasks.inference.onnx_model import OnnxModel

MOST = 64  # images in one batch of the server
PREFERRED = (8, 16, 32)
DELAY = 2000  # microseconds that a request may wait for others
TYPES = {"probabilities": "K", "logits": "K", "features": "D"}


def write(source: Source, folder: Path) -> Written:
    """The model repository under `folder`."""
    place = folder / "model_repository" / source.name
    model = place / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    shutil.copyfile(source.model, model)
    (place / "labels.txt").write_text("".join(f"{name}\n" for name in label_lines(source)), encoding="utf-8")
    (place / "config.pbtxt").write_text(config(source, width(source)), encoding="utf-8")
    return Written(run=OnnxModel(model), checked="model.onnx of the repository", tools=("onnxruntime",))


def width(source: Source) -> int:
    """D of the source's model."""
    return source.about["backbone"]["feature_dim"]


def label_lines(source: Source) -> list[str]:
    """One line per class. Raises EvergreenError for a name with a line break, which Triton's file cannot hold."""
    if wrong := [name for name in source.classes if len(name.splitlines()) != 1]:
        raise EvergreenError(f"the class {wrong[0]!r} has a line break in its name: rename it with `evergreen classes`")
    return source.classes


def config(source: Source, features: int, platform: str = "onnxruntime_onnx") -> str:
    """config.pbtxt for the `platform`; features: D."""
    dims = {"probabilities": len(source.classes), "logits": len(source.classes), "features": features}
    outputs = []
    for name, size in dims.items():
        labels = ', label_filename: "labels.txt"' if name == "probabilities" else ""
        outputs.append(f'  {{ name: "{name}", data_type: TYPE_FP32, dims: [ {size} ]{labels} }}')
    lines = [
        f"name: {json.dumps(source.name)}",
        f"platform: {json.dumps(platform)}",
        f"max_batch_size: {MOST}",
        "input [",
        f'  {{ name: "images", data_type: TYPE_UINT8, dims: [ {source.side}, {source.side}, 3 ] }}',
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
        f"dynamic_batching {{ preferred_batch_size: {list(PREFERRED)}, max_queue_delay_microseconds: {DELAY} }}",
        f'parameters {{ key: "version" value {{ string_value: {json.dumps(source.version)} }} }}',
    ]
    return "\n".join(lines) + "\n"
