"""The formats of `evergreen export`. A new one is a module with `write`, and a row here."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.export.source import Source, Written


@dataclass(frozen=True)
class Format:
    """One format."""

    name: str
    module: str  # under tasks.export
    what: str  # for the list of formats
    needs: tuple[str, ...] = ()  # modules that must be importable
    install: str = ""  # what installs them
    write: str = "write"  # the module's function


_ALL = (
    Format("triton", "triton", "model repository of Triton Inference Server, with dynamic batching"),
    Format("kserve", "kserve", "the same with a manifest for KServe, protocol v2; needs --uri"),
    Format("openvino", "openvino", "intermediate representation for OpenVINO", ("openvino",), "pip install openvino"),
    Format(
        *("litert", "litert", "LiteRT (TensorFlow Lite) for phones and small devices"),
        needs=("litert_torch", "ai_edge_litert"),
        install="pip install litert-torch",
    ),
    Format(
        *("coreml", "coreml", "Core ML for Apple's devices; not run here"),
        needs=("coremltools",),
        install="pip install coremltools",
    ),
    Format("torchscript", "torch_files", "TorchScript, for libtorch", write="write_script"),
    Format("torch-export", "torch_files", "package of torch.export", write="write_program"),
    Format("bentoml", "bentoml", "BentoML service with the decoding of training"),
    Format("edge", "edge", "one Python file for a device: model and runner, needs onnxruntime, numpy, Pillow"),
    Format("tensorrt", "tensorrt", "script that builds a TensorRT plan; not run here"),
)
FORMATS = {one.name: one for one in _ALL}


def missing(chosen: Format) -> list[str]:
    """The modules that `chosen` needs and this environment lacks."""
    return [name for name in chosen.needs if importlib.util.find_spec(name) is None]


def writer(chosen: Format) -> Callable[[Source, Path], Written]:
    """`write` of the format's module. Raises EvergreenError if a library is missing."""
    if lacking := missing(chosen):
        raise EvergreenError(
            f"the format {chosen.name} needs {' and '.join(lacking)}, which this environment lacks: "
            f"`{chosen.install}`, then run the same command again"
        )
    return getattr(importlib.import_module(f"tasks.export.{chosen.module}"), chosen.write)
