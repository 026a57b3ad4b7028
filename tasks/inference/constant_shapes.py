"""Shapes of an ONNX graph as constants, whatever the number of images.

Tracing leaves arithmetic about image sizes in the graph where a network pads by size. ONNX Runtime cannot fold it while
the number of images is free: it costs time at every answer and hides paddings from the optimiser.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

SHAPED = {
    "Pad": (1,),
    "Reshape": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Resize": (2, 3),
}  # inputs that are shapes


def with_constant_shapes(model: Any) -> Any:
    """`model` with every shape that does not depend on the number of images as a constant, and no node without use.

    Changes `model`. Outputs stay the same to the bit. A model with branches or loops stays as it is: their bodies
    read tensors that no input of a node names. Raises ONNX Runtime's exceptions if it cannot run the model.
    """
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return model
    known = {tensor.name for tensor in graph.initializer}
    wanted = {
        node.input[place]
        for node in graph.node
        for place in SHAPED.get(node.op_type, ())
        if place < len(node.input) and node.input[place] and node.input[place] not in known
    }
    names = sorted(wanted)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = {value.name for value in graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    one, three = (_values(probe, names, count) for count in (1, 3))
    for name in names:
        if np.array_equal(one[name], three[name]):
            graph.initializer.append(numpy_helper.from_array(one[name], f"{name}_fixed"))
            for node in graph.node:
                for place in SHAPED.get(node.op_type, ()):
                    if place < len(node.input) and node.input[place] == name:
                        node.input[place] = f"{name}_fixed"
    needed, kept = set(given), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return model


def _values(model: Any, names: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """The tensors `names` of `model` for `count` black images."""
    import onnxruntime

    if not names:
        return {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # more spin between the operators
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # takes longer than two runs
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    side = value.shape[1]
    return dict(
        zip(names, session.run(list(names), {"images": np.zeros((count, side, side, 3), np.uint8)}), strict=True)
    )
