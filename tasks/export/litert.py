"""LiteRT (TensorFlow Lite): model.tflite for phones and small devices, converted from torch.

It takes one image at a time, uint8 (1, S, S, 3). Its outputs 0, 1 and 2 are logits, probabilities and features.
S is the side of the input in pixels.
"""

import logging
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

from tasks.export.network import load
from tasks.export.source import Source, Written
from tasks.export.torch_files import example
from tasks.inference.onnx_model import Outputs


def write(source: Source, folder: Path) -> Written:
    """model.tflite."""
    from ai_edge_litert.interpreter import Interpreter

    file = folder / "model.tflite"
    network = load(source)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # a line per pass
        logging.disable(logging.INFO)
        try:
            import litert_torch

            litert_torch.convert(network, (example(source, 1),)).export(str(file))
        finally:
            logging.disable(logging.NOTSET)
    interpreter = Interpreter(str(file), num_threads=1)
    runner = interpreter.get_signature_runner()
    (given,) = runner.get_input_details()

    def run(pixels: np.ndarray) -> Outputs:
        found = runner(**{given: pixels})
        return Outputs(*(np.array(found[f"output_{place}"]) for place in range(len(Outputs._fields))))

    tools = ("litert-torch", "ai-edge-litert", "torch", "timm")
    return Written(run=run, checked="model.tflite under LiteRT", tools=tools, sizes=(1,))
