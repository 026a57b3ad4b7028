"""A frozen network's features: on an accelerator under torch, on CPUs under ONNX Runtime, at twice torch's speed.

B images a batch, S the input's side in pixels, D feature dimensions. A network that does not survive the export to ONNX
runs under torch.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.backbones import timm_models
from tasks.common.files import atomic_path

if TYPE_CHECKING:  # where an exported network is at hand, torch is not imported at all
    import torch

MAX_DIFFERENCE = 1e-3  # of features from torch's, relative to the largest; float16, as which they are kept, has 5e-4
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class OnnxFeatures:
    """`network(pixels)`: (up to B, S, S, 3) uint8 -> float32 (as many, D). May be called from several threads."""

    def __init__(self, content: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # each batch a core of its own
        options.log_severity_level = 4  # errors come as exceptions
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._shape = tuple(self._session.get_inputs()[0].shape)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        whole = pixels
        if len(pixels) < self._shape[0]:
            whole = np.zeros(self._shape, np.uint8)
            whole[: len(pixels)] = pixels
        return self._session.run(None, {"images": whole})[0][: len(pixels)]


class TorchFeatures:
    """The same under torch, on the best device here."""

    def __init__(self, model: "torch.nn.Module", mean: Sequence[float], std: Sequence[float]):
        self._device = timm_models.device()
        self._model = model.to(self._device).eval()
        self._scale = mean, std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            x = timm_models.to_input(pixels, *self._scale, self._device)
            return timm_models.features(self._model, x).float().cpu().numpy()


def network(
    make: Callable[[], "torch.nn.Module"],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    size: int,
    batch_size: int,
    kept: Path | None = None,
) -> OnnxFeatures | TorchFeatures:
    """The features of the network `make()` gives, for batches of up to `batch_size` images of `size` pixels a side.

    `kept` is where its exported form is looked for and left: next time neither torch nor the network is needed.
    """
    on_cpu = not _accelerated() or timm_models.device().type == "cpu"
    if on_cpu and kept is not None and (found := _read(kept)) is not None:
        return found
    bare = TorchFeatures(make(), mean, std)
    if timm_models.device().type != "cpu":
        return bare
    content = _exported(bare, mean, std, (batch_size, size, size, 3))
    if content is None:
        return bare
    if kept is not None:
        with atomic_path(kept) as temporary:
            temporary.write_bytes(content)
    return OnnxFeatures(content)


def _accelerated() -> bool:
    """Whether torch might find an accelerator: importing it only to ask takes seconds."""
    return sys.platform == "darwin" or any(Path(device).exists() for device in ACCELERATORS)


def _read(file: Path) -> OnnxFeatures | None:
    if not file.is_file():
        return None
    try:
        return OnnxFeatures(file.read_bytes())
    except Exception:  # torn, or of a version that this ONNX Runtime does not read: export again
        return None


def _exported(
    bare: TorchFeatures, mean: Sequence[float], std: Sequence[float], shape: tuple[int, int, int, int]
) -> bytes | None:
    """The network as ONNX, if it can be had and its features are torch's."""
    import torch

    from tasks.backbones.onnx_graph import traced

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = bare._model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return timm_models.features(self.backbone, timm_models.to_input(images, mean, std, torch.device("cpu")))

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    try:
        content = traced(Scaled().eval(), pixels, ["features"])
        found, expected = OnnxFeatures(content)(pixels), bare(pixels)
    except Exception:  # whatever an exporter or a runtime does not know: torch does
        return None
    close = np.abs(found - expected).max() <= MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1e-12)
    return content if close else None
