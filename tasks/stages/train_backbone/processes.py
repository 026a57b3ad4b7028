"""Run one training in several processes; a single process is the case of a world of 1.

One machine: a large training starts one process per GPU or, without GPUs, per core (`workers.worker_count`). It starts
them itself: torchrun takes 2 to 4 s and 410 MiB more, because it adds its own process and cannot make this one a
worker.
Several machines: `torchrun --nnodes 2 ... -m tasks.stages train_backbone` or Ray Train (flows.scale.training) starts
one process for each share and sets RANK, WORLD_SIZE and LOCAL_RANK. Machines need not share a folder: each keeps the
checkpoint, and all go on from the newest that one of them has.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.multiprocessing.spawn import ProcessContext, ProcessException
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.common.garbage import collect_rarely
from tasks.common.private import make_folder

T = TypeVar("T")
RENDEZVOUS = "EVERGREEN_RENDEZVOUS"  # names the file through which the processes of one machine connect
PATIENCE = timedelta(days=1)  # of a process that waits while rank 0 computes features or pixels of all images


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`; rank 0 writes.

    `connect` joins the others, which may still start. It returns the group of processes that carries CPU tensors and
    waits for PATIENCE; None: the default group does.
    """

    rank: int
    world: int
    device: torch.device
    connect: Callable[[], ProcessGroup | None] = lambda: None

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
        if self.world > 1:
            distributed.barrier(group=self.connect())

    def share(self, content: bytes | None, worth: int = 0) -> bytes | None:
        """The `content` of the process in which `worth` is highest, the first of equal ones; None if all have None."""
        if self.world == 1:
            return content
        group = self.connect()
        mine = torch.tensor([-1, 0] if content is None else [worth, len(content)])
        found = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(found, mine, group=group)
        worths, lengths = torch.stack(found).T.tolist()
        source = worths.index(max(worths))
        if max(worths) < 0 or not lengths[source]:
            return None if max(worths) < 0 else b""
        data = torch.empty(lengths[source], dtype=torch.uint8)
        if self.rank == source:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(data, source, group)
        return data.numpy().tobytes()

    def keeps(self, folder: Path) -> bool:
        """Whether this process writes what is kept in `folder`: rank 0, and one on each machine with another `folder`.

        So a training goes on from what any of the machines has kept.
        """
        if self.world == 1:
            return True
        mark = folder / f".{self.share(secrets.token_hex(8).encode()).decode()}.tmp"
        if self.rank == 0:
            make_folder(folder)
            mark.touch()
        self.barrier()
        seen = mark.is_file()
        self.barrier()
        if self.rank == 0:
            mark.unlink(missing_ok=True)
        return self.rank == 0 or (not seen and os.environ.get("LOCAL_RANK") == "0")

    def check_same(self, key: str) -> None:
        """Raise EvergreenError, in every process, unless all have the same `key`: the hash of what they will train."""
        if self.world == 1:
            return
        mine = torch.frombuffer(bytearray(key.encode()), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(found, mine, group=self.connect())
        if others := [str(rank) for rank, one in enumerate(found) if not torch.equal(one, found[0])]:
            raise EvergreenError(
                f"training process {', '.join(others)} of {self.world} would train something else than process 0: "
                "expected the same data, labels, params.yaml, code and pretrained weights on every machine. Bring each "
                "machine to the same commit, and run the stages before train_backbone there"
            )


def gpus() -> int:
    """CUDA or ROCm devices that this process may use; CUDA_VISIBLE_DEVICES names them."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def sharers(world: int) -> int:
    """How many of `world` processes share the threads that torch counts in this one.

    A launcher of several machines, such as torchrun, says how many processes a machine has, or gives each its threads.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return world
    return 1 if "OMP_NUM_THREADS" in os.environ else int(os.environ["LOCAL_WORLD_SIZE"])


@contextmanager
def processes(workers: int = 0, work: Callable[[], object] = lambda: None) -> Iterator[Ranks]:
    """Join the processes that torchrun or Ray started, or start `workers` more; each runs `work`, which calls this too.

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

            groups = []

            def connect() -> ProcessGroup | None:
                if not groups:
                    _wait_for_workers(Path(folder), started)
                    groups.append(_init_process_group(0, workers + 1, rendezvous))
                return groups[0]

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
    elif distributed.is_initialized():  # by Ray, which ends it as well
        group = _cpu_group()
        yield Ranks(rank, world, timm_models.device(), lambda: group)
    else:
        group = _init_process_group(rank, world, os.environ.get(RENDEZVOUS, "env://"))
        try:
            yield Ranks(rank, world, timm_models.device(), lambda: group)
        finally:
            _destroy_process_group()


def _run_worker(index: int, world: int, rendezvous: str, work: Callable[[], object]) -> None:
    """Main function of worker `index`. Its output is discarded: rank 0 reports for all."""
    collect_rarely()  # as the run's own process; timm is still to be imported
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


def _init_process_group(rank: int, world: int, rendezvous: str) -> ProcessGroup | None:
    """Connect the processes; returns what `Ranks.connect` does."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if rendezvous.startswith("file:") and Path("/sys/class/net/lo").exists():
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")  # do not listen on other networks
    if rendezvous.startswith("file:") and rank:
        Path(rendezvous.removeprefix("file://")).with_name(str(rank)).touch()  # see _wait_for_workers
    store, rank, world = next(distributed.rendezvous(rendezvous, rank, world, timeout=PATIENCE))
    store = distributed.PrefixStore("training", store)  # torchrun's own keys are in it, too
    # NCCL does not notice that a process died: its own timeout of ten minutes stays
    about = {"backend": "nccl"} if cuda else {"backend": "gloo", "timeout": PATIENCE}
    distributed.init_process_group(store=store, rank=rank, world_size=world, **about)
    return _cpu_group()


def _cpu_group() -> ProcessGroup | None:
    """The group of all processes that carries CPU tensors, see `Ranks.connect`."""
    return distributed.new_group(backend="gloo", timeout=PATIENCE) if distributed.get_backend() == "nccl" else None


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
        alone = "CUDA_VISIBLE_DEVICES=0" if torch.cuda.is_available() else "train_backbone.threads: 1"
        raise EvergreenError(
            f"one of the training's {len(started.processes) + 1} processes ended: {reason}. If the machine ran out of "
            f"memory, set {alone} to train in one process"
        ) from error
