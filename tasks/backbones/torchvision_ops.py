"""Make `import timm` work where torchvision's compiled operators do not fit the installed torch.

timm imports torchvision, and torchvision declares fake kernels for `torchvision::nms` while it is imported. A
torchvision built for CUDA beside a CPU torch cannot load its compiled part, so that the operator does not exist
and the import dies. Evergreen never calls the operator: declaring its schema is enough.
"""

from importlib.util import find_spec
from pathlib import Path

_declared = []  # keeps the torch.library.Library alive: its operators vanish with it


def make_importable() -> None:
    """Call before the first `import timm`. Loads torchvision's operators, or declares them where that fails."""
    import torch

    if _declared or hasattr(torch.ops.torchvision, "nms"):
        return
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        pass
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
