"""Stage 1 on the workers of a Ray cluster, under Ray Train.

Every worker runs the very stage, as a process that torchrun started would (tasks.stages.train_backbone.processes). Ray
Train connects them. If a worker or its machine is lost, all start again, as many as still find room, and go on from the
newest checkpoint that one of the machines has kept.

Workers that see the project's folder train there. Others get its small files, and fetch pixels and features from
`scale.shared`; the first sends what the stage has written.
"""

import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.scale import engine
from flows.scale.scratch import scratch_folder
from flows.scale.stages import STAGE
from flows.scale.training_ends import GOES_ON, Head, heard, lasting, reasons
from flows.scale.training_files import Delivery, deliver, project_of, receive
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.common.paths import cache_dir, state_dir
from tasks.stages.runner import run_stage

RETRIES = 8  # of a training that lost workers
ENVIRONMENT = {  # of Ray Train, which hands it to its workers
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints each line twice where standard error is ours
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",  # for all workers to find room, and to import torch
}
LOOK = 0.5  # seconds between two looks at what the training says
DAY = 24 * 3600  # for a worker to wait while the first one computes features; Ray ends the others of one that died


def train_on_ray(root: Path, params: Params, workers: int, say: Callable[[str], object]) -> None:
    """Run the stage in up to `workers` processes of the cluster; leaves exactly the stage's files under `root`."""
    import ray

    cluster = engine.connect(params.scale)
    news = _on_this_node(ray, News).remote()
    job = Job(root.resolve(), state_dir(root), news, deliver(root, params))
    place = None if job.delivery else str(cache_dir("ray", root))
    for attempt in range(RETRIES + 1):
        needs, fit = share_of(_nodes(ray), workers, cluster.gpus > 0)
        say(f"{STAGE}: {fit} of {workers} training workers find room on {cluster.sentence()}")
        with scratch_folder("eg-train-", place) as scratch:
            error = _follow(ray, _trainer(scratch, job, needs, fit), news, say)
        if failed := heard(news.failed):
            raise EvergreenError(failed)
        if error is None:
            break
        reason = reasons(error)
        if attempt == RETRIES:
            raise EvergreenError(f"the training on Ray failed {RETRIES + 1} times: {reason}. {GOES_ON}") from error
        say(f"{STAGE}: a training worker was lost ({reason}): starting again from the last epoch")
    if job.delivery is not None:
        receive(root, heard(news.outputs))


def _trainer(scratch: Path, job: "Job", needs: dict[str, float], workers: int):
    """A training of Ray Train that ends when a worker is lost: how many can start again depends on what is left.

    scratch: a folder for the files of Ray Train, which workers would see if they see the project.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return TorchTrainer(
        _train,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=DAY),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in needs, resources_per_worker=needs),
        run_config=RunConfig(name=scratch.name, storage_path=str(scratch)),
    )


@dataclass(frozen=True)
class Job:
    """What a training worker gets."""

    root: Path
    state: Path
    news: Any  # the actor
    delivery: Delivery | None  # None: the worker sees `root`


@dataclass
class News:
    """Lives in an actor near the driver: what the training says, how it failed, what it has made."""

    lines: list[str] = field(default_factory=list)
    error: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    def tell(self, text: str) -> None:
        """Add a line."""
        self.lines.append(text)

    def take(self) -> list[str]:
        """The lines since the last call."""
        taken, self.lines = self.lines, []
        return taken

    def fail(self, text: str) -> None:
        """Note an error that another try would only repeat."""
        self.error = self.error or text

    def failed(self) -> str | None:
        """The noted error."""
        return self.error

    def put(self, files: dict[str, bytes]) -> None:
        """Take the outputs of the stage."""
        self.files = files

    def outputs(self) -> dict[str, bytes]:
        """What `put` has taken."""
        return self.files


def _train(config: dict) -> None:
    """What a training worker runs: the stage, with its words and its end told to the driver."""
    import ray

    job: Job = config["job"]
    if ray.get(job.news.failed.remote()):
        return  # another try would fail alike: the driver raises the error
    try:
        with project_of(job.root, job.state, job.delivery) as root, redirect_stderr(_Lines(job.news)):
            run_stage(STAGE, root)
            if job.delivery is not None:
                _send(job, root)
    except Exception as error:
        if (said := lasting(error)) is not None:
            ray.get(job.news.fail.remote(said))
        raise


def _send(job: Job, root: Path) -> None:
    """Let the first worker send what the stage wrote under `root`, and the others wait for it.

    All workers of one machine share that folder, and the first one that leaves deletes it.
    """
    import ray

    from tasks.stages.train_backbone.processes import processes

    with processes() as ranks:
        if ranks.rank == 0:
            ray.get(job.news.put.remote(job.delivery.outputs(root)))
        ranks.barrier()


class _Lines(io.TextIOBase):
    """A standard error whose lines go to the driver."""

    def __init__(self, news: Any):
        super().__init__()
        self._news, self._rest = news, ""

    def write(self, text: str) -> int:
        """Send the whole lines of what was written so far."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._news.tell.remote(line)
        return len(text)


def _follow(ray, trainer, news: Any, say: Callable[[str], object]) -> BaseException | None:
    """Run `trainer` to its end and pass on what the workers say; returns the error it ended with.

    Ctrl-C ends the workers, as the loss of the cluster does, with the connection: Ray ends the actors of a driver that
    has gone. Ray Train sets its own handler of Ctrl-C in the main thread, so it runs in another. Raises ClusterLost.
    """
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    head = Head(say)
    try:
        alive = True
        while alive:
            thread.join(LOOK)
            alive = thread.is_alive()
            head.look(time.monotonic())
            for line in heard(news.take):
                say(line)
    except BaseException:
        engine.disconnect()
        raise
    return errors[0] if errors else None


def share_of(nodes: list[dict[str, float]], workers: int, on_gpus: bool) -> tuple[dict[str, float], int]:
    """(what each of `workers` asks for, how many of them find room on `nodes`), as many cores each as all can have.

    nodes: the CPUs and GPUs of each. Raises EvergreenError if none finds room.
    """

    def room(cores: int) -> int:
        return sum(
            min([int(node.get("CPU", 0) // cores)] + ([int(node.get("GPU", 0))] if on_gpus else [])) for node in nodes
        )

    if not (fit := min(workers, room(1))):
        raise EvergreenError(
            f"the Ray cluster has no node for a training worker: expected 1 {'GPU and 1 ' if on_gpus else ''}CPU on "
            "one of them (`ray status` shows them)"
        )
    most = max(cores for cores in range(1, int(max(node.get("CPU", 0) for node in nodes)) + 1) if room(cores) >= fit)
    return {"CPU": most} | ({"GPU": 1} if on_gpus else {}), fit


def _nodes(ray) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _on_this_node(ray, what: type) -> Any:
    """The class `what` as an actor that takes no core, on the driver's node if that can be."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(what).options(num_cpus=0, scheduling_strategy=here)
