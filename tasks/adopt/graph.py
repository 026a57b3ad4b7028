"""Read a foreign ONNX graph: its input's layout, and answers without maps of class names."""

from pathlib import Path
from typing import Any

from tasks.adopt.bounded import refuse_loops
from tasks.common.errors import EvergreenError

LAST = [0, 3, 1, 2]  # the permutation that a graph for N x S x S x 3 begins with


def read_model(path: Path) -> Any:
    """The checked model at `path`. Raises EvergreenError."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise EvergreenError(f"{path} is not a readable ONNX model: {first_line(error)}") from error
    refuse_loops(model, path)
    if not model.graph.output:
        raise EvergreenError(f"{path} has no output")
    return model


def without_maps(model: Any) -> Any:
    """`model` with tensors as outputs alone: a ZipMap's probabilities in place of its list of maps, and no class names.

    Custom Vision and scikit-learn's converters export {class name: probability} per image. It is changed in place.
    """
    from onnx import TensorProto, helper

    graph, made = model.graph, {name: node for node in model.graph.node for name in node.output}
    kept = []
    for value in graph.output:
        node = made.get(value.name)
        if node is not None and node.op_type == "ZipMap":
            kept.append(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None))
        elif value.type.HasField("tensor_type") and value.type.tensor_type.elem_type != TensorProto.STRING:
            kept.append(value)
    if len(kept) == len(graph.output) and not any(node.op_type == "ZipMap" for node in graph.node):
        return model
    needed, waiting = set(), [value.name for value in kept]
    while waiting:
        node = made.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting += [name for name in node.input if name]
    nodes = [node for node in graph.node if id(node) in needed]
    used = {name for node in nodes for name in node.input} | {value.name for value in kept}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.output[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.output.extend(kept)
    graph.initializer.extend(tensors)
    return model


def input_layout(model: Any, value: Any) -> tuple[bool, list[int | str]] | None:
    """(whether channels are the second dimension, the two sides) of the input `value`; None: it is not an RGB image.

    Dimensions may have names in place of numbers. Where that leaves both layouts possible, a transpose to
    N x 3 x S x S at the graph's beginning says that channels come last.
    """
    shape = shape_of(value)
    if len(shape) != 4:
        return None
    second, last = (size == 3 or isinstance(size, str) for size in (shape[1], shape[3]))
    if second and last:
        if 3 in (shape[1], shape[3]) and shape[1] != shape[3]:
            second = shape[1] == 3
        else:
            readers = [node for node in model.graph.node if value.name in node.input]
            second = not any(node.op_type == "Transpose" and _permutation(node) == LAST for node in readers)
    elif not second and not last:
        return None
    return second, shape[2:] if second else shape[1:3]


def _permutation(node: Any) -> list[int]:
    return next((list(one.ints) for one in node.attribute if one.name == "perm"), [])


def shape_of(value: Any) -> list[int | str]:
    """Dimensions of an input or output: numbers, or names where they are free."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value else dim.dim_param or "?" for dim in dims]


def open_session(model: Any, path: Path) -> Any:
    """An ONNX Runtime session of `model` on one thread. Raises EvergreenError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own types
        raise EvergreenError(f"{path} cannot be run by ONNX Runtime: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
