"""Try a foreign ONNX model in a child process with bounds of memory and time.

It runs before this process opens the model. A graph without loops ends, but one small node can ask for a terabyte;
control flow that may never end is refused.

    python -m tasks.adopt.bounded        (the model as JSON on standard input; `check_bounded` starts it)
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.adopt.deployed import Deployed
from tasks.common.errors import EvergreenError

LOOPS = ("Loop", "Scan", "SequenceMap")
GIB = 1 << 30
MEMORY, FACTOR = 4 * GIB, 6  # bytes that a model may add, and more for a larger file
SECONDS = 180  # CPU time for opening it and three images
WALL = 900  # seconds


def check_bounded(deployed: Deployed, task: str) -> None:
    """Raise EvergreenError if the model does not open, answers wrongly, or needs more than the bounds."""
    if deployed.path.suffix == ".safetensors" or not deployed.path.is_file():
        return  # weights alone run nothing; `open_model` says what is missing
    about = json.dumps({**asdict(deployed), "path": str(deployed.path.resolve())} | {"task": task})
    command = [sys.executable, "-m", "tasks.adopt.bounded"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=about, capture_output=True, text=True, timeout=WALL, env=environment)
    except subprocess.TimeoutExpired:
        raise EvergreenError(_too_much(deployed.path)) from None
    if done.returncode:
        raise EvergreenError(_too_much(deployed.path))
    if problem := json.loads(done.stdout.splitlines()[-1])["problem"]:
        raise EvergreenError(problem.replace(str(deployed.path.resolve()), str(deployed.path)))


def _too_much(path: Path) -> str:
    gib = _memory(path) / GIB
    return (
        f"{path} ended the process that tried it on three images, which may use {SECONDS} s of CPU time and {gib:.0f} "
        "GiB of memory: expected a classifier of one image batch. Run it under ONNX Runtime to see what it does"
    )


def _memory(path: Path) -> int:
    return MEMORY + FACTOR * path.stat().st_size


def refuse_loops(model: Any, path: Path) -> None:
    """Raise EvergreenError if the ONNX `model` or a function or branch in it may never end."""
    graphs = [model.graph, *model.functions]
    while graphs:
        for node in graphs.pop().node:
            if node.op_type in LOOPS:
                raise EvergreenError(
                    f"{path} has a node {node.op_type}, which may never end: export the model without loops"
                )
            for attribute in node.attribute:
                graphs += [attribute.g] * attribute.HasField("g") + list(attribute.graphs)


def main() -> None:
    """Open the model that standard input describes, within the bounds; print the problem as JSON."""
    import resource

    about = json.load(sys.stdin)
    task, about["path"] = about.pop("task"), Path(about["path"])
    import onnx  # noqa: F401 (what libraries need does not count)
    import onnxruntime  # noqa: F401

    from tasks.adopt.onnx import AdoptedOnnx

    with suppress(OSError, ValueError):  # a system without this count, or a stricter limit: only time is bounded here
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + _memory(about["path"]), hard))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    try:
        AdoptedOnnx(Deployed(**about), task)
        problem = None
    except EvergreenError as error:
        problem = str(error)
    print(json.dumps({"problem": problem}))


if __name__ == "__main__":
    main()
