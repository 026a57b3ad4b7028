"""TorchScript and `torch.export` packages: the network as torch loads it without its Python code.

    model.pt     TorchScript, for libtorch and torch.jit.load
    model.pt2    torch.export, for torch.export.load and AOTInductor

Both take a uint8 tensor (N, S, S, 3) and answer (logits, probabilities, features).
"""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.export.network import load
from tasks.export.source import Source, Written
from tasks.inference.onnx_model import Outputs

if TYPE_CHECKING:
    import torch


def write_script(source: Source, folder: Path) -> Written:
    """model.pt, traced."""
    import torch

    finished = load(source)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns about every constant; the check tells whether one matters
        traced = torch.jit.trace(finished, (example(source, 2),), check_trace=False)
        traced.save(str(folder / "model.pt"))
        loaded = torch.jit.load(str(folder / "model.pt"))
    return Written(run=runner(loaded), checked="model.pt under torch.jit", tools=("torch", "timm"))


def write_program(source: Source, folder: Path) -> Written:
    """model.pt2, with any number of images."""
    import torch

    program = torch.export.export(
        load(source), (example(source, 2),), dynamic_shapes=({0: torch.export.Dim("N", min=1)},), strict=False
    )
    content = io.BytesIO()
    torch.export.save(program, content)
    (folder / "model.pt2").write_bytes(content.getvalue())
    loaded = torch.export.load(str(folder / "model.pt2")).module()
    return Written(run=runner(loaded), checked="model.pt2 under torch.export", tools=("torch", "timm"))


def example(source: Source, images: int) -> "torch.Tensor":
    """(images, S, S, 3) uint8 of noise, to trace with."""
    import torch

    shape = (images, source.side, source.side, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def runner(module):
    """`module` as a function of (N, S, S, 3) uint8 pixels."""
    import torch

    def run(pixels: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return Outputs(*(part.numpy() for part in module(torch.from_numpy(pixels))))

    return run
