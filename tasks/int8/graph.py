"""The int8 form of a finished ONNX model: fixed shapes, activation ranges, the quantised graph.

ONNX Runtime's own tools do the work. Weights get a scale for each channel and 7 of 8 bits: with 8, processors without
int8 dot products (AVX2) add two products in 16 bits and saturate, so a model would answer differently from one machine
to another. N images, S the side of the input in pixels.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.common.errors import EvergreenError
from tasks.inference.constant_shapes import with_constant_shapes

WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")  # what costs time, and gains it in int8
CARRIED = ("Add", "Mul", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")  # between them
BATCH = 16  # images at once while ranges are measured: every activation is kept


def prepared(path: Path) -> Any:
    """The model at `path` with constant shapes, simplified by ONNX Runtime, still in float.

    An exporter may leave arithmetic about image sizes in the graph. It costs time at every answer, hides paddings from
    the optimiser, and quantising it would change sizes. Raises EvergreenError if ONNX Runtime cannot run the model.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        fixed = with_constant_shapes(onnx.load(str(path)))
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "simple.onnx")
            onnxruntime.InferenceSession(fixed.SerializeToString(), options, providers=["CPUExecutionProvider"])
            model = onnx.load(options.optimized_model_filepath)
        for number, node in enumerate(model.graph.node):  # the quantiser finds nodes by name
            node.name = f"{number}:{node.op_type}"
        return onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # ONNX's and ONNX Runtime's own types
        raise EvergreenError(f"{path} cannot be prepared for int8: {str(error).strip()[:300]}") from error


def network(model: Any) -> list[Any]:
    """Nodes of `model` that may compute in int8, in order: from the first weighted one to the features.

    Normalising before them, the classifier and the calibration after them stay in float: they cost little.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    waiting, inside = ["features"], set()
    while waiting:
        node = made.get(waiting.pop())
        if node is not None and node.name not in inside:
            inside.add(node.name)
            waiting += node.input
    nodes = [node for node in model.graph.node if node.name in inside]
    first = next((place for place, node in enumerate(nodes) if node.op_type in WEIGHTED), len(nodes))
    return [node for node in nodes[first:] if node.op_type in (*WEIGHTED, *CARRIED)]


def ranges(model: Any, pixels: np.ndarray) -> Any:
    """The smallest and largest value of every activation on `pixels`, (N, S, S, 3) uint8."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Blocks(CalibrationDataReader):
        def __init__(self, blocks: Iterable[np.ndarray]):
            self._blocks = iter(blocks)

        def get_next(self) -> dict[str, np.ndarray] | None:
            block = next(self._blocks, None)
            return None if block is None else {"images": block}

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(model.SerializeToString())
        calibrator = create_calibrator(
            str(file),
            [*WEIGHTED, *CARRIED],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        blocks = (np.ascontiguousarray(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH))
        calibrator.collect_data(Blocks(blocks))
        return calibrator.compute_data()


def quantised(model: Any, found: Any, names: Sequence[str]) -> bytes:
    """`model` with the nodes `names` in int8, given the activation `found` of `ranges`."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if names:
        quantiser = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=found,
            nodes_to_quantize=list(names),
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, *CARRIED],
            extra_options={},
        )
        quantiser.quantize_model()
        copy = quantiser.model.model
    return copy.SerializeToString(deterministic=True)
