"""Export networks as ONNX graphs: traced at one batch size, or with torch's newer exporter.

Tracing takes one second where torch's newer exporter takes six. Every shape in the graph is a constant, so ONNX Runtime
computes nothing but the network. Tracing goes wrong silently where the network branches on its input or has the number
of images in a shape. Callers must compare the graph's outputs with torch's.

N images, S pixels per side of the input.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

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


def traced_freely(module: torch.nn.Module, pixels: np.ndarray, outputs: Sequence[str]) -> onnx.ModelProto:
    """Trace `module` for any number of images."""
    return with_free_batch(traced(module, pixels, outputs))


def exported(module: torch.nn.Module, pixels: np.ndarray, outputs: Sequence[str]) -> onnx.ModelProto:
    """Export `module` with torch's newer exporter, without its metadata. `pixels` needs two images or more."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # onnxscript's deprecations say nothing about the model
        program = torch.onnx.export(
            module,
            (torch.from_numpy(pixels),),  # two images: from a batch of one, the exporter makes N the constant 1
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return _anonymous(program.model_proto)


def exported_with_plain_attention(
    module: torch.nn.Module, pixels: np.ndarray, outputs: Sequence[str]
) -> onnx.ModelProto:
    """`exported`, with attention as products and softmax.

    The exporter gives torch's fused attention another memory order than torch does: the views that timm's MaxViT and
    CoAtNet take of its result then fail.
    """
    with _plain_attention(module):
        return exported(module, pixels, outputs)


Exporter = Callable[[torch.nn.Module, np.ndarray, Sequence[str]], onnx.ModelProto]


def exporters(module: torch.nn.Module) -> list[Exporter]:
    """What can export `module`, the fastest first. Each next one exports more networks correctly."""
    return [traced_freely, exported, *([exported_with_plain_attention] if _fused(module) else [])]


def _fused(module: torch.nn.Module) -> list[torch.nn.Module]:
    return [part for part in module.modules() if getattr(part, "fused_attn", False)]


@contextmanager
def _plain_attention(module: torch.nn.Module) -> Iterator[None]:
    fused = _fused(module)
    for part in fused:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True


def _anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without the exporter's metadata: its stack traces contain local paths and change the bytes."""
    from google.protobuf.message import Message

    def strip(message: Message) -> None:
        for field, value in message.ListFields():
            if field.name in ("metadata_props", "doc_string"):
                message.ClearField(field.name)
            elif field.message_type is not None:
                for part in value if not isinstance(value, Message) else (value,):
                    strip(part)

    strip(model)
    return model
