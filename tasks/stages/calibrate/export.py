"""Export the finished model as one ONNX file: raw pixels in, logits, probabilities and features out.

Input `images` uint8 (N, S, S, 3), N free. Scaling, normalising, backbone, head and calibration are in the graph, so
that serving repeats no part of the model. The same weights give the same bytes, wherever they are exported.
N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

from pathlib import Path

import numpy as np
import torch

from tasks.backbones import timm_models
from tasks.backbones.onnx_graph import exporters
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.inference.constant_shapes import with_constant_shapes
from tasks.inference.onnx_model import OnnxModel, Outputs
from tasks.inference.scaling import Scaling

MAX_DIFFERENCE = 1e-3  # between the exported and the training model, in probability and (relative) features


class Finished(torch.nn.Module):
    """Backbone, stage-2 head and calibration behind uint8 (N, S, S, 3) input, on the CPU."""

    def __init__(self, backbone: torch.nn.Module, about: dict, weight: np.ndarray, bias: np.ndarray, scaling: Scaling):
        """about: model.json of train_backbone (backbone, task, size, mean, std); weight: (K, D), bias: (K,)."""
        super().__init__()
        self.backbone = backbone.cpu()
        mean, std = (torch.tensor(about[name], dtype=torch.float32).view(1, 3, 1, 1) for name in ("mean", "std"))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))
        self.calibrated = Calibrated(scaling, about["task"], len(weight))
        self.about = about
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.head(images.permute(0, 3, 1, 2).float() * self.scale + self.shift)

    def head(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(logits, probabilities, features) of normalised x (N, 3, S, S)."""
        features = timm_models.features(self.backbone, x)
        logits = torch.nn.functional.linear(features, self.weight, self.bias)
        return logits, self.calibrated(logits), features


class Calibrated(torch.nn.Module):
    """tasks.inference.scaling.scale in torch: logits (N, K) to probabilities (N, K)."""

    def __init__(self, scaling: Scaling, task: str, classes: int):
        super().__init__()
        self.scaling, self.task, self.classes = scaling, task, classes
        for name in ("sharpness", "bias"):
            values = np.broadcast_to(getattr(scaling, name), classes)
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        scaled, smoothing = logits / float(self.scaling.temperature), float(self.scaling.smoothing)
        if self.task == "multilabel":
            if self.scaling.classwise:
                scaled = scaled * self.sharpness + self.bias
            return torch.sigmoid(scaled) * (1 - smoothing) + smoothing / 2
        found = torch.softmax(scaled, 1)
        if self.scaling.classwise:
            found = torch.softmax(scaled * (found * self.sharpness).sum(1, keepdim=True), 1)
        if smoothing:
            found = found * (1 - smoothing) + smoothing / self.classes
        if self.scaling.classwise:
            found = found * torch.exp(self.bias)
            found = found / found.sum(1, keepdim=True)
        return found


def export(path: Path, finished: Finished, sample: np.ndarray) -> float:
    """Write `path` and return its largest difference (see `difference`) from the training model.

    The file is checked under ONNX Runtime on random pixels and on `sample`, (N, S, S, 3) uint8 real ones, and
    only then put in place. Raises EvergreenError if it differs by more than MAX_DIFFERENCE.
    """
    side = finished.about["resolution"]
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    checked = [pixels for pixels in (noise, noise[:1], sample) if len(pixels)]
    with atomic_path(path) as temporary:
        ways = exporters(finished)
        for to_onnx in ways:
            try:
                graph = to_onnx(finished, noise[:2], Outputs._fields)
                if to_onnx is ways[0]:  # only tracing leaves arithmetic; what fails so is exported the longer way
                    graph = with_constant_shapes(graph)
                temporary.write_bytes(graph.SerializeToString(deterministic=True))
                model = OnnxModel(temporary)
                found = np.max([difference(model(pixels), trained(finished, pixels)) for pixels in checked])
            except Exception as error:  # exporter and runtime raise many types for unsupported networks
                if to_onnx is ways[-1]:
                    raise EvergreenError(
                        f"{finished.about['backbone']} cannot be exported to ONNX with these versions of torch and "
                        f"onnxruntime ({type(error).__name__}: {str(error).strip()[:300]}): choose another "
                        "train_backbone.backbone"
                    ) from error
                continue
            if found <= MAX_DIFFERENCE:  # False if any is NaN
                return float(found)
        raise EvergreenError(
            f"the exported model differs from the trained one by {found:.3g}, expected at most {MAX_DIFFERENCE:g}: "
            f"{finished.about['backbone']} cannot be exported to ONNX correctly with these versions of torch and "
            "onnxruntime; choose another train_backbone.backbone"
        )


def trained(finished: Finished, pixels: np.ndarray) -> Outputs:
    """Outputs of the training model for `pixels` (N, S, S, 3) uint8, scaled as in training, not as in the graph."""
    with torch.inference_mode():
        x = timm_models.to_input(pixels, finished.about["mean"], finished.about["std"], torch.device("cpu"))
        return Outputs(*(part.numpy() for part in finished.head(x)))


def difference(found: Outputs, expected: Outputs) -> float:
    """Largest absolute difference in probability, or in features relative to their largest value."""
    features = np.abs(found.features - expected.features).max() / max(float(np.abs(expected.features).max()), 1e-12)
    return float(np.maximum(np.abs(found.probabilities - expected.probabilities).max(), features))
