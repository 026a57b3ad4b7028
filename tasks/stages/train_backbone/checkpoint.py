"""The checkpoint of an interrupted training: one safetensors file, replaced after every epoch.

Tensors: "model/<name>" (everything that training has changed so far), "best/<name>" (the same of the best epoch,
absent if that is the last one), "average/<name>" (`averages.average_state`) and "optimizer/<name>"
(`optimizer_state`). The history of epochs is JSON in the file's metadata: tensors and history never disagree. Its seal
is a second file. Until both are written, the checkpoint before is kept beside them. No pickle.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from tasks.common.sealed import SEAL, drop, read_sealed, sealed_path
from tasks.stages.train_backbone.processes import Ranks

State = dict[str, torch.Tensor]
GROUPS = ("model", "best", "optimizer", "average")


@dataclass(frozen=True)
class Checkpoint:
    """Training after its last whole epoch. `history` has one row per epoch; tensors are on the CPU."""

    history: list[dict]
    model: State
    best: State
    optimizer: State
    average: State = field(default_factory=dict)


def save(file: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a kill leaves the checkpoint of the previous epoch."""
    groups = {name: getattr(checkpoint, name) for name in GROUPS}
    if checkpoint.best is checkpoint.model:
        del groups["best"]
    tensors = {f"{group}/{name}": value for group, state in groups.items() for name, value in state.items()}
    _keep_before(file)
    with sealed_path(file) as temporary:
        save_file(tensors, temporary, metadata={"history": json.dumps(checkpoint.history)})
    drop(_before(file))


def load(file: Path) -> Checkpoint | None:
    """The checkpoint in `file`; None if it is missing or damaged (training then starts over)."""
    return _parse(_content(file))


def newest(file: Path, ranks: Ranks) -> Checkpoint | None:
    """What `load` finds, in every process of `ranks`: of several machines, what the one with most epochs has."""
    content = _content(file)
    found = _parse(content)
    if ranks.world == 1:
        return found
    return _parse(ranks.share(content, len(found.history)) if found else ranks.share(None))


def _before(file: Path) -> Path:
    return file.with_name(f"before-{file.name}")


def _keep_before(file: Path) -> None:
    """Give the checkpoint and its seal a second name each, or copy them where files cannot have two."""
    kept = _before(file)
    drop(kept)
    for one, other in ((file, kept), (file.with_suffix(SEAL), kept.with_suffix(SEAL))):
        if one.is_file():
            try:
                os.link(one, other)
            except OSError:
                shutil.copyfile(one, other)


def _content(file: Path) -> bytes | None:
    """What `save` wrote last; where it was killed between the two files, what it wrote before."""
    content = read_sealed(file)
    return read_sealed(_before(file)) if content is None else content


def _parse(content: bytes | None) -> Checkpoint | None:
    """The checkpoint that `save` wrote as `content`; None if it is None or not a checkpoint."""
    if content is None:
        return None
    groups: dict[str, State] = {name: {} for name in GROUPS}
    try:
        tensors = load_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        history = json.loads(header["__metadata__"]["history"])
        for key, value in tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    groups["best"] = groups["best"] or groups["model"]
    return Checkpoint(history, **groups)


def cpu_copy(state: State) -> State:
    """A copy of `state` on the CPU in plain memory order, as safetensors needs it."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Its moments, "<parameter number>/<name>", and what it counts for a group of parameters, "group/<number>/<name>".

    Some optimizers count steps in plain numbers: "#" marks those, kept as tensors of no dimension.
    """
    saved = optimizer.state_dict()
    entries = {f"{number}": entry for number, entry in saved["state"].items()}
    entries |= {f"group/{number}": _numbers(group) for number, group in enumerate(saved["param_groups"])}
    return cpu_copy(
        {
            f"{place}/{name}" if isinstance(value, torch.Tensor) else f"{place}/{name}#": _tensor(value)
            for place, entry in entries.items()
            for name, value in entry.items()
        }
    )


def _tensor(value: torch.Tensor | float | bool) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value)


def _numbers(group: dict) -> dict:
    """What an optimizer counts for a whole group, such as its steps; the settings are those of the new optimizer."""
    return {name: value for name, value in group.items() if name == "step" and value is not None}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put `optimizer_state`'s result back, each moment in its parameter's own memory order.

    The order matters for a resumed run to end with the same bits: another order takes another code path.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    entries: dict[int, dict] = {}
    for key, value in state.items():
        place, _, name = key.rpartition("/")
        found = value.item() if name.endswith("#") else value
        if place.startswith("group/"):
            groups[int(place.removeprefix("group/"))][name.removesuffix("#")] = found
            continue
        like = parameters[int(place)]
        if value.shape == like.shape and not name.endswith("#"):
            found = torch.empty_like(like, dtype=value.dtype).copy_(value)
        entries.setdefault(int(place), {})[name.removesuffix("#")] = found
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
