"""The weights of a timm classifier in a safetensors file, as they came. N images, K classes, D feature dimensions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError

WRAPPERS = ("module.", "model.", "_orig_mod.")  # what trainers put before every name
BATCH = 64


class AdoptedTorch:
    """The file `path` as the timm model `backbone` of `classes`. Raises EvergreenError where they do not fit."""

    def __init__(
        self,
        path: Path,
        *,
        backbone: str,
        classes: Sequence[str],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        task: str,
    ):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise EvergreenError(f"{path} is no safetensors file that can be read: {error}") from error
        for wrapper in WRAPPERS:
            if state and all(name.startswith(wrapper) for name in state):
                state = {name.removeprefix(wrapper): value for name, value in state.items()}
        self._model = timm_models.create(backbone, "none", len(classes), size)
        last = timm_models.classifier(self._model)
        place = next(name for name, module in self._model.named_modules() if module is last)
        rows = state[f"{place}.weight"].shape[0] if f"{place}.weight" in state else None
        if rows is not None and rows != len(classes):
            raise EvergreenError(
                f"{path} answers with {rows} values an image, but {len(classes)} classes are given "
                f"({', '.join(list(classes)[:10])}): they must be all of the model's, in its order"
            )
        try:
            self._model.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip()[:300] for line in str(error).splitlines()[1:4]]
            raise EvergreenError(f"{path} holds no weights of {backbone}: {' '.join(lines)}") from error
        self._state = state
        self._weight = last.weight.detach().numpy().copy()
        self._bias = last.bias.detach().numpy().copy() if last.bias is not None else np.zeros(len(classes), np.float32)
        self._about = {"backbone": backbone, "task": task, "size": size, "mean": mean, "std": std}
        self.feature_dim = timm_models.feature_dim(self._model)

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, K), features (N, D)) of (N, S, S, 3) uint8."""
        from tasks.stages.calibrate.export import trained

        finished = self._finished(1.0)
        parts = [trained(finished, pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        return np.concatenate([part.logits for part in parts]), np.concatenate([part.features for part in parts])

    def write(self, path: Path, temperature: float, sample: np.ndarray) -> float:
        """Write the finished model.onnx; returns its largest difference from the model as it came."""
        from tasks.stages.calibrate.export import export

        return export(path, self._finished(temperature), sample)

    def tensors(self) -> dict[str, np.ndarray]:
        """As in every bundle: backbone.<timm name>, head.weight, head.bias."""
        state = {f"backbone.{name}": value.float().numpy() for name, value in self._state.items()}
        return state | {"head.weight": self._weight, "head.bias": self._bias}

    def _finished(self, temperature: float):
        from tasks.stages.calibrate.export import Finished

        return Finished(self._model, self._about, self._weight, self._bias, temperature)
