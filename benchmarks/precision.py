"""Does `precision: auto` choose the faster arithmetic on a GPU?

    python -m benchmarks.precision [--side 224] [--images 512] [--quick]

For each backbone, from random weights: images per second of an epoch of `train_backbone` in float32 and bfloat16, and
which of them "auto" takes. precision_auto_ratio: the speed of auto's choice over that of the faster one, least over the
backbones. The rounds of the two alternate; the first is not counted. Expected on an H100 or H200: above 0.9; 2 minutes.
On a CPU, it measures what is asked for by name, and auto is always float32.
"""

import argparse
import time

import numpy as np

from benchmarks.record import Figure, report
from benchmarks.scratch import say

CONVOLUTIONAL = ("tf_efficientnet_lite0", "resnet50")
LINEAR = ("convnext_tiny", "vit_small_patch16_224", "swin_tiny_patch4_window7_224")
QUICK = ("test_efficientnet", "test_vit")
ROUNDS = 3
BATCH = 64


def speeds(backbone: str, side: int, images: int, rounds: int) -> tuple[dict[str, float], str]:
    """({precision: images per second}, what auto takes): the best of `rounds` epochs of each."""
    import torch

    from tasks.backbones import timm_models
    from tasks.common.params import TrainBackboneParams
    from tasks.stages.train_backbone.feeding import Examples, Setting
    from tasks.stages.train_backbone.optimisation import optimizer_of
    from tasks.stages.train_backbone.phases import Phase
    from tasks.stages.train_backbone.precision import use_bfloat16
    from tasks.stages.train_backbone.processes import Ranks
    from tasks.stages.train_backbone.trainer import train_epoch

    rng, device = np.random.default_rng(0), timm_models.device()
    data = Examples(rng.integers(0, 256, (images, side, side, 3), np.uint8), None, rng.integers(0, 10, images))
    model = timm_models.create_model(backbone, "none", 10, side).to(device)
    params = TrainBackboneParams(backbone=backbone, batch_size=BATCH, learning_rate=1e-5)
    optimizer, phase = optimizer_of(model, params), Phase("all", 2, None)
    best = {"float32": 0.0, "bfloat16": 0.0}
    for number in range(rounds + 1):
        for name in best:
            how = Setting(params, 10, (0.5,) * 3, (0.5,) * 3, Ranks(0, 1, device), half=name == "bfloat16")
            began = time.perf_counter()
            train_epoch(model, optimizer, data, how, phase, 1, 0)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rate = images / (time.perf_counter() - began)
            best[name] = max(best[name], rate if number else 0.0)
    return best, "bfloat16" if use_bfloat16("auto", model, device) else "float32"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="tiny networks, few images; checks the script")
    options = parser.parse_args(arguments)
    side, images = (32, BATCH) if options.quick else (options.side, options.images)
    found = {}
    for backbone in QUICK if options.quick else CONVOLUTIONAL + LINEAR:
        rates, auto = speeds(backbone, side, images, 1 if options.quick else ROUNDS)
        found[backbone] = rates[auto] / max(rates.values())
        say(f"{backbone}: float32 {rates['float32']:.0f}, bfloat16 {rates['bfloat16']:.0f} images/s; auto: {auto}")
    spread = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items())
    figure = Figure(
        name="precision_auto_ratio",
        value=min(found.values()),
        unit="x",
        goal=0.9,
        better="higher",
        peer="the faster of float32 and bfloat16",
        spread=spread,
    )
    report("precision", "python -m benchmarks.precision", [figure], options.quick)


if __name__ == "__main__":
    main()
