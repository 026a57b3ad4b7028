"""Core ML: model.mlpackage for Apple's devices, converted from torch. Only macOS can run it.

It takes an RGB image of S x S pixels named `image`, as the camera and Vision frameworks give it. The outputs have the
names of model.onnx; the class names are in its metadata. S is the side of the input in pixels.
"""

import json
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.common.errors import EvergreenError
from tasks.export.network import load
from tasks.export.source import Source, Written
from tasks.export.torch_files import example
from tasks.inference.onnx_model import Outputs

if TYPE_CHECKING:
    import torch

WHY = "Core ML runs on macOS only. Checked were the package's structure and the torch program that it was made from"


def write(source: Source, folder: Path) -> Written:
    """model.mlpackage, with 32-bit numbers."""
    import coremltools
    import torch

    logging.getLogger("coremltools").setLevel(logging.ERROR)  # says which versions of torch were tested
    pixels = example(source, 1).permute(0, 3, 1, 2).contiguous().float()  # refuses other orders in memory
    # not a trace: its shape arithmetic on arrays is refused by newer numpy inside the converter
    program = torch.export.export(picture_model(load(source)), (pixels,), strict=False).run_decompositions({})
    shape = (1, 3, source.side, source.side)
    model = coremltools.convert(
        program,
        inputs=[coremltools.ImageType(name="image", shape=shape, color_layout=coremltools.colorlayout.RGB)],
        outputs=[coremltools.TensorType(name=name) for name in Outputs._fields],
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS15,
        convert_to="mlprogram",
        skip_model_load=True,
    )
    model.user_defined_metadata["classes"] = json.dumps(source.classes, ensure_ascii=False)
    model.user_defined_metadata["version"] = source.version
    model.save(str(folder / "model.mlpackage"))
    check_structure(coremltools.utils.load_spec(str(folder / "model.mlpackage")), source)
    run_program = program.module()

    def run(found: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return Outputs(
                *(
                    part.numpy()
                    for part in run_program(torch.from_numpy(found).permute(0, 3, 1, 2).contiguous().float())
                )
            )

    checked = "the torch program of model.mlpackage"
    why = WHY if platform.system() != "Darwin" else f"{WHY}; run it with coremltools.models.MLModel(...).predict"
    return Written(run, checked, tools=("coremltools", "torch", "timm"), not_run=why, sizes=(1,))


def picture_model(finished) -> "torch.nn.Module":
    """`finished` for float (1, 3, S, S) of 0..255, which is what Core ML makes of an image."""
    import torch

    class Picture(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.finished = finished

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return self.finished.head(image * self.finished.scale + self.finished.shift)

    return Picture().eval()


def check_structure(spec, source: Source) -> None:
    """Raise EvergreenError unless the written package has one image input of S x S and the three outputs."""
    inputs, outputs = spec.description.input, spec.description.output
    sides = [(one.name, one.type.imageType.width, one.type.imageType.height) for one in inputs]
    names = {one.name for one in outputs}
    if sides != [("image", source.side, source.side)] or names != set(Outputs._fields):
        raise EvergreenError(
            f"model.mlpackage has the inputs {sides} and the outputs {sorted(names)}, expected image of "
            f"{source.side} x {source.side} and {', '.join(Outputs._fields)}: try another version of coremltools"
        )
