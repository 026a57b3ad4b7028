"""Wrap a deployed ONNX classifier: raw uint8 pixels in, logits, probabilities and features out.

Its own graph is not changed. Scaling and normalising are added before it, the calibration after it.
N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.adopt.deployed import Deployed
from tasks.adopt.graph import first_line, input_layout, open_session, read_model, shape_of, without_maps
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.scaling import Scaling, scale

OURS = "evergreen_"  # prefix of the names that are added; the model's own names get OWN
OWN = "adopted_"
ENDS = ("Softmax", "LogSoftmax", "Sigmoid")  # what turns logits into probabilities
PASSED = ("Identity", "Cast", "Add", "Div", "Mul", "Reshape", "Flatten", "Squeeze", "Dropout")  # between it and them
KINDS = {1: np.float32, 10: np.float16, 2: np.uint8}  # element types of input we can feed


class AdoptedOnnx:
    """A deployed ONNX file as a classifier with logits and features.

    Raises EvergreenError if the model does not fit what `deployed` says; the error quotes both sides.
    """

    def __init__(self, deployed: Deployed, task: str):
        self.path, self.classes, self.size, self.task = deployed.path, deployed.classes, deployed.size, task
        self.scale = (1 / (255 * np.array(deployed.std))).astype(np.float32)
        self.shift = (-np.array(deployed.mean) / np.array(deployed.std)).astype(np.float32)
        self._inner, self._bgr = _load(deployed.path), deployed.bgr
        self._input, self._first, self._dtype = self._check_input()
        self._output = _answers(self._inner.graph.output, len(self.classes))
        self._logits, last = self._walk_back()
        self._features = self._find_features(deployed.features, last)
        probe = np.random.default_rng(0).integers(0, 256, (3, self.size, self.size, 3), np.uint8)
        found = self._raw(probe)
        self._check_output(found)
        self._log = self._logits is None and bool(
            (found[0] >= 0).all() and (task == "multilabel" or np.allclose(found[0].sum(axis=1), 1, atol=1e-3))
        )
        self.feature_dim = found[1].shape[1]

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, K), features (N, D)) of (N, S, S, 3) uint8."""
        logits, features = self._raw(pixels)
        return (self._to_logits(logits) if self._log else logits), features

    def tensors(self) -> dict[str, np.ndarray]:
        """The model's weights by their own names."""
        from onnx import numpy_helper

        return {f"onnx.{t.name.removeprefix(OWN)}": numpy_helper.to_array(t) for t in self._inner.graph.initializer}

    def write(self, path: Path, scaling: Scaling, sample: np.ndarray) -> float:
        """Write the finished model; return its largest difference in probability from the model as given.

        sample: (N, S, S, 3) uint8 real pixels to compare on.
        """
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._wrapped(scaling).SerializeToString(deterministic=True))
            found = OnnxModel(temporary)(sample)
        logits, _ = self.outputs(sample)
        return float(np.abs(found.probabilities - scale(logits, scaling, self.task)).max())

    # the model as given

    def _check_input(self) -> tuple[Any, bool, np.dtype]:
        """(its one input, whether channels are the second dimension, element type)."""
        known = {tensor.name for tensor in self._inner.graph.initializer}
        inputs = [value for value in self._inner.graph.input if value.name not in known]
        if len(inputs) != 1:
            raise EvergreenError(
                f"{self.path} has {len(inputs)} inputs ({_names(inputs)}): expected one, the image batch"
            )
        (value,) = inputs
        kind, shape = value.type.tensor_type.elem_type, shape_of(value)
        wanted = f"N x 3 x {self.size} x {self.size} or N x {self.size} x {self.size} x 3"
        if kind not in KINDS:
            raise EvergreenError(
                f"{self.path}: input {value.name.removeprefix(OWN)} has element type {kind}; expected floats (what "
                "normalising gives) or uint8 (pixels that the model normalises by itself)"
            )
        layout = input_layout(self._inner, value)
        if layout is None or any(isinstance(side, int) and side != self.size for side in layout[1]):
            shown = " x ".join(map(str, shape)).replace(OWN, "") or "unknown"
            raise EvergreenError(
                f"{self.path} reads {shown}, --size {self.size} means {wanted}: give the size it was exported with"
            )
        value.type.tensor_type.shape.dim[0].dim_param = "N"
        return value, layout[0], np.dtype(KINDS[kind])

    def _check_output(self, found: tuple[np.ndarray, np.ndarray]) -> None:
        answers, features = found
        if answers.ndim != 2 or answers.shape[1] != len(self.classes):
            columns = " x ".join(map(str, answers.shape[1:]))
            raise EvergreenError(
                f"{self.path} answers with {columns} values an image, but {len(self.classes)} classes are given "
                f"({', '.join(self.classes[:10])}): they must be all of the model's, in its order"
            )
        if not all(np.isfinite(part).all() for part in found):
            raise EvergreenError(f"{self.path} answers random pixels with values that are not finite")
        if features.ndim != 2 or len(features) != len(answers):
            raise EvergreenError(
                f"{self.path}: features {self._features.removeprefix(OWN)} have shape {features.shape}, N x D expected"
            )

    def _walk_back(self) -> tuple[str | None, Any]:
        """(name of the logits if the graph ends in a softmax or sigmoid, else None; node of the last linear layer,
        None if the graph does not end in one)."""
        made = {name: node for node in self._inner.graph.node for name in node.output}
        fixed = {tensor.name for tensor in self._inner.graph.initializer}
        fixed |= {name for name, node in made.items() if node.op_type == "Constant"}
        name, logits = self._output, None
        while (node := made.get(name)) is not None:
            inputs = [source for source in node.input if source and source not in fixed]
            if node.op_type == "Gemm" or (node.op_type == "MatMul" and node.input[1] in fixed):
                return logits, node
            if node.op_type in ENDS and logits is None and node.op_type != "LogSoftmax":
                logits = node.input[0]
            elif node.op_type not in (*PASSED, *ENDS) or len(inputs) != 1:
                break
            name = inputs[0]
        return logits, None

    def _find_features(self, named: str | None, last: Any) -> str:
        tensors = {name for node in self._inner.graph.node for name in node.output}
        if named is not None:
            if OWN + named not in tensors:
                near = [n.removeprefix(OWN) for n in tensors if named.lower() in n.lower()]
                raise EvergreenError(
                    f"{self.path} has no tensor {named!r}" + (f"; there are {', '.join(sorted(near)[:5])}" * bool(near))
                )
            return OWN + named
        if last is None:
            ends = [f"{n.op_type} -> {n.output[0].removeprefix(OWN)}" for n in list(self._inner.graph.node)[-6:]]
            raise EvergreenError(
                f"{self.path} does not end in a linear layer, so its features (N x D, for drift and unfamiliar images) "
                f"cannot be found: name their tensor with --features. Its last nodes: {', '.join(ends)}"
            )
        return last.input[0]

    def _raw(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the model's answers, before a final softmax if there is one; features), float32."""
        if not hasattr(self, "_session"):
            self._session = open_session(self._wrapped(None), self.path)
        parts = []
        for start in range(0, max(len(pixels), 1), 64):
            block = np.ascontiguousarray(pixels[start : start + 64])
            try:
                parts.append(self._session.run(["logits", "features"], {"images": block}))
            except Exception as error:  # ONNX Runtime's own types
                raise EvergreenError(
                    f"{self.path} fails on a batch of {len(block)} images ({first_line(error)}): export it with a "
                    "free first dimension"
                ) from error
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _to_logits(self, probabilities: np.ndarray) -> np.ndarray:
        p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
        return (np.log(p / (1 - p)) if self.task == "multilabel" else np.log(p)).astype(np.float32)

    # the graph that is added around it

    def _wrapped(self, scaling: Scaling | None):
        """The whole model; scaling None: without probabilities, and with widths that are not known yet."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        model = onnx.ModelProto()
        model.CopyFrom(self._inner)
        graph = model.graph
        own_nodes = list(graph.node)
        del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
        constants = {"scale": self.scale, "shift": self.shift} | self._scaling_constants(scaling)
        constants |= {"tiny": np.array(1e-7, np.float32), "one": np.array(1 - 1e-7, np.float32)}
        constants |= {"turned": np.array([2, 1, 0])} if self._bgr else {}
        graph.initializer.extend(numpy_helper.from_array(value, OURS + name) for name, value in constants.items())
        graph.node.extend(self._input_nodes(helper, TensorProto))
        graph.node.extend(own_nodes)
        graph.node.extend(self._output_nodes(helper, TensorProto, scaling))
        side = self.size
        graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3]))
        widths = {"logits": None, "features": None}
        if scaling is not None:
            widths = {"logits": len(self.classes), "probabilities": len(self.classes), "features": self.feature_dim}
        graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in widths.items()
        )
        return model

    def _input_nodes(self, helper, types) -> Iterator[Any]:
        """From uint8 (N, S, S, 3) to the model's own input."""
        steps: list[tuple[str, list[str], dict]] = [("Identity", [], {})]  # a graph needs a node that makes its input
        if self._bgr:
            steps = [("Gather", [OURS + "turned"], {"axis": 3})]
        if self._dtype != np.uint8:
            steps += [
                ("Cast", [], {"to": types.FLOAT}),
                ("Mul", [OURS + "scale"], {}),
                ("Add", [OURS + "shift"], {}),
            ]
        steps += [("Transpose", [], {"perm": [0, 3, 1, 2]})] if self._first else []
        steps += [("Cast", [], {"to": types.FLOAT16})] if self._dtype == np.float16 else []
        name = "images"
        for number, (kind, more, attributes) in enumerate(steps):
            out = self._input.name if number == len(steps) - 1 else f"{OURS}before_{number}"
            yield helper.make_node(kind, [name, *more], [out], **attributes)
            name = out

    def _output_nodes(self, helper, types, scaling: Scaling | None) -> Iterator[Any]:
        """From the model's own answers to logits, features and, with a scaling, probabilities."""
        yield helper.make_node("Cast", [self._features], [OURS + "features"], to=types.FLOAT)
        yield helper.make_node("Flatten", [OURS + "features"], ["features"], axis=1)
        answers = self._logits or self._output
        if scaling is None or not self._log:
            yield helper.make_node("Cast", [answers], ["logits"], to=types.FLOAT)
        else:
            yield helper.make_node("Cast", [answers], [OURS + "answers"], to=types.FLOAT)
            yield helper.make_node("Max", [OURS + "answers", OURS + "tiny"], [OURS + "above"])
            yield helper.make_node("Min", [OURS + "above", OURS + "one"], [OURS + "p"])
            if self.task == "multilabel":
                yield helper.make_node("Log", [OURS + "p"], [OURS + "log_p"])
                yield helper.make_node("Sub", [OURS + "one", OURS + "p"], [OURS + "q"])
                yield helper.make_node("Max", [OURS + "q", OURS + "tiny"], [OURS + "q_above"])
                yield helper.make_node("Log", [OURS + "q_above"], [OURS + "log_q"])
                yield helper.make_node("Sub", [OURS + "log_p", OURS + "log_q"], ["logits"])
            else:
                yield helper.make_node("Log", [OURS + "p"], ["logits"])
        if scaling is not None:
            yield from self._calibrating_nodes(helper, scaling)

    def _scaling_constants(self, scaling: Scaling | None) -> dict[str, np.ndarray]:
        if scaling is None:
            return {}
        classes = len(self.classes)
        rest = scaling.smoothing / (2 if self.task == "multilabel" else classes)
        values = {"temperature": scaling.temperature, "kept": 1 - scaling.smoothing, "rest": rest}
        if scaling.classwise:
            of_bias = scaling.bias if self.task == "multilabel" else np.exp(scaling.bias)
            column = (1, classes) if self.task == "multilabel" else (classes, 1)
            values |= {"sharpness": scaling.sharpness.reshape(column), "bias": of_bias.reshape(1, classes)}
            values["ones"] = np.ones((classes, 1))
        return {name: np.array(value, np.float32) for name, value in values.items()}

    def _calibrating_nodes(self, helper, scaling: Scaling) -> Iterator[Any]:
        """tasks.inference.scaling.scale as nodes: from logits to probabilities."""
        name = "logits"

        def node(kind: str, *more: str, out: str, first: str | None = None, **options):
            nonlocal name
            inputs = [first or name, *(OURS + one for one in more)]
            name = out if out == "probabilities" else OURS + out
            return helper.make_node(kind, inputs, [name], **options)

        yield node("Div", "temperature", out="scaled")
        if self.task == "multilabel":
            if scaling.classwise:
                yield node("Mul", "sharpness", out="sharp")
                yield node("Add", "bias", out="moved")
            yield node("Sigmoid", out="likely")
        else:
            yield node("Softmax", out="likely", axis=1)
            if scaling.classwise:
                yield node("MatMul", "sharpness", out="factor")
                yield node("Mul", "scaled", out="sharp")
                yield node("Softmax", out="sharper", axis=1)
        yield node("Mul", "kept", out="kept_part")
        if self.task == "multilabel" or not scaling.classwise:
            yield node("Add", "rest", out="probabilities")
            return
        yield node("Add", "rest", out="smoothed")
        yield node("Mul", "bias", out="moved")
        yield helper.make_node("MatMul", [name, OURS + "ones"], [OURS + "sum"])
        yield node("Div", "sum", out="probabilities")


def _load(path: Path):
    """The model at `path`, with the prefix OWN on every name of its graph."""
    import onnx

    return onnx.compose.add_prefix(without_maps(read_model(path)), OWN)


def _answers(outputs, classes: int) -> str:
    """The output with one value per class, if the model has several, such as its features; else the first."""
    fitting = [value.name for value in outputs if shape_of(value)[1:] == [classes]]
    return fitting[0] if fitting else outputs[0].name


def _names(values) -> str:
    return ", ".join(value.name.removeprefix(OWN) for value in values)
