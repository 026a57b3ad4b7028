"""OpenVINO's intermediate representation, converted from the ONNX model.

    model.xml, model.bin     32-bit weights; nothing is rounded to 16 bits

N images, S the side of the input in pixels.
"""

from pathlib import Path

import numpy as np

from tasks.export.parity import by_name
from tasks.export.source import Source, Written
from tasks.inference.onnx_model import Outputs

# on CPUs with bfloat16, OpenVINO would compute with it and answer otherwise than model.onnx
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def write(source: Source, folder: Path) -> Written:
    """The two files."""
    import openvino

    openvino.save_model(openvino.convert_model(source.model), folder / "model.xml", compress_to_fp16=False)
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", EXACT)
    names = [port.get_any_name() for port in compiled.outputs]

    def run(pixels: np.ndarray) -> Outputs:
        found = compiled({"images": pixels})
        return by_name(names, [found[port] for port in compiled.outputs])

    return Written(run=run, checked="model.xml under OpenVINO", tools=("openvino",))
