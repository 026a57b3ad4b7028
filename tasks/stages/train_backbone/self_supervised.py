"""Pretraining on images without labels: two random views of an image shall get the same features.

VICReg (Bardes et al. 2022): no pairs of different images, no second network, so small batches do. It starts from the
network's weights, which may be pretrained on other images. B images a batch, P dimensions of the projection.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.nn import Module, functional

from tasks.backbones import timm_models
from tasks.common.artifacts import ACCEPTED, network_file
from tasks.common.code import code_version
from tasks.common.errors import ParamsError
from tasks.common.files import content_key
from tasks.common.params import ImagesParams, TrainBackboneParams
from tasks.common.paths import cache_dir
from tasks.common.sealed import open_sealed, sealed_path
from tasks.dataset.pixels import pixel_table
from tasks.stages.train_backbone.augment.changes import Changes
from tasks.stages.train_backbone.checkpoint import State, cpu_copy
from tasks.stages.train_backbone.depthwise import SmallMaps
from tasks.stages.train_backbone.feeding import Examples, Inputs, Setting, autocast, prefetch, to_input
from tasks.stages.train_backbone.phases import Phase, moving_statistics, set_mode
from tasks.stages.train_backbone.precision import use_bfloat16
from tasks.stages.train_backbone.processes import Ranks
from tasks.stages.train_backbone.schedules import schedule_factor

EVERYTHING = Phase("all", 1, None)
GEOMETRIC = ("flip", "rotate")  # changes of train_backbone.augment that the views take over
PROJECTION = 512
SAME, SPREAD, APART = 25.0, 25.0, 1.0  # weights of the loss's parts, as in the paper
RATE = 1e-3
USED = {  # settings of train_backbone that decide the result
    *("backbone", "pretrained", "self_supervised_epochs", "batch_size", "weight_decay", "augment", "rotation"),
    *("domain", "batch_norm", "drop_path", "precision", "threads", "seed"),
}
VIEWS = ("crop", "colour")  # changes of each view


def vicreg_loss(one: Tensor, other: Tensor) -> Tensor:
    """Of two projections (B, P) of one batch: views far apart, dimensions that do not vary or that repeat others."""
    same = functional.mse_loss(one, other)
    spread = sum(functional.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean() for z in (one, other)) / 2
    apart = torch.stack([_covariance(z) for z in (one, other)]).sum()
    return SAME * same + SPREAD * spread + APART * apart


def _covariance(z: Tensor) -> Tensor:
    """Sum of the squared covariances between dimensions, per dimension."""
    z = z - z.mean(dim=0)
    products = (z.T @ z / (len(z) - 1)) ** 2
    return (products.sum() - products.diagonal().sum()) / z.shape[1]


def adapted_state(root: Path, params: TrainBackboneParams, images: ImagesParams, say: Callable[[str], None]) -> State:
    """The backbone after `params.self_supervised_epochs` on all training images of the project.

    Without the classifier. The result is kept in the cache, under a hash of images, settings, code and first weights.
    """
    rows = pq.read_table(network_file(root, ACCEPTED.name))
    rows = rows.filter(pc.equal(rows["split"], "train"))
    torch.manual_seed(params.seed)
    model = timm_models.create_model(params.backbone, params.pretrained, 1, images.resolution, params.drop_path)
    file = cache_dir("self_supervised", root) / f"{_key(rows, params, images, model)}.safetensors"
    if (opened := open_sealed(file)) is not None:
        with opened:
            return load(opened.read())
    mean, std = timm_models.normalisation(params.backbone)
    how = Setting(params, 1, mean, std, Ranks(0, 1, timm_models.device()), side=images.resolution)
    how = replace(how, half=use_bfloat16(params.precision, model, how.ranks.device))
    unlabelled = rows["label"].null_count
    say(f"pretraining on {len(rows)} training images, {unlabelled} of them without a label")
    epochs = params.self_supervised_epochs
    for epoch, loss in enumerate(pretrain(model, pixel_table(root, rows, images), how, epochs), 1):
        say(f"pretraining epoch {epoch}/{epochs}  loss {loss:.2f}")
    model.to("cpu")
    last = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if module is timm_models.classifier(model)
        for key, _ in module.named_parameters()
    }
    state = cpu_copy({name: value for name, value in model.state_dict().items() if name not in last})
    with sealed_path(file) as temporary:
        save_file(state, temporary)
    return state


def _key(rows: pa.Table, params: TrainBackboneParams, images: ImagesParams, model: Module) -> str:
    digest = hashlib.sha256(repr(rows["id"].to_pylist()).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    code = code_version("tasks.stages.train_backbone.self_supervised")
    used = params.model_dump(include=USED)
    return content_key(digest.hexdigest(), used, images.model_dump(), code)[:32]


def start_adapted(model: Module, state: State, backbone: str) -> None:
    """Give `model` the weights of `adapted_state`. Raises ParamsError if it has other ones."""
    if unknown := model.load_state_dict(state, strict=False).unexpected_keys:
        raise ParamsError(
            f"train_backbone.self_supervised_epochs: {backbone} with this head or pooling has no {unknown[0]}: set "
            "it to 0"
        )


def with_features(sets: Sequence[Examples], state: State, how: Setting) -> list[Examples]:
    """`sets` with features of the adapted backbone: a classifier fitted on others would not suit it."""
    params = how.params
    side = how.side or sets[0].pixels.shape[1]
    model = timm_models.create_model(params.backbone, "none", 1, side)
    start_adapted(model, state, params.backbone)
    model.to(how.ranks.device)
    return [replace(one, features=adapted_features(model, one.pixels, how)) for one in sets]


def adapted_features(model: Module, images: Inputs, how: Setting) -> np.ndarray:
    """(N, D) float16 features of `images` (N, S, S, 3), as the cache has them of the pretrained network."""
    parts = np.array_split(np.arange(len(images)), max(1, -(-len(images) // how.params.batch_size)))
    side = how.side or images.shape[1]
    model.eval()
    found = []
    with torch.inference_mode():
        for batch in prefetch(parts, images):
            x = to_input(batch, how)
            if x.shape[-1] != side:  # training images may be decoded larger
                x = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
            found.append(timm_models.features(model, x))
    return torch.cat(found).cpu().numpy().astype(np.float16)


def pretrain(model: Module, images: Inputs, how: Setting, epochs: int) -> Iterator[float]:
    """Train all of `model` but its classifier on `images` (N, S, S, 3) in place; yields each epoch's mean loss."""
    params = how.params
    torch.manual_seed(params.seed)
    width = timm_models.feature_dim(model)
    projector = nn.Sequential(
        nn.Linear(width, PROJECTION), nn.BatchNorm1d(PROJECTION), nn.ReLU(), nn.Linear(PROJECTION, PROJECTION)
    ).to(how.ranks.device)
    model.to(how.ranks.device).requires_grad_(True)
    trained = [*model.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=params.weight_decay, fused=True)
    names = tuple(dict.fromkeys([*VIEWS, *(name for name in params.augment if name in GEOMETRIC)]))
    views = Changes.of_epoch(params.model_copy(update={"augment": names}), EVERYTHING, 0, images.shape[1], params.seed)
    views = replace(views, names=names, mixed=(), side=how.side or images.shape[1])
    rng = np.random.default_rng(params.seed)
    batches = max(1, len(images) // params.batch_size)
    for epoch in range(epochs):
        set_mode(model, moving_statistics(params))
        order = np.array_split(rng.permutation(len(images)), batches)
        losses = []
        with SmallMaps() if how.ranks.device.type == "cpu" else nullcontext():
            for step, batch in enumerate(prefetch(order, images)):
                x = to_input(batch, how)
                pair = [views.batch(x, np.zeros(len(x), bool))[0] for _ in range(2)]
                with autocast(how):
                    seen = timm_models.features(model, torch.cat(pair))
                loss = vicreg_loss(*projector(seen.float()).chunk(2))
                optimizer.zero_grad()
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = RATE * schedule_factor("cosine", epoch * batches + step, epochs * batches)
                optimizer.step()
                losses.append(loss.detach())
        yield float(torch.stack(losses).mean())
