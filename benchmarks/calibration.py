"""How well calibrated is the finished model on thousands of images it has never seen?

    python -m benchmarks.calibration [FASHION_MNIST] [--quick]

Ingests datasets/fashion/base.parquet into a temporary project and runs the stages up to `calibrate` for each seed. Then
it asks the exported model for its probabilities of the test part of Fashion-MNIST: clean, in its natural (even) mix,
without any image that is in a file of datasets/fashion. FASHION_MNIST is the folder with its idx.gz files (default:
where Debian's package dataset-fashion-mnist installs them).

`ece_after` is tasks.scoring.metrics.debiased_ece after calibration (root mean square, Kumar et al. 2019), the
strictest of the three reported measures. Expected: at most 0.02; about 4 minutes on 2 cores.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, ROOT, change_params, run_stages, say, scratch_project, small_set, timed
from tasks.common.artifacts import training_rows
from tasks.common.errors import DataError
from tasks.common.files import read_json
from tasks.common.params import ImagesParams, load_params
from tasks.dataset.decode import decode, resize
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.scaling import Scaling, read_scaling, scale
from tasks.inference.thresholds import answers, read_rule
from tasks.scoring import metrics

SEEDS = 3
QUICK = {"images": {"resolution": 32}, "train_backbone": {"epochs": {"frozen": 1, "last": 1, "all": 1}}}
LEAST = 5_000  # test images needed for a figure that is recorded
GOAL = 0.02
MEASURES = {"debiased_ece": metrics.debiased_ece, "ece": metrics.ece, "adaptive_ece": metrics.adaptive_ece}


@cache
def fashion_script() -> ModuleType:
    """The module datasets/make_fashion.py, loaded by its path: another `datasets` may be installed."""
    spec = importlib.util.spec_from_file_location("make_fashion", ROOT / "datasets" / "make_fashion.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def unseen(source: Path | None = None) -> tuple[np.ndarray, list[str]]:
    """(pixels (N, 28, 28) uint8, N class names) of the test part, without images that are in datasets/fashion.

    `source` None: the package's folder. Raises DataError if Fashion-MNIST is not there.
    """
    script = fashion_script()
    source = source or script.SOURCE
    if not (source / "t10k-images-idx3-ubyte.gz").is_file():
        raise DataError(
            f"{source} holds no t10k-images-idx3-ubyte.gz: install Debian's package dataset-fashion-mnist "
            "(apt install dataset-fashion-mnist), or name the folder with Fashion-MNIST's idx.gz files"
        )
    pool = script.Pool(source, "t10k")
    names, contents = in_repository()
    keep = [
        index
        for index, image in enumerate(pool.images)
        if f"t10k-{index:05d}.png" not in names and image.tobytes() not in contents
    ]
    return pool.images[keep], [script.CLASSES[number] for number in pool.labels[keep]]


def in_repository() -> tuple[set[str], set[bytes]]:
    """Names and pixels of all images in datasets/; names are those of Fashion-MNIST, also after a camera change."""
    names, contents = set(), set()
    for file in sorted(FASHION.glob("*.parquet")):
        if "image" not in pq.read_schema(file).names:
            continue
        image = pq.read_table(file, columns=["image"])["image"].combine_chunks()
        names.update(image.field("path").to_pylist())
        contents.update(decode(data, 10**6).tobytes() for data in image.field("bytes").to_pylist())
    return names, contents


def logits(model: OnnxModel, pixels: np.ndarray, images: ImagesParams) -> np.ndarray:
    """(N, K) outputs of the exported model, with the same resize as in training and serving."""
    parts = []
    for start in range(0, len(pixels), 64):
        block = [resize(Image.fromarray(one), images.resolution, images.fit) for one in pixels[start : start + 64]]
        parts.append(model(np.stack(block)).logits)
        if start % 2048 == 0:
            say(f"  {start} of {len(pixels)} test images")
    return np.concatenate(parts)


def measure(project: Path, pixels: np.ndarray, labels: list[str], images: ImagesParams) -> dict[str, dict[str, float]]:
    """{"before", "after"} -> each of MEASURES, and the accuracy, of the model in `project`."""
    about = read_json(project / "artifacts/calibrate/calibration.json")
    targets = np.array([about["classes"].index(name) for name in labels])
    found = logits(OnnxModel(project / "artifacts/calibrate/model.onnx", threads=2), pixels, images)
    out = {}
    for when, scaling in (("before", Scaling()), ("after", read_scaling(about))):
        given = scale(found, scaling, "multiclass")
        out[when] = {name: ece(given, targets) for name, ece in MEASURES.items()}
        out[when]["confidence"] = float(given.max(axis=1).mean())
    answered = answers(scale(found, read_scaling(about), "multiclass"), read_rule(about))
    out["after"]["accuracy"] = metrics.accuracy(targets, answered, len(about["classes"]))
    say("  " + "; ".join(f"{when}: {_listed(values)}" for when, values in out.items()))
    return out


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def mix(labels: list[str]) -> str:
    """Smallest and largest class of `labels`, in words: calibration only holds for the mix it was made on."""
    counts = Counter(labels).values()
    return f"{len(labels)} images, {min(counts)} to {max(counts)} a class"


def figures_of(found: list[dict[str, dict[str, float]]], tested: str, fitted: str) -> list[Figure]:
    """ece_after, the measure without calibration, and the other measures; takes one result of `measure` per seed."""
    figures = []
    for name in MEASURES:
        before, after = ([one[when][name] for one in found] for when in ("before", "after"))
        spread = "each seed " + ", ".join(f"{value:.4f}" for value in after)
        main = name == "debiased_ece"
        figures.append(
            Figure(
                name="ece_after" if main else f"ece_after_{name.removesuffix('ece').strip('_') or 'plain'}",
                value=float(np.mean(after)),
                unit="",
                goal=GOAL if main else None,
                better="lower",
                peer=f"without calibration {np.mean(before):.4f}",
                seeds=len(found),
                spread=f"{spread}; tested on {tested}; calibrated on {fitted}" if main else spread,
            )
        )
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path, help="folder with Fashion-MNIST's idx.gz files")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the images, one seed; records nothing")
    options = parser.parse_args(arguments)
    with timed("test images"):
        pixels, labels = unseen(options.source)
    if options.quick:
        pixels, labels = pixels[:300], labels[:300]
    elif len(labels) < LEAST:
        raise DataError(f"{len(labels)} unseen test images, at least {LEAST} expected")
    changes = QUICK if options.quick else {}
    found = []
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as name:
        folder = Path(name)
        source = {"source": small_set(folder / "small.parquet", divisor=16)} if options.quick else {}
        project = scratch_project(folder / "project", changes=changes, **source)
        run_stages(project, "inspect", "validate", "embed", "clean")
        images = load_params(project / "params.yaml").images
        for seed in range(1 if options.quick else SEEDS):
            say(f"seed {seed}")
            change_params(project, {"train_backbone": {"seed": seed}})
            run_stages(project, "train_backbone", "train_head", "calibrate")
            found.append(measure(project, pixels, labels, images))
        fitted = mix(training_rows(project)["calibration"]["label"].to_pylist())
    figures = figures_of(found, mix(labels), fitted)
    report("calibration", "python -m benchmarks.calibration", figures, options.quick)


if __name__ == "__main__":
    main()
