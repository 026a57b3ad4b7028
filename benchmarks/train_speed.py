"""How fast does stage 1 train on CPUs, compared with plain torch?

    python -m benchmarks.train_speed [--rounds N] [--quick]

train_speed_ratio_48, train_speed_ratio_64: images per second of the last phase of `train_backbone` (the default
backbone, all parts open, batches of 64, images of that many pixels per side), over those of the same loop in one
process on all cores with torch's own gradients. Rounds alternate, every run is a fresh process, and only epochs after
the first count, so the start of processes does not. Nothing else may run at the same time, because processes in step
wait for the slowest. Expected: 1.1 to 1.3 on 2 cores; 6 minutes.
"""

import argparse
import contextlib
import statistics
import time
from functools import partial

import numpy as np

from benchmarks.processes import python
from benchmarks.record import Figure, report
from benchmarks.scratch import say

SIDES = (48, 64)  # pixels: of the demo, and of the default project
BATCH = 64
MEASURE = """
import sys
from benchmarks.train_speed import train
side, images, *plain = map(int, sys.argv[1:])
print(*(train(side, images, how) for how in plain))
"""


def train(side: int, images: int, plain: bool) -> float:
    """Images per second of two epochs after a first one; `plain`: one process and torch's own gradients."""
    import torch

    from tasks.backbones import timm_models
    from tasks.common.params import TrainBackboneParams
    from tasks.common.sections.training import UnfreezePhases
    from tasks.stages.train_backbone import feeding, trainer
    from tasks.stages.train_backbone.processes import processes
    from tasks.stages.train_backbone.stage import repeatable
    from tasks.stages.train_backbone.workers import MIN_SHARE

    cores = torch.get_num_threads()
    if plain:
        trainer.SmallMaps = contextlib.nullcontext
    workers = 0 if plain else min(cores, BATCH // MIN_SHARE) - 1
    phases = UnfreezePhases(frozen=0, last=0, all=3)
    params = TrainBackboneParams(epochs=phases, batch_size=BATCH, threads=cores if plain else 0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, side, side, 3), np.uint8)
    train = feeding.Examples(pixels, None, rng.integers(0, 10, images))
    calibration = feeding.Examples(pixels[:BATCH], None, train.targets[:BATCH])
    ends = []
    with processes(workers, partial(_train_worker, side, images)) as ranks, repeatable(params.threads, ranks.world):
        model = timm_models.create_model(params.backbone, params.pretrained, 10, side)
        ranks.barrier()
        judge = trainer.judge
        trainer.judge = lambda *a: (ends.append(time.perf_counter()), judge(*a))[1]  # an epoch has ended
        trainer.fit(model, train, calibration, feeding.Setting(params, 10, (0.5,) * 3, (0.5,) * 3, ranks))
    return 2 * images / (ends[2] - ends[0])


def _train_worker(side: int, images: int) -> None:
    train(side, images, False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, one round; checks the script")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    images, rounds = (BATCH, 1) if options.quick else (32 * BATCH, options.rounds)
    figures = []
    for side in SIDES[:1] if options.quick else SIDES:
        ours, plain = [], []
        for number in range(rounds):
            for hows in [(0, 1)] if options.quick else [(0,), (1,)]:  # torch's import is most of a quick pass
                rates = map(float, python(MEASURE, side, images, *hows).output.split())
                for how, rate in zip(hows, rates, strict=True):
                    (plain if how else ours).append(rate)
            say(f"{side} pixels, round {number + 1}: {ours[-1]:.0f} against {plain[-1]:.0f} images a second")
        figures.append(figure(side, ours, plain))
    report("train_speed", "python -m benchmarks.train_speed", figures, options.quick)


def figure(side: int, ours: list[float], plain: list[float]) -> Figure:
    """The median of the rounds' ratios."""
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    spread = f"rounds {min(ratios):.2f} to {max(ratios):.2f}; best {max(ours):.0f} / {max(plain):.0f} images a second"
    peer = "one process on all cores, torch's own gradients"
    return Figure(
        name=f"train_speed_ratio_{side}",
        value=statistics.median(ratios),
        unit="x",
        goal=1.0,
        better="higher",
        peer=peer,
        spread=spread,
    )


if __name__ == "__main__":
    main()
