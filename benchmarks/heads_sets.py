"""Cached features of one trained network per set and seed: what benchmarks.heads compares all stage-2 methods on.

N samples of a split, D feature dimensions, K classes.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.calibration import QUICK
from benchmarks.recipe_sets import ImageSet, write_manifest
from benchmarks.scratch import FASHION, change_params, run_stages, scratch_project, small_set, timed
from tasks.common import artifacts
from tasks.common.files import atomic_path
from tasks.common.params import EmbedParams, Params, load_params
from tasks.models import stage1
from tasks.models.pretrained import pretrained_features
from tasks.scoring.targets import encode
from tasks.stages.runner import run_stage

COMMON, RARE = 1000, 10  # training images of the most common and the rarest class of the long-tailed CIFAR-10
CALIBRATION, TEST = 50, 150  # images of each class, as in the default set
SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Arrays:
    """One network's features: x and y by split, its own classifier, and the frozen pretrained network's features.

    groups: (N,) of calibration; seconds: CPU seconds of stage 1.
    """

    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    weight: np.ndarray
    bias: np.ndarray
    frozen: dict[str, np.ndarray]
    groups: list[str | None]
    seconds: float


def long_tailed(file: Path, seed: int, folder: Path, scale: int = 1) -> Path:
    """A manifest of CIFAR-10 (columns image, clean_label) from COMMON down to RARE training images of a class.

    Which class is common changes with `seed`. Calibration and test are balanced, as in the default set.
    """
    table = pq.read_table(file, columns=["image", "clean_label"])
    labels = table["clean_label"].to_numpy(zero_copy_only=False).astype(str)
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(labels))
    rows, split = [], []
    for rank, name in enumerate(names):
        train = round(COMMON * (RARE / COMMON) ** (rank / (len(names) - 1)) / scale)
        counts = {"train": max(train, 4), "calibration": CALIBRATION // scale, "test": TEST // scale}
        members = rng.permutation(np.flatnonzero(labels == name))[: sum(counts.values())]
        rows += members.tolist()
        split += [part for part, count in counts.items() for _ in range(count)]
    columns = {"image": table["image"].take(pa.array(rows)), "label": labels[rows], "split": split}
    with atomic_path(folder / "cifar.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary, row_group_size=64)
    return folder / "cifar.parquet"


def manifest(name: str, file: Path, seed: int, folder: Path) -> Path:
    """The set `name` as a manifest with the column split."""
    if name == "fashion":
        return file
    if name == "cifar":
        return long_tailed(file, seed, folder)
    return write_manifest(ImageSet(name, file), seed, folder / "set.parquet")


def cached(
    name: str, file: Path | None, seed: int, kept: Path, quick: bool = False, sampler: str = "natural"
) -> Arrays:
    """The arrays of set `name` and `seed`, from `kept` or from a training of about a minute."""
    place = kept / f"{name}-{seed}{'' if sampler == 'natural' else '-' + sampler}.npz"
    if not place.is_file():
        with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
            arrays = trained(name, file or FASHION / "base.parquet", seed, Path(folder), quick, sampler)
        with atomic_path(place) as temporary, temporary.open("wb") as out:
            np.savez(out, **arrays)
    with np.load(place) as found:
        part = {
            kind: {split: found[f"{kind}_{split}"] for split in SPLITS if f"{kind}_{split}" in found} for kind in "xyf"
        }
        return Arrays(
            part["x"],
            part["y"],
            found["weight"],
            found["bias"],
            part["f"],
            [group or None for group in found["groups"].tolist()],
            float(found["seconds"]),
        )


def trained(name: str, file: Path, seed: int, folder: Path, quick: bool, sampler: str) -> dict[str, np.ndarray]:
    """Train the default recipe, but with `sampler`, on the set and compute all features."""
    source = small_set(folder / "small.parquet", divisor=16) if quick else manifest(name, file, seed, folder)
    project = scratch_project(folder / "project", source, QUICK if quick else {})
    change_params(project, {"train_backbone": {"seed": seed, "threads": 1, "sampler": sampler}})
    run_stages(project, "inspect", "validate", "embed", "clean")
    params = load_params(project / "params.yaml")
    with timed(f"{name}, seed {seed}: stage 1") as clock:
        run_stage("train_backbone", project)
    return features(project, params) | {"seconds": np.array(clock.cpu)}


def features(project: Path, params: Params) -> dict[str, np.ndarray]:
    """Features, targets and classifier of a trained project, by name."""
    rows, (classes, task) = artifacts.training_rows(project), artifacts.classes_and_task(project)
    y = {split: encode(rows[split]["label"], classes, task) for split in SPLITS}
    file = artifacts.trained_weights(project)
    out = {f"y_{split}": y[split] for split in SPLITS}
    for split in SPLITS:
        out[f"x_{split}"] = stage1.stage1_features(project, rows[split], params.images, weights=file)[:]
        frozen = pretrained_features(
            project, rows[split], embed=EmbedParams(backbone=params.train_backbone.backbone), images=params.images
        )
        out[f"f_{split}"] = frozen[:]
    out["weight"], out["bias"] = own_head(project)
    out["groups"] = np.array([group or "" for group in rows["calibration"]["group"].to_pylist()])
    return out


def own_head(project: Path) -> tuple[np.ndarray, np.ndarray]:
    """(K, D) weight and (K,) bias of the network's own classifier."""
    from tasks.stages.train_head import stage1_head

    head = stage1_head(project)
    return head.weight, head.bias
