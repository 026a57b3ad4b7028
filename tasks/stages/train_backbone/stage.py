"""Stage `train_backbone`: stage 1, fine-tunes the pretrained network.

Reads artifacts/validate/network/{accepted.parquet, classes.json} and artifacts/clean/labels.parquet; writes
artifacts/train_backbone/{weights.safetensors, model.json, history.csv} and metrics/train_backbone.json.

If it is killed and started again, it continues after the last whole epoch. The checkpoint is in the cache, under a
hash of everything that decides the result. A machine's GPUs, or else its cores, share a large training by themselves;
several machines share one with torchrun (docs/training.md).
"""

import csv
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.common.artifacts import FOLDER, classes_and_task, network_classes, network_rows
from tasks.common.code import code_version
from tasks.common.errors import ParamsError
from tasks.common.files import atomic_path, content_key, write_json
from tasks.common.params import EmbedParams, ImagesParams, TrainBackboneParams
from tasks.common.paths import cache_dir
from tasks.models.stage1 import save
from tasks.scoring.targets import encode
from tasks.stages.train_backbone.checks import check, check_schedule

if TYPE_CHECKING:  # the stage imports torch when it runs
    import torch

KEPT_DAYS = 14  # for checkpoints of runs that were never resumed


def run(root: Path, *, train_backbone: TrainBackboneParams, images: ImagesParams) -> None:
    """Train, keep the best epoch, write the outputs. Raises DataError if train or calibration has no labels."""
    from tasks.stages.train_backbone.memory import freed_memory_kept
    from tasks.stages.train_backbone.processes import processes, sharers
    from tasks.stages.train_backbone.workers import worker_count

    rows = network_rows(root)
    classes, (_, task) = network_classes(root), classes_and_task(root)
    check(rows, classes, task, train_backbone)
    rerun = partial(run, root, train_backbone=train_backbone, images=images)
    first = os.environ.get("RANK", "0") == "0"  # before other processes start, or while they wait
    if first and train_backbone.self_supervised_epochs:
        with repeatable(train_backbone.threads, 1):
            adapt(root, train_backbone, images)
    with (
        processes(worker_count(len(rows["train"]), train_backbone), rerun) as ranks,
        repeatable(train_backbone.threads, sharers(ranks.world)),
        freed_memory_kept(),
    ):
        train(root, rows, classes, task, train_backbone, images, ranks)


def train(root: Path, rows: dict[str, pa.Table], classes: list[str], task: str, params, images, ranks) -> None:
    """The stage in one of `ranks` processes; rank 0 writes."""
    from tasks.backbones import timm_models
    from tasks.stages.train_backbone.feeding import Examples, Setting
    from tasks.stages.train_backbone.seeds import Member, combine, one_seed
    from tasks.stages.train_backbone.self_supervised import with_features
    from tasks.stages.train_backbone.teachers import read_teachers
    from tasks.stages.train_backbone.trainer import fit
    from tasks.stages.train_backbone.warm import begin

    if params.distill.features and ranks.world > 1:
        raise ParamsError(
            f"train_backbone.distill.features compares all images of a batch, which {ranks.world} processes share: "
            "start one process, or set it to 0"
        )
    mean, std = timm_models.normalisation(params.backbone)
    how = Setting(params, len(classes), mean, std, ranks, side=images.resolution)
    say_narrowed(params, ranks)
    sets = [
        Examples(
            *ranks.rank0_first(lambda split=split: inputs(root, split, rows[split], params, images)),
            encode(rows[split]["label"], classes, task),
        )
        for split in ("train", "calibration")
    ]
    sets = pruned_features(sets, images, how)
    body = ranks.rank0_first(lambda: adapt(root, params, images))
    folders, members, choice = [], [], None
    if body is not None:
        sets = with_features(sets, body, how)
    make = partial(create_model, classes=len(classes), images=images, body=body)
    if params.tuning == "auto":
        folders.append(cache_dir("training", root) / run_key(rows, classes, params, images, make(params)))
        ranks.check_same(folders[0].name)
        choice = chosen_tuning(root, rows["train"], sets[0], images, how, make, folders[0] / "tuning.json")
        params = params.model_copy(update={"tuning": choice["tuning"]})
        how = replace(how, params=params)
    taught = partial(read_teachers, root, rows["train"], classes, task, params.distill, images, ranks.device)
    how = replace(how, teachers=ranks.rank0_first(taught))
    for number in range(params.seeds):
        member = replace(how, params=one_seed(params, number))
        model = make(member.params)
        start = begin(root, model, classes, sets, member, number)
        folders.append(cache_dir("training", root) / run_key(rows, classes, start.how.params, images, model))
        ranks.check_same(folders[-1].name)
        best, history = fit(model, *start.sets, start.how, folders[-1] / "checkpoint.safetensors")
        model.to("cpu").load_state_dict(best)
        members.append(Member(model, history, start.figures))
    model, history, figures = combine(members, sets, how)
    if ranks.rank == 0:
        about = {
            "backbone": params.backbone,
            "pretrained": params.pretrained,
            "classes": classes,
            "task": task,
            "resolution": images.resolution,
            "fit": images.fit,
            "mean": list(mean),
            "std": list(std),
            "feature_dim": timm_models.feature_dim(model),
            "start": figures["start"]["method"],
            "tuning": params.tuning,
            "tuning_trials": choice,
            "head": params.head,
            "pooling": params.pooling,
            "prune": params.prune,
            "attention_crop": params.attention_crop,
        }
        write_outputs(root, model, about, history, {split: len(table) for split, table in rows.items()}, figures)
    ranks.barrier()
    for folder in folders:  # on every machine
        shutil.rmtree(folder, ignore_errors=True)
    remove_old_checkpoints(folders[0].parent)


def adapt(root: Path, params: TrainBackboneParams, images: ImagesParams) -> "dict[str, torch.Tensor] | None":
    """The backbone pretrained on the project's own training images, without the classifier; None if not asked for.

    None as well where all weights come from the champion.
    """
    if not params.self_supervised_epochs or (params.start == "champion" and params.start_bundle is not None):
        return None
    from tasks.stages.train_backbone.self_supervised import adapted_state

    def say(text: str) -> None:
        print(f"train_backbone: {text}", file=sys.stderr, flush=True)

    return adapted_state(root, params, images, say)


def create_model(
    params: TrainBackboneParams, classes: int, images: ImagesParams, body: "dict[str, torch.Tensor] | None" = None
) -> "torch.nn.Module":
    """The network of one training before it, with the weights of `adapt`. Raises ParamsError if it cannot take the
    resolution schedule."""
    import torch

    from tasks.backbones import timm_models
    from tasks.models.extended import Structure, extend
    from tasks.models.pruning import prune
    from tasks.stages.train_backbone.self_supervised import start_adapted

    torch.manual_seed(params.seed)
    model = timm_models.create_model(params.backbone, params.pretrained, classes, images.resolution, params.drop_path)
    model = prune(model, params.prune)
    model = extend(model, Structure(params.head, params.pooling, params.attention_crop), images.resolution)
    check_schedule(model, params, images.resolution)
    if body is not None:
        start_adapted(model, body, params.backbone)
    return model


def pruned_features(sets: list, images: ImagesParams, how) -> list:
    """`sets` with features of the pruned network: a classifier fitted on the whole network's would not suit it."""
    from tasks.stages.train_backbone.self_supervised import adapted_features

    if not how.params.prune or how.params.pretrained == "none":
        return sets
    plain = how.params.model_copy(update={"head": "linear", "pooling": "average", "attention_crop": False})
    model = create_model(plain, how.classes, images).to(how.ranks.device)
    return [replace(one, features=adapted_features(model, one.pixels, how)) for one in sets]


def chosen_tuning(root: Path, rows: pa.Table, train, images: ImagesParams, how, make, file: Path) -> dict:
    """What `tuning.choose_tuning` chose for this training, kept in `file` for a run that resumes.

    make: params -> the network before the training.
    """
    from tasks.dataset.pixels import pixel_table
    from tasks.stages.train_backbone.tuning import choose_tuning

    keeps = how.ranks.keeps(file.parents[1])
    if (known := how.ranks.share(file.read_bytes() if file.is_file() else None)) is not None:
        return json.loads(known)
    choice = choose_tuning(
        partial(make, how.params), train, pixel_table(root, rows, images), rows["group"].to_pylist(), how
    )
    if how.ranks.rank == 0:
        print(f"train_backbone: {choice.sentence()}", file=sys.stderr, flush=True)
    if keeps:
        write_json(file, asdict(choice))
    return asdict(choice)


def inputs(root: Path, split: str, table: pa.Table, params: TrainBackboneParams, images: ImagesParams) -> tuple:
    """(pixels, features of the untrained backbone or None) of `table`, both on demand from the cache.

    Training images are decoded larger than the input for `resized_crop`.
    """
    from tasks.dataset.pixels import pixel_table
    from tasks.models.pretrained import pretrained_features
    from tasks.stages.train_backbone.augment.limits import decoded_side

    features = None
    if params.pretrained != "none":
        embed = EmbedParams(backbone=params.backbone)  # the stage `embed` may have computed the same ones
        features = pretrained_features(root, table, embed=embed, images=images)
    if split == "train":
        images = images.model_copy(update={"resolution": decoded_side(images.resolution, params)})
    return pixel_table(root, table, images), features


def say_narrowed(params: TrainBackboneParams, ranks) -> None:
    """Print what the domain takes away from the settings, once."""
    from tasks.stages.train_backbone.augment.limits import narrowed

    found = narrowed(params)
    if found and ranks.rank == 0:
        print(f"train_backbone: domain {params.domain}: {'; '.join(found)}", file=sys.stderr, flush=True)


def run_key(rows: dict[str, pa.Table], classes: list[str], params, images: ImagesParams, model) -> str:
    """Identifies a training: a hash of its data in order, parameters, code and initial weights."""
    digest = hashlib.sha256()
    for split in ("train", "calibration"):
        for part in (rows[split]["id"], rows[split]["label"]):
            digest.update(repr(part.to_pylist()).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    code = code_version("tasks.stages.train_backbone.stage")
    return content_key(digest.hexdigest(), classes, params.model_dump(), images.model_dump(), code)[:32]


def write_outputs(root: Path, model, about: dict, history: list[dict], counts: dict[str, int], figures: dict) -> None:
    """Write the network, history.csv and the stage's metrics, with `figures`. counts: images of each split."""
    from tasks.stages.train_backbone.phases import best_epoch

    best = history[best_epoch(history) - 1]
    save(root, model, about)
    with atomic_path(root / FOLDER / "history.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(best), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    metrics = {
        "best_epoch": best["epoch"],
        "best_phase": best["phase"],
        "epochs": len(history),
        "score": "balanced_accuracy_without_prior" if about["task"] == "multiclass" else "mean_average_precision",
        "calibration_score": best["calibration_score"],
        "calibration_loss": best["calibration_loss"],
        "train_loss": best["train_loss"],
        "train_images": counts["train"],
        "calibration_images": counts["calibration"],
    }
    write_json(root / "metrics" / "train_backbone.json", metrics | figures)


def remove_old_checkpoints(folder: Path) -> None:
    """Remove checkpoints that have not been written for KEPT_DAYS."""
    for file in folder.glob("*/checkpoint.safetensors"):
        with suppress(FileNotFoundError):  # the processes of a training do this at the same time
            if time.time() - file.stat().st_mtime > KEPT_DAYS * 86400:
                shutil.rmtree(file.parent, ignore_errors=True)


@contextmanager
def repeatable(threads: int, sharers: int) -> Iterator[None]:
    """torch with the same bits each time, on `threads` CPU threads; 0: a share of all, of `sharers` processes."""
    import torch

    before = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(threads or max(1, before[0] // sharers))
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.deterministic = before[1]
