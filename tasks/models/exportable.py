"""Try a backbone before it is trained: one training step, and the export of every finished model.

Some networks of timm train and then fail to export, which a run would find out only after its training. A random
network of the same name fails in the same way, in seconds. What passed is remembered per machine.
"""

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.backbones.timm_models import OFFLINE_BACKBONE
from tasks.common.code import code_version
from tasks.common.errors import EvergreenError
from tasks.common.files import content_key
from tasks.common.paths import cache_dir
from tasks.common.sealed import read_sealed, sealed_path

if TYPE_CHECKING:
    import torch

MAX_DIFFERENCE = 1e-3  # of features and logits, relative to the largest: as for the finished model
LIBRARIES = ("torch", "timm", "onnx", "onnxruntime")
CLASSES = 2


class Export(NamedTuple):
    """An ONNX file and its largest difference from torch, relative to the largest value."""

    content: bytes
    difference: float


def check_backbone(root: Path, backbone: str, size: int) -> None:
    """Raise EvergreenError if `backbone` cannot be created, trained and exported for `size` pixels per side."""
    if backbone == OFFLINE_BACKBONE:  # every test of Evergreen trains and exports it
        return
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    key = content_key(backbone, size, versions, code_version("tasks.models.exportable"))[:16]
    passed = cache_dir("backbones", root) / f"{key}.txt"
    if read_sealed(passed) is not None:
        return
    try_backbone(backbone, size)
    with sealed_path(passed) as temporary:
        temporary.write_text(f"{backbone} {size}\n")


def try_backbone(backbone: str, size: int) -> Export:
    """Train a random network of this name for one step and export it.

    Raises EvergreenError that says at which of the two it fails.
    """
    import torch

    from tasks.backbones import timm_models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm_models.create_model(backbone, "none", CLASSES, size)
        try:
            loss = model.train()(torch.randn(2, 3, size, size)).square().sum()
            loss.backward()
        except Exception as error:  # layers raise many types
            raise EvergreenError(_cannot("be trained", backbone, size, error)) from error
    model.zero_grad()
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for value in model.parameters():
            if not value.any():  # many start with branches times zero, which would agree whatever is in them
                value.normal_(std=0.1)
    try:
        export = best_export(model, size)
    except Exception as error:  # exporter and runtime raise many types
        raise EvergreenError(_cannot("be exported to ONNX", backbone, size, error)) from error
    if not export.difference <= MAX_DIFFERENCE:
        found = f"the export answers differently, by {export.difference:.3g}; expected at most {MAX_DIFFERENCE:g}"
        raise EvergreenError(_cannot("be exported to ONNX", backbone, size, found))
    return export


def best_export(model: "torch.nn.Module", size: int) -> Export:
    """The export of `model` that differs least from it, for 1 and 3 images.

    Raises the last exporter's exception if none exports.
    """
    import onnxruntime
    import torch

    from tasks.backbones import timm_models
    from tasks.backbones.onnx_graph import exporters

    class Answers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = timm_models.features(self.model, images.permute(0, 3, 1, 2).float() / 255)
            return timm_models.classifier(self.model)(features), features

    answers = Answers().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    best = Export(b"", np.inf)
    for to_onnx in (found_exporters := exporters(answers)):
        try:
            content = to_onnx(answers, pixels[:2], ("logits", "features")).SerializeToString()
            session = onnxruntime.InferenceSession(content, _quiet(), providers=["CPUExecutionProvider"])
            found = max(_difference(answers, session, pixels), _difference(answers, session, pixels[:1]))
        except Exception:
            if to_onnx is found_exporters[-1] and not best.content:
                raise
            continue
        if found < best.difference or not best.content:
            best = Export(content, found)
        if found <= MAX_DIFFERENCE:
            break
    return best


def _difference(answers: "torch.nn.Module", session, pixels: np.ndarray) -> float:
    import torch

    with torch.inference_mode():
        expected = [value.numpy() for value in answers(torch.from_numpy(pixels))]
    found = session.run(None, {"images": pixels})
    return max(
        float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-12))
        for one, other in zip(found, expected, strict=True)
    )


def _quiet():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions
    return options


def _cannot(what: str, backbone: str, size: int, error: object) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    reason = f"{type(error).__name__}: {lines[0]}" if isinstance(error, Exception) else lines[0]
    return (
        f"backbone {backbone} cannot {what} at {size} x {size} pixels with the installed libraries "
        f"({reason[:300]}): choose another one, for example {OFFLINE_BACKBONE}; docs/backbones.md lists the families "
        "that work"
    )
