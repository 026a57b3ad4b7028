"""Export networks as ONNX graphs by tracing them once at one batch size.

Tracing takes one second where torch's newer exporter takes six. Every shape in the graph is a constant, so ONNX Runtime
computes nothing but the network. Tracing goes wrong silently where the network branches on its input or has the number
of images in a shape. Callers must compare the graph's outputs with torch's.

N images, S pixels per side of the input.
"""

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import onnx
import torch


def traced(module: torch.nn.Module, pixels: np.ndarray, outputs: Sequence[str]) -> bytes:
    """Export `module` for an input `images` with the shape and type of `pixels`. Raises the exporter's exceptions."""
    content = io.BytesIO()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # tracing warns, and torch warns that this is its older exporter
        torch.onnx.export(
            module,
            (torch.from_numpy(pixels),),
            content,
            input_names=["images"],
            output_names=list(outputs),
            dynamo=False,
        )
    return content.getvalue()


def with_free_batch(content: bytes) -> onnx.ModelProto:
    """Let the input and outputs of a traced graph have any number of rows. Nothing inside may depend on it."""
    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.ClearField("value_info")  # inner shapes, which contain the traced number of rows
    return model
