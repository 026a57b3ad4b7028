"""Adopt the weights of a timm classifier in a safetensors file.

N images, K classes, D feature dimensions.
"""

from pathlib import Path

import numpy as np

from tasks.adopt.deployed import Deployed
from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.inference.scaling import Scaling

WRAPPERS = ("module.", "model.", "_orig_mod.")  # prefixes that trainers put before every name
BATCH = 64


class AdoptedTorch:
    """A safetensors file as the timm model that the user names. Raises EvergreenError if they do not fit."""

    def __init__(self, deployed: Deployed, task: str):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path, backbone, classes, size = deployed.path, deployed.backbone, deployed.classes, deployed.size
        if backbone is None:
            raise EvergreenError(f"{path} has weights only: --backbone says which timm model they belong to")
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise EvergreenError(f"{path} is not a readable safetensors file: {error}") from error
        for wrapper in WRAPPERS:
            if state and all(name.startswith(wrapper) for name in state):
                state = {name.removeprefix(wrapper): value for name, value in state.items()}
        self._model = timm_models.create_model(backbone, "none", len(classes), size)
        last = timm_models.classifier(self._model)
        place = next(name for name, module in self._model.named_modules() if module is last)
        rows = state[f"{place}.weight"].shape[0] if f"{place}.weight" in state else None
        if rows is not None and rows != len(classes):
            raise EvergreenError(
                f"{path} answers with {rows} values an image, but {len(classes)} classes are given "
                f"({', '.join(classes[:10])}): they must be all of the model's, in its order"
            )
        try:
            self._model.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip()[:300] for line in str(error).splitlines()[1:4]]
            raise EvergreenError(f"{path} does not hold weights of {backbone}: {' '.join(lines)}") from error
        self._state = state
        self._weight = last.weight.detach().numpy().copy()
        self._bias = last.bias.detach().numpy().copy() if last.bias is not None else np.zeros(len(classes), np.float32)
        self._about = {
            "backbone": backbone,
            "task": task,
            "resolution": size,
            "mean": deployed.mean,
            "std": deployed.std,
        }
        self.feature_dim = timm_models.feature_dim(self._model)

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, K), features (N, D)) of (N, S, S, 3) uint8."""
        from tasks.stages.calibrate.export import trained

        finished = self._finished(Scaling())
        parts = [trained(finished, pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        return np.concatenate([part.logits for part in parts]), np.concatenate([part.features for part in parts])

    def write(self, path: Path, scaling: Scaling, sample: np.ndarray) -> float:
        """Write the finished model.onnx; return its largest difference from the model as given."""
        from tasks.stages.calibrate.export import export

        return export(path, self._finished(scaling), sample)

    def tensors(self) -> dict[str, np.ndarray]:
        """Weights under the names of every bundle: backbone.<timm name>, head.weight, head.bias."""
        state = {f"backbone.{name}": value.float().numpy() for name, value in self._state.items()}
        return state | {"head.weight": self._weight, "head.bias": self._bias}

    def _finished(self, scaling: Scaling):
        from tasks.stages.calibrate.export import Finished

        return Finished(self._model, self._about, self._weight, self._bias, scaling)
