"""How much of a pretrained network should train, and what should its classifier read?

    python -m benchmarks.tuning KEPT --signs FILE [--side 48] [--images 900] [--seeds 3] [--quick]

Stage 1 with the default settings and with one change at a time, on belgium-signs by pole (Parquet with the columns
image, label and pole; another file has its group in --group). Judged is balanced accuracy without the bias to common
classes, on images of groups that nothing trained on, after five epochs, with CPU seconds on one thread. Each result is
one file in KEPT: a run that is stopped goes on where it was. Expected on a small convolutional network: full is ahead
of every light tuning. About 2 CPU minutes a seed.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.recipe_sets import split_by_group
from benchmarks.record import Figure, report
from benchmarks.scratch import say, small_set
from tasks.common.files import read_json, write_json
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases

BACKBONE = "tf_efficientnet_lite0"
ARMS = {
    "full": {},
    "linear": {"tuning": "linear"},
    "lora": {"tuning": "lora"},
    "norm": {"tuning": "norm"},
    "bitfit": {"tuning": "bitfit"},
    "mlp": {"head": "mlp"},
    "bilinear": {"pooling": "bilinear"},
    "attention_crop": {"attention_crop": True},
}


def read_images(file: Path, group: str | None, most: int, side: int, seed: int) -> tuple:
    """(pixels (N, S, S, 3), class numbers (N,), split names (N,)) of at most `most` images of `file`."""
    table = pq.read_table(file)
    if len(table) > most:
        table = table.take(np.sort(np.random.default_rng(0).choice(len(table), most, replace=False)))
    labels = table["label"].to_numpy(zero_copy_only=False).astype(str)
    groups = table[group].to_numpy(zero_copy_only=False).astype(str) if group else np.arange(len(table)).astype(str)
    column = table["image"].combine_chunks().field("bytes").to_pylist()
    images = [
        Image.open(io.BytesIO(one)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for one in column
    ]
    return np.stack(images), np.unique(labels, return_inverse=True)[1], split_by_group(labels, groups, seed)


def train(pixels: np.ndarray, targets: np.ndarray, split: np.ndarray, params: TrainBackboneParams) -> dict:
    """{score (percent), seconds (CPU)} of one training of stage 1."""
    import torch

    from tasks.backbones import timm_models
    from tasks.models.extended import Structure, extend
    from tasks.stages.train_backbone.feeding import Examples, Setting
    from tasks.stages.train_backbone.processes import Ranks
    from tasks.stages.train_backbone.trainer import fit

    device, classes, side = torch.device("cpu"), int(targets.max()) + 1, pixels.shape[1]
    scale = timm_models.normalisation(BACKBONE)
    torch.manual_seed(params.seed)
    model = timm_models.create_model(BACKBONE, "auto", classes, side)
    with torch.inference_mode():
        starts = range(0, len(pixels), 64)
        batches = (timm_models.to_input(pixels[start : start + 64], *scale, device) for start in starts)
        features = np.concatenate([timm_models.features(model, x).numpy() for x in batches])
    extend(model, Structure(params.head, params.pooling, params.attention_crop), side)
    parts = [np.flatnonzero(split == "train"), np.flatnonzero(split != "train")]
    sets = [Examples(pixels[rows], features[rows], targets[rows]) for rows in parts]
    began = time.process_time()
    _, history = fit(model, *sets, Setting(params, classes, *scale, Ranks(0, 1, device), side=side))
    return {"score": 100 * history[-1]["calibration_score"], "seconds": time.process_time() - began}


def figures_of(results: dict[str, list[dict]]) -> list[Figure]:
    """Points by which each arm is ahead of `full`, and `full` itself."""
    base = results["full"]
    figures = []
    for name, runs in results.items():
        ahead = [one["score"] - other["score"] for one, other in zip(runs, base, strict=True)]
        scores = [one["score"] for one in runs]
        seconds = np.mean([one["seconds"] for one in runs])
        value, peer = (np.mean(scores), "") if name == "full" else (np.mean(ahead), "full fine-tuning")
        figures.append(
            Figure(
                name=f"tuning_{name}_points",
                value=float(value),
                unit="% balanced accuracy" if name == "full" else "points",
                goal=None,
                better="higher",
                peer=peer,
                seeds=len(runs),
                spread=f"min {min(scores):.1f}, max {max(scores):.1f} %; {seconds:.0f} CPU s",
            )
        )
    return figures


def main(arguments: list[str] | None = None) -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for one result per arm and seed")
    parser.add_argument("--signs", type=Path)
    parser.add_argument("--group", default="pole")
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--images", type=int, default=900)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a part of the default set, one epoch; records nothing")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    file, group, side, seeds, epochs = options.signs, options.group, options.side, options.seeds, 5
    if options.quick:
        file, group, side, seeds, epochs = small_set(options.kept / "small.parquet", divisor=64), None, 32, 1, 1
    if file is None:
        parser.error("--signs is missing: the Parquet file of belgium-signs")
    results: dict[str, list[dict]] = {name: [] for name in ARMS}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed in range(seeds):
            data = read_images(file, group, options.images, side, seed)
            for name, changes in ARMS.items():
                result = options.kept / f"{name}-{seed}.json"
                if not result.is_file():
                    phases = UnfreezePhases(frozen=0, last=0, all=epochs)
                    write_json(result, train(*data, TrainBackboneParams(epochs=phases, seed=seed, **changes)))
                results[name].append(read_json(result))
                say(f"{name}, seed {seed}: {results[name][-1]['score']:.1f} %")
    finally:
        torch.set_num_threads(threads)
    report(
        "tuning", "python -m benchmarks.tuning KEPT --signs belgium-signs.parquet", figures_of(results), options.quick
    )


if __name__ == "__main__":
    main()
