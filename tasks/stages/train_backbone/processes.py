"""One training over several processes; one process is the case of a world of 1.

GPUs: `torchrun --nproc-per-node 4 -m tasks.stages train_backbone` sets RANK, WORLD_SIZE and LOCAL_RANK. CPU: a training
that is worth it starts a process a core by itself, for two of one thread each train faster than one of two.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessContext, ProcessException
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError

T = TypeVar("T")
MEETING = "EVERGREEN_MEETING"  # where the processes of one training on CPUs find each other


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`; rank 0 writes. `join` meets the others, who may still be starting."""

    rank: int
    world: int
    device: torch.device
    join: Callable[[], None] = lambda: None

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes; the same bits in each."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def wrap(self, module: Module) -> Module:
        """`module` with its gradients averaged over processes. Wrap anew when `requires_grad` changes."""
        return DistributedDataParallel(module, forward_sync_buffers=False) if self.world > 1 else module

    def share_buffers(self, module: Module) -> None:
        """Give every process rank 0's buffers (moving statistics), so that all judge the model that is saved."""
        if self.world > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def first(self, work: Callable[[], T]) -> T:
        """`work()` in rank 0 and then in the others: they find its cache files and do not build them too.

        This, or `wait`, comes before anything else that is done together.
        """
        if self.world == 1:
            return work()
        done = work() if self.rank == 0 else None
        self.wait()
        return done if self.rank == 0 else work()

    def wait(self) -> None:
        """Return when all have come here."""
        self.join()
        if self.world > 1:
            distributed.barrier()


@contextmanager
def processes(companions: int = 0, work: Callable[[], object] = lambda: None) -> Iterator[Ranks]:
    """Join the others that torchrun started, or start `companions` more that do `work`, which comes here as well.

    `work` must be picklable (a partial of a module's function). Parts from the others at the end; where this process
    dies they end, too. Raises EvergreenError when one of them died.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world == 1 and not companions:
        yield Ranks(0, 1, timm_models.device())
    elif world == 1:
        with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
            meeting = f"file://{folder}/meeting"
            others = torch.multiprocessing.start_processes(
                _accompany, (companions + 1, meeting, work), companions, join=False, daemon=True
            )

            def join() -> None:
                if not distributed.is_initialized():
                    _await(Path(folder), others)
                    _meet(0, companions + 1, meeting)

            try:
                yield Ranks(0, companions + 1, timm_models.device(), join)
            except (RuntimeError, ProcessException) as error:  # RuntimeError: of gloo, when a connection breaks
                _explain(others, error)
                raise
            finally:
                _part()
                for process in others.processes:
                    process.kill()
                    process.join()
    else:
        _meet(rank, world, os.environ.get(MEETING, "env://"))
        try:
            yield Ranks(rank, world, timm_models.device())
        finally:
            _part()


def _accompany(index: int, world: int, meeting: str, work: Callable[[], object]) -> None:
    """What companion `index` does; rank 0 does the talking."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    rank = str(index + 1)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(world), MEETING: meeting}
    work()


def _await(folder: Path, others: ProcessContext) -> None:
    """Return when all are about to join: joining would wait half an hour for one that died before."""
    while len(list(folder.glob("[0-9]*"))) < len(others.processes):
        if others.join(timeout=0.05):
            raise EvergreenError("the training's processes ended before they began")


def _meet(rank: int, world: int, meeting: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif meeting.startswith("file:") and Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing listens beyond this machine
    if meeting.startswith("file:") and rank:
        Path(meeting.removeprefix("file://")).with_name(str(rank)).touch()  # see _await
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=world)


def _part() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _explain(others: ProcessContext, error: Exception) -> None:
    """Raise an EvergreenError that tells how a companion died, if one did."""
    try:
        if isinstance(error, ProcessException):
            raise error
        others.join(timeout=5)
    except ProcessException as died:
        reason = str(died).strip().splitlines()[-1]
        raise EvergreenError(
            f"one of the training's {len(others.processes) + 1} processes ended: {reason}. If the machine lacked the "
            "memory, train_backbone.threads: 1 trains in one process"
        ) from error
