"""Run the exported model under ONNX Runtime: pixels in, probabilities and features out.

Outputs are logits, probabilities and features; no torch is needed.

N images, S the input's side in pixels, K classes, D feature dimensions.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

BATCH = 64  # images at once: bounds memory, and larger batches gain nothing on a CPU


class Outputs(NamedTuple):
    """What the model returns for N images."""

    logits: np.ndarray  # (N, K) float32, not calibrated
    probabilities: np.ndarray  # (N, K) float32, calibrated
    features: np.ndarray  # (N, D) float32


class OnnxModel:
    """`model(pixels)` runs model.onnx in batches. Uses CUDA if ONNX Runtime was built with it."""

    def __init__(self, path: Path | str, threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # threads that spin between two answers take the cores of decoders and other processes
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised as exceptions
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        _, size, _, _ = self._session.get_inputs()[0].shape
        self.size: int = size
        widths = {output.name: output.shape[1] for output in self._session.get_outputs()}
        self._widths = [widths[name] for name in Outputs._fields]

    def __call__(self, pixels: np.ndarray) -> Outputs:
        """pixels: (N, S, S, 3) uint8; any N, also 0. Raises ValueError for another shape or type."""
        expected = (self.size, self.size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ValueError(f"pixels are {pixels.shape} {pixels.dtype}, the model reads (N, {expected}) uint8")
        parts = [
            self._session.run(Outputs._fields, {"images": np.ascontiguousarray(pixels[start : start + BATCH])})
            for start in range(0, len(pixels), BATCH)
        ]
        if not parts:
            return Outputs(*(np.empty((0, width), np.float32) for width in self._widths))
        return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))
