"""The checkpoint of an interrupted training: one safetensors file, replaced after every epoch.

Tensors: "model/<name>" (everything that training has changed so far), "best/<name>" (the same of the best epoch,
absent if that is the last one) and "optimizer/<number>/<name>". The history of epochs is JSON in the file's
metadata. One file and one rename: tensors and history never disagree. No pickle.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tasks.common.sealed import open_sealed, sealed_path

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Training after its last whole epoch. `history` has one row per epoch; tensors are on the CPU."""

    history: list[dict]
    model: State
    best: State
    optimizer: State


def save(file: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a kill leaves the checkpoint of the previous epoch."""
    groups = {"model": checkpoint.model, "best": checkpoint.best, "optimizer": checkpoint.optimizer}
    if checkpoint.best is checkpoint.model:
        del groups["best"]
    tensors = {f"{group}/{name}": value for group, state in groups.items() for name, value in state.items()}
    with sealed_path(file) as temporary:
        save_file(tensors, temporary, metadata={"history": json.dumps(checkpoint.history)})


def load(file: Path) -> Checkpoint | None:
    """The checkpoint in `file`; None if it is missing or damaged (training then starts over)."""
    groups: dict[str, State] = {"model": {}, "best": {}, "optimizer": {}}
    if (whole := open_sealed(file)) is None:
        return None
    whole.close()
    try:
        with safe_open(file, framework="pt") as content:
            history = json.loads(content.metadata()["history"])
            for key in content.keys():  # noqa: SIM118 (not a mapping: it has no __iter__)
                group, _, name = key.partition("/")
                groups[group][name] = content.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return Checkpoint(history, groups["model"], groups["best"] or groups["model"], groups["optimizer"])


def cpu_copy(state: State) -> State:
    """A copy of `state` on the CPU in plain memory order, as safetensors needs it."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Its moments and step counts, keyed "<parameter number>/<name>"."""
    entries = optimizer.state_dict()["state"]
    return cpu_copy({f"{number}/{name}": value for number, entry in entries.items() for name, value in entry.items()})


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put `optimizer_state`'s result back, each moment in its parameter's own memory order.

    The order matters for a resumed run to end with the same bits: another order takes another code path.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, State] = {}
    for key, value in state.items():
        number, _, name = key.partition("/")
        like = parameters[int(number)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
