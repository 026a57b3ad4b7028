"""Make `import timm` work where torchvision's compiled operators do not fit the installed torch.

timm imports torchvision, which registers fake kernels for `torchvision::nms` during its import. A torchvision built for
CUDA cannot load its compiled part next to a CPU torch. Then the operator does not exist and the import fails. Evergreen
never calls the operator, so declaring its schema is enough.
"""

from importlib.util import find_spec
from pathlib import Path

_declared = []  # keeps the torch.library.Library alive: its operators are removed with it


def make_timm_importable() -> None:
    """Load torchvision's operators, or declare them if that fails. Call before the first `import timm`."""
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
