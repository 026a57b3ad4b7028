"""The int8 graph: shapes as constants, the same answers in float, whatever the batch; few bits lost in int8."""

import numpy as np
import onnx
import pytest

from tasks.inference.onnx_model import OnnxModel
from tasks.int8 import graph
from tasks.int8.build import run
from tasks.int8.figures import by_class
from tests.support.small_project import SIZE, finished_project

FILE = "artifacts/calibrate/model.onnx"


@pytest.fixture(scope="module")
def prepared():
    return graph.prepared(finished_project() / FILE)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def test_prepared_answers_as_before_without_arithmetic_about_shapes(prepared, pixels):
    kinds = {node.op_type for node in prepared.graph.node}
    assert "Conv" in kinds
    assert not kinds & {"Shape", "Gather", "Ceil", "Unsqueeze"}
    expected = OnnxModel(finished_project() / FILE)(pixels)
    for count in (1, 5):
        found = run(prepared.SerializeToString(), pixels[:count])
        assert np.allclose(found.logits, expected.logits[:count], atol=1e-3)


def test_the_network_ends_at_the_features_and_begins_at_its_first_weights(prepared):
    nodes = graph.network(prepared)
    assert nodes[0].op_type == "Conv"
    assert "Gemm" not in {node.op_type for node in nodes}


def test_named_nodes_compute_in_int8_and_others_stay_in_float(prepared, pixels):
    convolutions = [node.name for node in graph.network(prepared) if node.op_type == "Conv"]
    found = graph.ranges(prepared, pixels)
    content = graph.quantised(prepared, found, convolutions[:2])
    assert content == graph.quantised(prepared, found, convolutions[:2])
    weights = [tensor for tensor in onnx.load_from_string(content).graph.initializer if tensor.data_type == 3]
    kernels = [tensor for tensor in weights if len(tensor.dims) == 4]
    assert len(kernels) == 2
    assert max(np.abs(onnx.numpy_helper.to_array(one)).max() for one in kernels) <= 64  # 7 bits: saturates nowhere
    expected, now = (run(one, pixels).probabilities for one in (prepared.SerializeToString(), content))
    assert 0 < np.abs(expected - now).max() < 0.2
    assert graph.quantised(prepared, found, []) == prepared.SerializeToString(deterministic=True)


def test_by_class_counts_right_answers_before_and_after():
    targets, before, after = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), np.array([0, 1, 1, 1])
    found = by_class(targets, before, after, ["a", "b", "c"])
    assert [(one.name, one.images, one.float_right, one.int8_right, one.lost) for one in found] == [
        ("a", 2, 100.0, 50.0, 50.0),
        ("b", 2, 50.0, 100.0, -50.0),
    ]
    (label,) = by_class(np.array([[1], [1]]), np.array([[1], [0]]), np.array([[1], [1]]), ["a"])
    assert (label.float_right, label.int8_right) == (50.0, 100.0)
