"""One training over several processes (GPUs) started by torchrun; one process is the case of a world of 1.

`torchrun --nproc-per-node 4 -m tasks.train_backbone` sets RANK, WORLD_SIZE and LOCAL_RANK; without them
everything here does nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from tasks import models

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`; rank 0 writes."""

    rank: int
    world: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes; the same bits in each."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def wrap(self, module: Module) -> Module:
        """`module` with its gradients averaged over processes. Wrap anew when `requires_grad` changes."""
        return DistributedDataParallel(module, broadcast_buffers=False) if self.world > 1 else module

    def share_buffers(self, module: Module) -> None:
        """Give every process rank 0's buffers (moving statistics), so that all judge the model that is saved."""
        if self.world > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def first(self, work: Callable[[], T]) -> T:
        """`work()` in rank 0 and then in the others: they find its cache files and do not build them too."""
        if self.world == 1:
            return work()
        done = work() if self.rank == 0 else None
        self.wait()
        return done if self.rank == 0 else work()

    def wait(self) -> None:
        if self.world > 1:
            distributed.barrier()


@contextmanager
def processes() -> Iterator[Ranks]:
    """Join the others that torchrun started, and part from them at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1, models.device())
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world, models.device())
    finally:
        distributed.destroy_process_group()
