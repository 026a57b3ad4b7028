"""Run one training in several processes; a single process is the case of a world of 1.

GPUs: `torchrun --nproc-per-node 4 -m tasks.stages train_backbone` sets RANK, WORLD_SIZE and LOCAL_RANK.
CPUs: a large training starts one process per core, because two single-threaded processes beat one process with two
threads. It starts them itself: torchrun takes 2 to 4 s and 410 MiB more, because it
adds its own process and cannot make this one a worker.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
RENDEZVOUS = "EVERGREEN_RENDEZVOUS"  # names the file through which the processes of one CPU training connect


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`; rank 0 writes. `connect` joins the others, which may still start."""

    rank: int
    world: int
    device: torch.device
    connect: Callable[[], None] = lambda: None

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all processes; the same bits in each."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def wrap(self, module: Module) -> Module:
        """`module` with gradients averaged over processes. Wrap it again when `requires_grad` changes."""
        return DistributedDataParallel(module, forward_sync_buffers=False) if self.world > 1 else module

    def apart(self, wrapped: Module) -> AbstractContextManager:
        """A context in which gradients of `wrapped` add up in each process, until a step outside of it sums them."""
        return wrapped.no_sync() if self.world > 1 else nullcontext()

    def share_buffers(self, module: Module) -> None:
        """Give every process rank 0's buffers (moving statistics), so that all judge the model that is saved."""
        if self.world > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def rank0_first(self, work: Callable[[], T]) -> T:
        """Run `work` in rank 0, then in the others, which find rank 0's cache files instead of building their own.

        Call this, or `barrier`, before any other collective operation.
        """
        if self.world == 1:
            return work()
        done = work() if self.rank == 0 else None
        self.barrier()
        return done if self.rank == 0 else work()

    def barrier(self) -> None:
        """Return once every process has called it."""
        self.connect()
        if self.world > 1:
            distributed.barrier()


@contextmanager
def processes(workers: int = 0, work: Callable[[], object] = lambda: None) -> Iterator[Ranks]:
    """Join the processes that torchrun started, or start `workers` more; each runs `work`, which calls this too.

    `work` must be picklable (a partial of a module's function). The workers end with this process, even if it is
    killed. Raises EvergreenError if one of them dies.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world == 1 and not workers:
        yield Ranks(0, 1, timm_models.device())
    elif world == 1:
        with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
            rendezvous = f"file://{folder}/rendezvous"
            started = torch.multiprocessing.start_processes(
                _run_worker, (workers + 1, rendezvous, work), workers, join=False, daemon=True
            )

            def connect() -> None:
                if not distributed.is_initialized():
                    _wait_for_workers(Path(folder), started)
                    _init_process_group(0, workers + 1, rendezvous)

            try:
                yield Ranks(0, workers + 1, timm_models.device(), connect)
            except (RuntimeError, ProcessException) as error:  # gloo raises RuntimeError when a connection breaks
                _raise_if_worker_died(started, error)
                raise
            finally:
                _destroy_process_group()
                for process in started.processes:
                    process.kill()
                    process.join()
    else:
        _init_process_group(rank, world, os.environ.get(RENDEZVOUS, "env://"))
        try:
            yield Ranks(rank, world, timm_models.device())
        finally:
            _destroy_process_group()


def _run_worker(index: int, world: int, rendezvous: str, work: Callable[[], object]) -> None:
    """Main function of worker `index`. Its output is discarded: rank 0 reports for all."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    rank = str(index + 1)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(world), RENDEZVOUS: rendezvous}
    work()


def _wait_for_workers(folder: Path, started: ProcessContext) -> None:
    """Return when all workers are about to connect: init_process_group waits half an hour for one that has died."""
    while len(list(folder.glob("[0-9]*"))) < len(started.processes):
        if started.join(timeout=0.05):
            raise EvergreenError("a training worker exited before all workers had connected")


def _init_process_group(rank: int, world: int, rendezvous: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif rendezvous.startswith("file:") and Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # do not listen on other networks
    if rendezvous.startswith("file:") and rank:
        Path(rendezvous.removeprefix("file://")).with_name(str(rank)).touch()  # see _wait_for_workers
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=world)


def _destroy_process_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _raise_if_worker_died(started: ProcessContext, error: Exception) -> None:
    """Raise an EvergreenError that says how a worker died, if one did."""
    try:
        if isinstance(error, ProcessException):
            raise error
        started.join(timeout=5)
    except ProcessException as died:
        reason = str(died).strip().splitlines()[-1]
        raise EvergreenError(
            f"one of the training's {len(started.processes) + 1} processes ended: {reason}. If the machine ran out of "
            "memory, set train_backbone.threads: 1 to train in one process"
        ) from error
