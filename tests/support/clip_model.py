"""A tiny CLIP model with random weights, in open_clip's format: made on the spot, loaded as any other."""

import json
from pathlib import Path

SIDE, WIDTH = 32, 16
CONFIG = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 1},
}


def save_clip(folder: Path, weights: bool = True) -> Path:
    """Write open_clip_config.json and, if asked for, open_clip_model.safetensors to `folder`."""
    import torch

    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    if weights:
        torch.manual_seed(0)
        save_file(CLIP(**CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    return folder
