"""The torch network of a bundle, from its weights.safetensors, for formats that start from torch.

N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

from typing import TYPE_CHECKING

from tasks.common.errors import EvergreenError
from tasks.export.source import Source

if TYPE_CHECKING:
    import torch

    from tasks.stages.calibrate.export import Finished

FROM_ONNX = "triton, openvino, tensorrt or bentoml"


def load(source: Source) -> "Finished":
    """The finished network in eval mode: uint8 (N, S, S, 3) in; logits, probabilities (N, K), features (N, D) out.

    Raises EvergreenError for a model that was adopted as an ONNX file: its layers are not torch's.
    """
    from safetensors.torch import load_file

    from tasks.inference.scaling import read_scaling
    from tasks.stages.calibrate.export import Finished

    about = source.about["backbone"]
    if about["backbone"] == "onnx":
        raise EvergreenError(
            f"{source.version} was adopted as an ONNX file, and this format needs a network of torch: choose "
            f"{FROM_ONNX}"
        )
    state = load_file(source.bundle / "weights.safetensors")
    weight, bias = state["head.weight"].numpy(), state["head.bias"].numpy()
    body = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    described = {"task": source.about["task"], "resolution": source.side, **about}
    return Finished(_backbone(source, body), described, weight, bias, read_scaling(source.about))


def _backbone(source: Source, body: dict[str, "torch.Tensor"]) -> "torch.nn.Module":
    """The network of timm, pruned, extended or several of them as `body` says; see tasks.models.stage1.load."""
    from tasks.backbones import timm_models
    from tasks.models import ensemble
    from tasks.models.extended import extend, structure_of
    from tasks.models.pruning import cut_as

    about = source.about["backbone"]
    members = ensemble.member_count(body)
    one = ensemble.member_state(body, 0) if members else body
    classes = len(about.get("classes", source.classes))
    plain = [timm_models.create_model(about["backbone"], "none", classes, source.side) for _ in range(members or 1)]
    made = [extend(cut_as(network, one), structure_of(one), source.side) for network in plain]
    model = ensemble.Ensemble(made) if members else made[0]
    last = timm_models.classifier(model)
    (place,) = [name for name, module in model.named_modules() if module is last]
    if len(body[f"{place}.weight"]) != len(last.weight):
        model.reset_classifier(len(body[f"{place}.weight"]))
    model.load_state_dict(body)
    return model.eval()
