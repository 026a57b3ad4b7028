"""Compute the features of a frozen network: with torch on an accelerator, with ONNX Runtime on CPUs.

On CPUs ONNX Runtime is twice as fast as torch. A network whose ONNX export fails, or gives other features, runs with
torch. B images per batch, S pixels per side of the input, D feature dimensions.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.backbones import timm_models
from tasks.common.sealed import read_sealed, sealed_path

if TYPE_CHECKING:  # if an exported network is stored, torch is not imported at all
    import torch

MAX_DIFFERENCE = 1e-3  # from torch's features, relative to the largest; features are stored as float16 (5e-4)
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class OnnxFeatures:
    """`network(pixels)`: (up to B, S, S, 3) uint8 -> float32 (as many, D). May be called from several threads."""

    def __init__(self, content: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one core per batch: see features.py
        options.log_severity_level = 4  # errors are raised as exceptions anyway
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._shape = tuple(self._session.get_inputs()[0].shape)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        full = pixels
        if len(pixels) < self._shape[0]:
            full = np.zeros(self._shape, np.uint8)
            full[: len(pixels)] = pixels
        return self._session.run(None, {"images": full})[0][: len(pixels)]


class TorchFeatures:
    """The same function with torch, on the best device of this machine."""

    def __init__(self, model: "torch.nn.Module", mean: Sequence[float], std: Sequence[float]):
        self._device = timm_models.device()
        self._model = model.to(self._device).eval()
        self._scale = mean, std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            x = timm_models.to_input(pixels, *self._scale, self._device)
            return timm_models.features(self._model, x).float().cpu().numpy()


def frozen_network(
    make: Callable[[], "torch.nn.Module"],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    size: int,
    batch_size: int,
    export_file: Path | None = None,
) -> OnnxFeatures | TorchFeatures:
    """A function that computes the features of the network that `make()` returns.

    It takes batches of up to `batch_size` images of `size` pixels per side. The exported network is read from
    `export_file`, or written there: the next call then needs neither torch nor the network.
    """
    on_cpu = not may_have_accelerator() or timm_models.device().type == "cpu"
    if on_cpu and export_file is not None and (found := _read_export(export_file)) is not None:
        return found
    torch_features = TorchFeatures(make(), mean, std)
    if timm_models.device().type != "cpu":
        return torch_features
    content = _export(torch_features, mean, std, (batch_size, size, size, 3))
    if content is None:
        return torch_features
    if export_file is not None:
        with sealed_path(export_file) as temporary:
            temporary.write_bytes(content)
    return OnnxFeatures(content)


def may_have_accelerator() -> bool:
    """Whether torch might find an accelerator. Importing torch only to ask takes seconds."""
    return sys.platform == "darwin" or any(Path(device).exists() for device in ACCELERATORS)


def _read_export(file: Path) -> OnnxFeatures | None:
    if (content := read_sealed(file)) is None:
        return None
    try:
        return OnnxFeatures(content)
    except Exception:  # of a version that this ONNX Runtime cannot read: export again
        return None


def _export(
    torch_features: TorchFeatures, mean: Sequence[float], std: Sequence[float], shape: tuple[int, int, int, int]
) -> bytes | None:
    """The network as ONNX; None if the export fails or its features differ from torch's."""
    import torch

    from tasks.backbones.onnx_graph import traced

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torch_features._model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return timm_models.features(self.backbone, timm_models.to_input(images, mean, std, torch.device("cpu")))

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    try:
        content = traced(Scaled().eval(), pixels, ["features"])
        found, expected = OnnxFeatures(content)(pixels), torch_features(pixels)
    except Exception:  # not supported by the exporter or the runtime: use torch
        return None
    close = np.abs(found - expected).max() <= MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1e-12)
    return content if close else None
