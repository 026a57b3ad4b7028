"""Exported models with one fault each, as edits of their ONNX graph: input `images`, outputs of tasks.inference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks.common.files import atomic_path


def edit(name: str, change: Callable, project: Path) -> None:
    """Replace the model `name` in `project` by what `change` makes of its graph."""
    import onnx

    model = onnx.load(project / name)
    change(model.graph)
    with atomic_path(project / name) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _before(graph, *nodes, constants: dict[str, np.ndarray]) -> None:
    """Put `nodes`, which make "spoiled" of "images", before everything that reads the images."""
    for node in graph.node:
        node.input[:] = ["spoiled" if name == "images" else name for name in node.input]
    _constants(graph, constants)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _after_logits(graph, *nodes, constants: dict[str, np.ndarray]) -> None:
    """Put `nodes`, which make "logits" of "raw", after the node that makes the logits."""
    _constants(graph, constants)
    rest = list(graph.node)
    place = next(number for number, node in enumerate(rest) if "logits" in node.output)
    rest[place].output[:] = ["raw" if name == "logits" else name for name in rest[place].output]
    del graph.node[:]
    graph.node.extend([*rest[: place + 1], *nodes, *rest[place + 1 :]])


def _constants(graph, constants: dict[str, np.ndarray]) -> None:
    from onnx import numpy_helper

    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


def _node(kind: str, inputs: list[str], output: str, **settings):
    from onnx import helper

    return helper.make_node(kind, inputs, [output], **settings)


FLOAT, UINT8 = 1, 2  # onnx.TensorProto


def bgr(graph) -> None:
    order = {"bgr": np.array([2, 1, 0], np.int64)}
    _before(graph, _node("Gather", ["images", "bgr"], "spoiled", axis=3), constants=order)


def transposed(graph) -> None:
    _before(graph, _node("Transpose", ["images"], "spoiled", perm=[0, 2, 1, 3]), constants={})


def _times(graph, factor: float) -> None:
    _before(
        graph,
        _node("Cast", ["images"], "as float", to=FLOAT),
        _node("Mul", ["as float", "factor"], "product"),
        _node("Cast", ["product"], "spoiled", to=UINT8),
        constants={"factor": np.float32(factor)},
    )


def scaled_twice(graph) -> None:
    _times(graph, 1 / 255)


def underexposed(graph) -> None:
    _times(graph, 0.2)


def rounded(graph) -> None:
    """Every large weight becomes one of eight values."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.ndim >= 2 and value.size > 100:
            step = np.abs(value).max() / 3.5
            tensor.CopyFrom(numpy_helper.from_array((np.round(value / step) * step).astype(np.float32), tensor.name))


def replaced(pairs: list[tuple[np.ndarray, np.ndarray]], graph) -> None:
    """Each constant that equals the first of a pair becomes the second."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        for old, new in pairs:
            if value.shape == old.shape and np.allclose(value, old, atol=1e-6):
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new, value.dtype), tensor.name))


def not_a_number(graph) -> None:
    _after_logits(graph, _node("Mul", ["raw", "nan"], "logits"), constants={"nan": np.float32(np.nan)})


def fails_in_the_dark(graph) -> None:
    """Images of which no pixel is bright get the opposite of the right answer."""
    _after_logits(
        graph,
        _node("Reshape", ["images", "flat"], "pixels"),
        _node("Cast", ["pixels"], "as float", to=FLOAT),
        _node("TopK", ["as float", "hundred"], "brightest"),
        _node("Slice", ["brightest", "last", "end", "axis"], "bright"),
        _node("Less", ["bright", "limit"], "dark"),
        _node("Neg", ["raw"], "opposite"),
        _node("Where", ["dark", "opposite", "raw"], "logits"),
        constants={
            "flat": np.array([0, -1], np.int64),
            "hundred": np.array([100], np.int64),
            "last": np.array([99], np.int64),
            "end": np.array([100], np.int64),
            "axis": np.array([1], np.int64),
            "limit": np.float32(140),
        },
    )
    topk = next(node for node in graph.node if node.op_type == "TopK")
    topk.output.append("places of the brightest")


def slow(graph) -> None:
    """A product of two large matrices that adds nothing, made of the input so that it is computed each time."""
    side = np.array([2800, 2800], np.int64)
    _after_logits(
        graph,
        _node("Cast", ["images"], "as float", to=FLOAT),
        _node("Reshape", ["as float", "all"], "pixels"),
        _node("Slice", ["pixels", "zero", "one"], "pixel"),
        _node("Expand", ["pixel", "side"], "matrix"),
        _node("MatMul", ["matrix", "matrix"], "product"),
        _node("Reshape", ["product", "all"], "products"),
        _node("Slice", ["products", "zero", "one"], "first"),
        _node("Mul", ["first", "nothing"], "zeros"),
        _node("Add", ["raw", "zeros"], "logits"),
        constants={
            "all": np.array([-1], np.int64),
            "zero": np.array([0], np.int64),
            "one": np.array([1], np.int64),
            "side": side,
            "nothing": np.float32(0),
        },
    )


def large(graph) -> None:
    _constants(graph, {"ballast": np.random.default_rng(0).normal(size=(2_500, 2_500)).astype(np.float32)})


def _read_by_probabilities(graph, *nodes, constants: dict[str, np.ndarray]) -> None:
    """Put `nodes`, which make "changed" of "logits", between the logits and the probabilities."""
    for node in graph.node:
        node.input[:] = ["changed" if name == "logits" else name for name in node.input]
    _constants(graph, constants)
    rest = list(graph.node)
    place = next(number for number, node in enumerate(rest) if "logits" in node.output)
    del graph.node[:]
    graph.node.extend([*rest[: place + 1], *nodes, *rest[place + 1 :]])


def permuted(graph) -> None:
    classes = next(one for one in graph.output if one.name == "logits").type.tensor_type.shape.dim[1].dim_value
    order = {"order": np.roll(np.arange(classes, dtype=np.int64), 1)}
    _read_by_probabilities(graph, _node("Gather", ["logits", "order"], "changed", axis=1), constants=order)


def hotter(factor: float, graph) -> None:
    _read_by_probabilities(
        graph, _node("Mul", ["logits", "hotter"], "changed"), constants={"hotter": np.float32(factor)}
    )
