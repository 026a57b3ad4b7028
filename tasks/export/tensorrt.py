"""TensorRT: an ONNX model that it takes, and a script that builds the plan where the GPU is.

    model.onnx                               the cast comes first: TensorRT reads bytes only into a cast
    build.sh                                 runs trtexec; writes model.plan beside it
    model_repository/<name>/config.pbtxt     for Triton, which looks for 1/model.plan there

A plan fits one kind of GPU and one version of TensorRT, so no other machine can make it.
"""

import shlex
from pathlib import Path

from tasks.export import triton
from tasks.export.source import Source, Written
from tasks.inference.onnx_model import OnnxModel

BEST = 8  # images at once for which the plan is tuned
WHY = "a plan needs the GPU that it will run on. Checked was the ONNX model from which build.sh makes it"


def write(source: Source, folder: Path) -> Written:
    """The model, the script and the configuration."""
    import onnx

    model = onnx.load(source.model)
    cast_first(model)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    script = folder / "build.sh"
    script.write_text(build_script(source), encoding="utf-8")
    script.chmod(0o755)
    place = folder / "model_repository" / source.name
    place.mkdir(parents=True)
    config = triton.config(source, triton.width(source), "tensorrt_plan")
    (place / "config.pbtxt").write_text(config, encoding="utf-8")
    (place / "labels.txt").write_text("".join(f"{name}\n" for name in triton.label_lines(source)), encoding="utf-8")
    checked = "the model.onnx for TensorRT"
    return Written(OnnxModel(folder / "model.onnx"), checked, tools=("onnx", "onnxruntime"), not_run=WHY)


def cast_first(model) -> None:
    """Let a float cast of `images` come before everything that reads it. Values and shapes stay the same.

    In the exports of torch, a transpose of the bytes comes first, which TensorRT refuses.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    given = graph.input[0].name
    floats = f"{given}_as_float"
    moved = {given}  # tensors that were bytes and are floats now
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in moved:
            moved.add(node.output[0])
        if given in node.input:
            node.input[:] = [floats if name == given else name for name in node.input]
    graph.node.insert(0, helper.make_node("Cast", [given], [floats], to=TensorProto.FLOAT, name="bytes_to_float"))
    for value in list(graph.value_info):  # types of moved tensors, which are others now
        if value.name in moved:
            graph.value_info.remove(value)


def build_script(source: Source) -> str:
    """build.sh: trtexec with the shapes of this model."""
    side = source.side
    shapes = {"min": 1, "opt": BEST, "max": triton.MOST}
    options = " ".join(f"--{name}Shapes=images:{count}x{side}x{side}x3" for name, count in shapes.items())
    plan = f"model_repository/{source.name}/1"
    return "\n".join(
        [
            "#!/bin/sh",
            f"# Builds the TensorRT plan of {shlex.quote(source.version)} on the machine that will run it.",
            "# Not run by Evergreen: compare its answers with model.onnx before it serves.",
            "set -eu",
            'cd "$(dirname "$0")"',
            f"mkdir -p {plan}",
            f'trtexec --onnx=model.onnx --saveEngine={plan}/model.plan {options} --noTF32 "$@"',
            f'echo "{plan}/model.plan is built"',
            "",
        ]
    )
