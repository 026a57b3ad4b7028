"""Networks as ONNX graphs, by tracing them once at one batch size.

Tracing takes a second where torch's newer exporter takes six, and every shape in its graph is a constant, so that ONNX
Runtime has nothing to compute but the network. What tracing gets wrong (a branch on the input, the number of images
baked into a shape) it gets wrong silently: whoever uses it compares the graph's answers with torch's.

N images, S the side of the input in pixels.
"""

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import onnx
import torch


def traced(module: torch.nn.Module, pixels: np.ndarray, outputs: Sequence[str]) -> bytes:
    """`module` for input `images` of the shape and type of `pixels`. Raises whatever the exporter does not know."""
    content = io.BytesIO()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of tracing, and that this is the older of torch's exporters
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
    """A traced graph whose input and outputs may have any number of rows, if nothing inside depends on it."""
    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.ClearField("value_info")  # shapes in between, of the traced number
    return model
