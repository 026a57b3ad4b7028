"""Where do the seconds of the demo's retrain go, and how far above its floor is it?

    python -m benchmarks.demo_profile [--quick]

The nine stages run on the demo's images with the demo's settings, in one process as in a retrain: first on the base
set from empty caches, then again after the second batch. Of each stage: seconds, CPU seconds of the process tree, the
seconds inside outermost imports, peak memory of the tree, bytes that the process read and wrote.

The floor, measured in the same run, is what the first retrain cannot do without: decoding each image once, the
network's features once, the arithmetic of the epochs (forward and backward of as many batches), and the bytes that it
writes. `demo_floor_ratio` is all CPU seconds over those of the floor. Expected: about 6 minutes on 2 cores.
"""

import argparse
import json
import os
import tempfile
import time
from functools import partial
from hashlib import sha256
from pathlib import Path

from benchmarks.peak_memory import mb
from benchmarks.processes import python
from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, say, scratch_project, small_set
from tasks.common.params import load_params
from tasks.ingest.batch import ingest
from tasks.stages.runner import STAGES

DEMO = {"images": {"resolution": 48}}  # as flows.demo.main.SETTINGS, of what stages read
QUICK = {
    "images": {"resolution": 32},
    "train_backbone": {
        "backbone": "test_efficientnet",
        "pretrained": "none",
        "epochs": {"frozen": 0, "last": 0, "all": 1},
    },
}
QUICK_STAGES = STAGES[:2]

# one line of JSON for each stage; `__import__` is replaced so that the outermost import statements are timed
PROFILE = """
import builtins, json, os, sys, time
from pathlib import Path
plain, state = builtins.__import__, {"depth": 0, "seconds": 0.0}
def timed(*arguments, **keywords):
    state["depth"] += 1
    start = time.perf_counter()
    try:
        return plain(*arguments, **keywords)
    finally:
        state["depth"] -= 1
        if state["depth"] == 0:
            state["seconds"] += time.perf_counter() - start
builtins.__import__ = timed
from benchmarks.processes import MemoryWatch, tree_cpu
from flows.startup import collect_less_garbage
from tasks.stages.runner import run_stage
collect_less_garbage()
def moved():
    about = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(about["rchar"]), int(about["wchar"])
for name in sys.argv[2:]:
    watch, start, cpu, (read, written) = MemoryWatch(os.getpid()), time.perf_counter(), tree_cpu(), moved()
    state["seconds"] = 0.0
    run_stage(name, Path(sys.argv[1]))
    now = moved()
    about = {"stage": name, "wall": time.perf_counter() - start, "cpu": tree_cpu() - cpu, "imports": state["seconds"]}
    about |= {"memory": watch.end()[1], "read": now[0] - read, "written": now[1] - written}
    print("profile", json.dumps(about))
"""

# the floor: CPU seconds of decoding, of features and of the epochs' arithmetic, for the project's own settings
FLOOR = """
import json, sys, time
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
import torch
from tasks.backbones import timm_models
from tasks.common.params import load_params
from tasks.dataset.decode import PREPROCESS, preprocess
from tasks.dataset.shards import iter_bytes, live_shards
root = Path(sys.argv[1])
params = load_params(root / "params.yaml")
images, train = params.images, params.train_backbone
def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start
encoded = [data for shard in live_shards(root / "data") for _, data in iter_bytes(shard.path)]
how = [getattr(images, key) for key in PREPROCESS]
decode = seconds(lambda: [preprocess(data, *how) for data in encoded])
network = timm_models.create_model(train.backbone, "none", 10, images.resolution).to(memory_format=torch.channels_last)
batch = torch.rand(train.batch_size, 3, images.resolution, images.resolution).to(memory_format=torch.channels_last)
target = torch.zeros(train.batch_size, dtype=torch.long)
def step():
    torch.nn.functional.cross_entropy(network(batch), target).backward()
def forward():
    with torch.inference_mode():
        network(batch)
network.eval()
forward(), step()  # what is compiled and allocated once
tries = 5
batches = len(encoded) / train.batch_size
features = seconds(lambda: [forward() for _ in range(tries)]) / tries * batches
accepted = pq.read_table(root / "artifacts/validate/network/accepted.parquet", columns=["split"])["split"].to_pylist()
epochs = sum(train.epochs.model_dump().values())  # of the demo all train the whole network
batches = accepted.count("train") / train.batch_size
training = seconds(lambda: [step() for _ in range(tries)]) / tries * batches * epochs
print("floor", json.dumps({"decode": decode, "features": features, "training": training}))
"""


def stages_of(project: Path, names: tuple[str, ...], what: str) -> list[dict]:
    """What each stage used, in order: stage, wall, cpu, imports (seconds), memory, read, written (bytes)."""
    say(f"{what} ...")
    printed = python(PROFILE, project, *names).output
    found = [json.loads(line.removeprefix("profile ")) for line in printed.splitlines() if line.startswith("profile ")]
    for one in found:
        say(
            f"  {one['stage']}: {one['wall']:.1f} s, {one['cpu']:.1f} s of CPU, imports {one['imports']:.1f} s, "
            f"{mb(one['memory'])}, read {mb(one['read'])}, written {mb(one['written'])}"
        )
    return found


def floor_of(project: Path, written: int) -> dict[str, float]:
    """CPU seconds of decoding, features and training, and of writing `written` bytes and hashing them."""
    printed = python(FLOOR, project).output
    floor = json.loads(next(line for line in printed.splitlines() if line.startswith("floor ")).removeprefix("floor "))
    block, digest, start = os.urandom(1 << 20), sha256(), time.process_time()
    with tempfile.TemporaryFile(dir=project) as file:
        for _ in range(written >> 20):
            digest.update(block)
            file.write(block)
        os.fsync(file.fileno())
    return floor | {"disk": time.process_time() - start}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little data, two stages; checks the script")
    options = parser.parse_args(arguments)
    names, changes = (QUICK_STAGES, QUICK) if options.quick else (STAGES, DEMO)
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as name:
        folder = Path(name)
        first, batch = FASHION / "base.parquet", FASHION / "batch-2.parquet"
        if options.quick:
            first, batch = (small_set(folder / file.name, file) for file in (first, batch))
        project = scratch_project(folder / "project", first, changes)
        params = load_params(project / "params.yaml")
        take = partial(ingest, project, data=params.data, images=params.images, inspect=params.inspect)
        take(FASHION / "hard.parquet", kind="hard")
        found = {"first": stages_of(project, names, "the first retrain")}
        floor = floor_of(project, sum(one["written"] for one in found["first"]))
        take(batch)
        found["next"] = stages_of(project, names, "the retrain after the second batch")
    report("demo_profile", "python -m benchmarks.demo_profile", figures_of(found, floor), options.quick)


def figures_of(found: dict[str, list[dict]], floor: dict[str, float]) -> list[Figure]:
    """Seconds of each stage and run, and the first run over its floor."""
    figures = []
    for run, stages in found.items():
        wall, cpu, imports = (sum(one[key] for one in stages) for key in ("wall", "cpu", "imports"))
        figures.append(_seconds(f"demo_{run}_s", wall, f"{cpu:.1f} s of CPU; imports {imports:.1f} s"))
        for one in stages:
            about = f"{one['cpu']:.1f} s of CPU, imports {one['imports']:.1f} s, {mb(one['memory'])}, read "
            about += f"{mb(one['read'])}, written {mb(one['written'])}"
            figures.append(_seconds(f"demo_{run}_{one['stage']}_s", one["wall"], about))
    least = sum(floor.values())
    figures.append(
        Figure(
            name="demo_floor_ratio",
            value=sum(one["cpu"] for one in found["first"]) / least,
            unit="x",
            goal=None,
            better="lower",
            peer=f"the floor, {least:.1f} s: " + ", ".join(f"{name} {value:.1f}" for name, value in floor.items()),
        )
    )
    return figures


def _seconds(name: str, value: float, spread: str) -> Figure:
    return Figure(name=name, value=value, unit="s", goal=None, better="lower", spread=spread)


if __name__ == "__main__":
    main()
