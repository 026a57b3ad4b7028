"""CLIP models (open_clip, the extra `clip`): images and texts become vectors of one space.

A model is a folder with open_clip_config.json and weights, or such a repository of the Hugging Face hub
(OWNER/NAME), which is downloaded once. B images or texts, S pixels per side, D dimensions.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.backbones import timm_models
from tasks.common.code import code_version
from tasks.common.errors import EvergreenError
from tasks.common.files import content_key, sha256_file

if TYPE_CHECKING:
    import torch

CONFIG = "open_clip_config.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pth")  # the first that is there, as open_clip reads them
BESIDE = ["*.json", "*.txt", "*.model"]  # config and tokenizer
NO_EXTRA = "suggestions from class names need the extra `clip`: run `pip install open_clip_torch`, then try again"


def find_clip(name: str) -> Path:
    """The folder with the model `name`: a folder, or a repository of the hub. Raises EvergreenError.

    It checks all that can be missing, before any work: the extra, the config, the weights.
    """
    if find_spec("open_clip") is None:
        raise EvergreenError(NO_EXTRA)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _of_hub(name.removeprefix("hf-hub:").removeprefix("hf_hub:"))
    if not (folder / CONFIG).is_file():
        raise EvergreenError(f"{name} has no {CONFIG}: expected a CLIP model in open_clip's format, with its weights")
    if weights_of(folder) is None:
        raise EvergreenError(
            f"{name} has {CONFIG} and no weights ({', '.join(WEIGHTS)}): put open_clip_model.safetensors beside it"
        )
    return folder


def weights_of(folder: Path) -> Path | None:
    """The file of weights in `folder`; None if there is none."""
    return next((file for pattern in WEIGHTS for file in sorted(folder.glob(pattern))), None)


def clip_key(folder: Path) -> str:
    """Cache key of the model in `folder`: its weights, its config and this code."""
    files = [sha256_file(file) for file in (weights_of(folder), folder / CONFIG)]
    return content_key("clip", *files, code_version("tasks.models.clip"))


def input_side(folder: Path) -> int:
    """The side S of the images that the model in `folder` takes, by its config."""
    try:
        found = json.loads((folder / CONFIG).read_text())["model_cfg"]["vision_cfg"].get("image_size", 224)
        return int(found[0] if isinstance(found, list) else found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvergreenError(f"{folder / CONFIG} cannot be read ({error!r}): expected open_clip's format") from None


def _of_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import get_session

    try:
        found = Path(snapshot_download(name, local_files_only=True))
        if weights_of(found) is not None:
            return found
    except Exception:  # not stored yet, or not the name of a repository: the hub says which
        pass
    try:  # at once if the hub cannot be reached: the download itself would retry for a minute
        get_session().head(constants.ENDPOINT, timeout=5)
        found = Path(snapshot_download(name, allow_patterns=[*BESIDE, WEIGHTS[0]]))
        return found if weights_of(found) else Path(snapshot_download(name, allow_patterns=[*BESIDE, *WEIGHTS[1:]]))
    except Exception as error:  # every transport of the hub raises its own types
        said = str(error).strip().partition("\n")[0][:200]
        raise EvergreenError(
            f"the weights of the CLIP model {name} are not on this machine, and the hub did not give them ({said}): "
            f"connect to the hub once (they are then stored), or name a folder with {CONFIG} and the weights"
        ) from error


class Clip:
    """A loaded model: `clip(pixels)` and `clip.texts(texts)` give vectors whose cosine says how well they match."""

    def __init__(self, folder: Path):
        from tasks.backbones.torchvision_ops import make_timm_importable

        make_timm_importable()
        import open_clip

        try:
            self._model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
            self._tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:  # a damaged file, weights of another network, a tokenizer that needs transformers
            said = str(error).strip().partition("\n")[0][:300]
            raise EvergreenError(f"the CLIP model in {folder} could not be loaded: {said}") from error
        self._device = timm_models.device()
        self._model.to(self._device)
        self.scale = float(self._model.logit_scale.detach().exp())  # 1 / temperature

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> float32 (B, D), each of length 1."""
        visual = self._model.visual
        x = timm_models.to_input(pixels, visual.image_mean, visual.image_std, self._device)
        return self._vectors(self._model.encode_image, x)

    def texts(self, texts: list[str]) -> np.ndarray:
        """(B, D) float32 of `texts`, each of length 1."""
        return self._vectors(self._model.encode_text, self._tokens(texts).to(self._device))

    def _vectors(self, encode, x: "torch.Tensor") -> np.ndarray:
        import torch

        with torch.inference_mode():
            return encode(x, normalize=True).float().cpu().numpy()
