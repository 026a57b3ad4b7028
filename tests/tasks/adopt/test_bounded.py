"""Foreign ONNX files that loop, ask for terabytes, or reach out of their folder are refused with a reason."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.adopt.bounded import check_bounded
from tasks.adopt.deployed import Deployed
from tasks.common.errors import EvergreenError

SIDE, CLASSES = 8, ["bag", "boot"]


def write(path: Path, nodes: list, initializers: dict, opsets=()) -> Deployed:
    """A model of `nodes` from "x" (N, 3, SIDE, SIDE) to "flat", then a linear layer."""
    weights = {"w": np.ones((3 * SIDE * SIDE, 2), np.float32)} | initializers
    nodes = [*nodes, helper.make_node("Gemm", ["flat", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    found = [helper.make_opsetid("", 17), *opsets]
    onnx.save(helper.make_model(graph, opset_imports=found, ir_version=8), path)
    return Deployed(path=path, classes=CLASSES, size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)


def flat(source: str = "x") -> object:
    return helper.make_node("Flatten", [source], ["flat"])


def endless() -> tuple[list, dict]:
    """A loop whose condition stays true."""
    names = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, None)]
    inputs = [helper.make_tensor_value_info(*about) for about in names]
    outputs = [
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
    ]
    copies = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["v_out"])]
    body = helper.make_graph(copies, "body", inputs, outputs)
    return [helper.make_node("Loop", ["", "yes", "x"], ["looped"], body=body), flat("looped")], {"yes": np.array(True)}


def huge() -> tuple[list, dict]:
    """A small file that repeats each image until it needs 6 TB."""
    nodes = [
        helper.make_node("Tile", ["x", "times"], ["tiled"]),
        helper.make_node("ReduceSum", ["tiled", "axis"], ["summed"], keepdims=1),
        helper.make_node("Expand", ["summed", "shape"], ["expanded"]),
        flat("expanded"),
    ]
    shape, axis = np.array([1, 3, SIDE, SIDE], np.int64), np.array([3], np.int64)
    return nodes, {"times": np.array([1, 1, 1, 1 << 30], np.int64), "shape": shape, "axis": axis}


def test_a_plain_classifier_is_within_the_bounds(tmp_path):
    check_bounded(write(tmp_path / "plain.onnx", [flat()], {}), "multiclass")


def test_a_loop_is_refused_by_name_before_anything_runs(tmp_path):
    with pytest.raises(EvergreenError, match=r"loop\.onnx has a node Loop, which may never end"):
        check_bounded(write(tmp_path / "loop.onnx", *endless()), "multiclass")


def test_a_tensor_of_terabytes_ends_in_a_sentence(tmp_path):
    with pytest.raises(EvergreenError, match=r"huge\.onnx (fails on a batch|cannot be run|ended the process)"):
        check_bounded(write(tmp_path / "huge.onnx", *huge()), "multiclass")


def test_weights_outside_the_folder_and_unknown_operators_are_refused(tmp_path):
    made = write(tmp_path / "odd.onnx", [flat()], {})
    model = onnx.load(made.path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    made.path.write_bytes(model.SerializeToString())
    with pytest.raises(EvergreenError, match=r"odd\.onnx is not a readable ONNX model"):
        check_bounded(made, "multiclass")
    custom = helper.make_node("Run", ["x"], ["flat"], domain="evil")
    made = write(tmp_path / "custom.onnx", [custom], {}, [helper.make_opsetid("evil", 1)])
    with pytest.raises(EvergreenError, match=r"custom\.onnx"):
        check_bounded(made, "multiclass")
