"""Which families of networks train, export and answer alike, how fast is each, and how much memory does it take?

    python -m benchmarks.families KEPT [--names NAME ...] [--quick]

Random weights do: neither the check before a training nor the time depends on them. Each network passes the check that
a run makes before it trains (one step, export, answers of 1 and 3 images alike). Its ONNX file then answers single
images in a process of its own, with ONNX Runtime on one thread: milliseconds of the fastest of 15, megabytes of the
file, and megabytes of memory that loading and answering add. Each network is one file in KEPT: a run that is stopped
goes on where it was. With names, nothing is recorded. Expected: every family works; LeViT is refused.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

from benchmarks.record import Figure, report
from tasks.common.code import code_version
from tasks.common.errors import EvergreenError
from tasks.common.files import content_key, read_json, write_json
from tasks.common.presets import PRESETS

SIDE, IMAGES = 224, 15
MEGABYTE = 1e6
FAMILIES = (  # the smallest member of each family with a size of its own or of SIDE, and the well-known larger ones
    *("resnet18", "resnet50", "convnext_atto", "vit_tiny_patch16_224", "vit_base_patch16_224"),
    *("mobilenetv3_small_100", "mobilenetv3_large_100", "efficientnet_b0", "efficientnet_b7", "tf_efficientnetv2_s"),
    *("swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224", "maxvit_rmlp_pico_rw_256", "coatnet_nano_rw_224"),
    *("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_dinov2.lvd142m"),
    *("vit_base_patch16_224.mae", "vit_base_patch32_clip_224.openai", "resnet50_clip.openai"),
    *("mobilenetv4_conv_small", "efficientformerv2_s0", "levit_128s"),
)
QUICK = ("test_efficientnet", "levit_128s")


def side_of(name: str, quick: bool) -> int:
    """Pixels per side: SIDE, or a network's own if its name ends with another."""
    own = name.split(".")[0].rpartition("_")[2]
    return (64 if name.startswith("test_") else SIDE) if quick or own != "256" else 256


def measure(name: str, side: int, images: int = IMAGES) -> dict:
    """Whether network `name` passes the check, its difference, and what serving it costs; or why it is refused."""
    from tasks.models.exportable import try_backbone

    began = time.perf_counter()
    try:
        export = try_backbone(name, side)
    except EvergreenError as error:
        return {"name": name, "side": side, "works": False, "reason": str(error)}
    seconds = time.perf_counter() - began
    found = {"name": name, "side": side, "works": True, "difference": export.difference, "check_seconds": seconds}
    return found | served(export.content, images)


def served(content: bytes, images: int = IMAGES) -> dict:
    """Size of an ONNX file, time of an answer and memory of a process of its own that serves it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(content)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return {"megabytes": len(content) / MEGABYTE} | pool.submit(answer_images, file, images).result()


def answer_images(file: Path, images: int) -> dict:
    """Least milliseconds of an answer to one image, and megabytes of memory that serving takes, in this process."""
    import onnxruntime

    before = psutil.Process().memory_info().rss
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[1]
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    times = []
    for _ in range(images):
        began = time.perf_counter()
        session.run(None, {"images": pixels})
        times.append(time.perf_counter() - began)
    added = psutil.Process().memory_info().rss - before
    return {"milliseconds": 1000 * min(times), "memory_megabytes": added / MEGABYTE}


def kept(folder: Path, name: str, side: int, make) -> dict:
    """What `make()` returns, or what is kept of it if the code is the same."""
    key = content_key(code_version("tasks.models.exportable"), name, side)
    file = folder / f"{name.replace('/', '-')}.json"
    if file.is_file() and (found := read_json(file)).get("key") == key:
        return found
    found = make() | {"key": key}
    write_json(file, found)
    print(line(found), flush=True)
    return found


def line(found: dict) -> str:
    """One row of the table in docs/backbones.md."""
    if not found["works"]:
        return f"| `{found['name']}` | {found['side']} | refused | | | |"
    numbers = " | ".join(f"{found[key]:,.0f}" for key in ("milliseconds", "megabytes", "memory_megabytes"))
    return f"| `{found['name']}` | {found['side']} | yes, {found['difference']:.0e} | {numbers} |"


def figures(results: Sequence[dict]) -> list[Figure]:
    """The share of networks that work, and the time and size of each that does."""
    working = [one for one in results if one["works"]]
    found = [_figure("working_networks", len(working), "networks", f"of {len(results)}", "higher")]
    for one in working:
        name, at = one["name"].split(".")[0], f"at {one['side']} px"
        found.append(_figure(f"{name}_ms", one["milliseconds"], "ms", f"{at}, one thread"))
        found.append(_figure(f"{name}_mb", one["megabytes"], "MB", at))
        found.append(_figure(f"{name}_memory_mb", one["memory_megabytes"], "MB", at))
    return found


def _figure(name: str, value: float, unit: str, spread: str, better: str = "lower") -> Figure:
    return Figure(name=name, value=value, unit=unit, goal=None, better=better, spread=spread)


def main(arguments: list[str] | None = None) -> list[dict]:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path)
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    given.kept.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    names, images = (QUICK, 2) if given.quick else (given.names or (*PRESETS.values(), *FAMILIES), IMAGES)
    results = []
    for name in names:
        side = side_of(name, given.quick)
        results.append(kept(given.kept, name, side, lambda name=name, side=side: measure(name, side, images)))
    report("families", "python -m benchmarks.families KEPT", figures(results), given.quick or bool(given.names))
    return results


if __name__ == "__main__":
    main()
