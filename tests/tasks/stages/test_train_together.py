"""One training in several processes: of one machine, and of two machines that torchrun connects.

Processes are real. Two machines are two folders that share nothing.
"""

import ast
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file

from tasks.common import artifacts
from tasks.common.errors import EvergreenError
from tasks.common.params import ImagesParams, TrainBackboneParams
from tasks.common.sections.training import DistillParams, UnfreezePhases
from tasks.stages.train_backbone import processes, trainer, workers
from tasks.stages.train_backbone import stage as train_backbone_stage
from tests.support import small_project
from tests.support.checkout import ROOT
from tests.support.s3_servers import free_port
from tests.support.small_project import SIZE
from tests.support.small_training import (
    SCRATCH,
    STAGED,
    checkpoints,
    stage_command,
    stage_environment,
    write_params,
)

HISTORY = f"{artifacts.FOLDER}/history.csv"


def project(folder: Path) -> Path:
    made = small_project.copy(folder, "multiclass")
    shutil.rmtree(made / artifacts.FOLDER)
    return made


def run(root: Path, params: TrainBackboneParams) -> dict[str, np.ndarray]:
    train_backbone_stage.run(root, train_backbone=params, images=ImagesParams(resolution=SIZE))
    return load_file(root / artifacts.FOLDER / "weights.safetensors")


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(np.abs(one[name] - other[name]).max() for name in other)


def train_on_machines(roots: list[Path]) -> list[tuple[int, str]]:
    """(exit code, what it printed) of torchrun with the stage on each machine."""
    address = ("--nnodes", str(len(roots)), "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    started = []
    for number, root in enumerate(roots):
        command = stage_command("torch.distributed.run", *address, "--node-rank", str(number), "-m")
        with open(root / "printed.txt", "w") as printed:
            env = stage_environment()
            started.append(subprocess.Popen(command, cwd=root, env=env, stdout=printed, stderr=printed))
    try:
        codes = [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(code, (root / "printed.txt").read_text()) for code, root in zip(codes, roots, strict=True)]


def train_until(epoch: int, root: Path, params: TrainBackboneParams, monkeypatch) -> None:
    """Train, and stop after `epoch`, as a machine that is lost does."""

    def stop(name: str) -> None:
        if name == f"train_backbone.epoch.{epoch}":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "failpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            run(root, params)


@pytest.mark.long
def test_two_machines_that_share_no_folder_train_as_one_and_go_on_from_what_either_has(tmp_path, monkeypatch):
    """Layer norm, no augmentation: nothing then depends on how a batch is shared out, but for rounding."""
    changes = {"backbone": "test_vit", "augment": [], "batch_size": 18, "learning_rate": 1e-4}
    changes |= {"loss": "ldam_drw", "sampler": "class_balanced"}  # weights and draws are those of whole batches
    changes |= {"accumulate": 2, "ema": 0.5}
    params = SCRATCH.model_copy(update=changes)
    roots = [project(tmp_path / name) for name in ("first", "second")]
    for root in roots:
        write_params(root, params)
    train_until(1, roots[1], params, monkeypatch)  # the first machine is a new one
    done = train_on_machines(roots)
    assert [code for code, _ in done] == [0, 0], done
    assert "continuing after epoch 1" in done[0][1]
    assert [said.count("epoch   4") for _, said in done] == [1, 0]  # one of them reports
    assert not (roots[1] / artifacts.FOLDER).exists()
    assert not checkpoints(roots[0]) + checkpoints(roots[1])
    together = load_file(roots[0] / artifacts.FOLDER / "weights.safetensors")
    history = np.loadtxt(roots[0] / HISTORY, delimiter=",", skiprows=1, usecols=(2, 3, 4))
    alone = run(roots[1], params)
    expected = np.loadtxt(roots[1] / HISTORY, delimiter=",", skiprows=1, usecols=(2, 3, 4))
    np.testing.assert_allclose(history, expected, rtol=1e-3)
    halves = run(roots[1], params.model_copy(update={"batch_size": 9}))  # what sharing out wrongly would look like
    assert difference(together, alone) < 0.1 * difference(halves, alone)


def test_a_machine_with_two_gpus_trains_in_two_processes_and_ends_with_the_same_network(tmp_path, monkeypatch, capfd):
    """Frozen BatchNorm, no augmentation: nothing then depends on how a batch is shared out, but for rounding.

    The machine says that it has two GPUs; the processes train on its CPU.
    """
    params = STAGED.model_copy(update={"backbone": "tf_efficientnet_lite0", "augment": [], "batch_size": 64})
    short = params.model_copy(update={"epochs": UnfreezePhases(frozen=1, last=1, all=1)})
    root = project(tmp_path)
    alone = run(root, short)
    monkeypatch.setattr(processes, "gpus", lambda: 2)
    monkeypatch.setattr(workers, "MIN_PASSES_GPU", 1)
    capfd.readouterr()
    together = run(root, short)
    assert capfd.readouterr().err.count("epoch   3") == 1  # one of them reports
    assert checkpoints(root) == []
    halves = run(root, short.model_copy(update={"batch_size": 32}))  # what sharing out wrongly would look like
    assert difference(together, alone) < 0.1 * difference(halves, alone)


def test_processes_start_where_they_are_faster_and_change_no_result(monkeypatch):
    params = STAGED.model_copy(update={"batch_size": 256})
    moving = params.model_copy(update={"batch_norm": "train"})
    compared = params.model_copy(update={"distill": DistillParams(teachers=["a" * 64], features=1.0)})
    one_thread = params.model_copy(update={"threads": 1})
    small_batch = params.model_copy(update={"batch_size": 64})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert workers.worker_count(1400, params) == 0  # 4 epochs through the network: not worth their start
    assert workers.worker_count(1600, params) == 1
    assert [workers.worker_count(10**6, one) for one in (moving, compared, one_thread)] == [0, 0, 0]
    monkeypatch.setattr(processes, "gpus", lambda: 8)
    assert workers.worker_count(20_000, params) == 0
    assert [workers.worker_count(10**6, one) for one in (params, one_thread, small_batch)] == [7, 7, 1]
    assert [workers.worker_count(10**6, one) for one in (moving, compared)] == [0, 0]


def speak(folder: Path, others: Path) -> None:
    """What each of two processes does below; the second has another folder."""
    with processes.processes(*([] if "RANK" in os.environ else [1, partial(speak, folder, others)])) as ranks:
        second = ranks.rank == 1
        said = [ranks.share(b"first", 3) if not second else ranks.share(b"second", 4), ranks.share(None)]
        said.append(ranks.share(b"" if second else None))
        kept = [ranks.keeps(folder), ranks.keeps(others if second else folder)]
        os.environ["LOCAL_RANK"] = "0"  # of a machine of its own
        kept.append(ranks.keeps(others if second else folder))
        ranks.check_same("same")
        try:
            ranks.check_same(f"key {ranks.rank}")
            raised = ""
        except EvergreenError as error:
            raised = str(error)
        (folder / f"{ranks.rank}.txt").write_text(repr((said, kept, raised, gc.get_threshold())))
        ranks.barrier()


def test_processes_share_what_one_of_them_has_and_refuse_to_train_on_other_data(tmp_path, monkeypatch):
    folder, others = tmp_path / "folder", tmp_path / "others"
    folder.mkdir()
    others.mkdir()
    monkeypatch.setenv("LOCAL_RANK", "0")  # taken back at the end
    speak(folder, others)
    (said, first, raised, _), (also, second, same, threshold) = (
        ast.literal_eval((folder / f"{rank}.txt").read_text()) for rank in range(2)
    )
    assert said == also == [b"second", None, b""]
    assert first == [True, True, True]
    assert second == [False, False, True], "one process of a machine with another folder"
    assert raised == same
    assert threshold == (50_000, 20, 20)  # garbage is searched for as seldom as in the run's own process
    assert "training process 1 of 2 would train something else" in raised
    assert not list(folder.glob(".*")) + list(others.glob("*"))


def killed_worker() -> None:
    """A worker that the kernel kills in the middle of the training."""
    with processes.processes() as ranks:
        ranks.barrier()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("work", "how"), [(killed_worker, "SIGKILL"), (partial(os._exit, 3), "exit code 3")])
def test_a_worker_that_dies_ends_the_training_with_an_error_that_says_how(work, how):
    def training() -> None:
        with processes.processes(1, work) as ranks:
            ranks.barrier()
            ranks.sum(torch.ones(3))

    before = multiprocessing.active_children()  # of other tests: joblib's pools
    with pytest.raises(EvergreenError, match=f"2 processes ended: .*{how}.*train_backbone.threads"):
        training()
    assert not set(multiprocessing.active_children()) - set(before)


KILLED = """
import multiprocessing, os, signal
from tasks.stages.train_backbone.processes import processes

def work():
    with processes() as ranks:
        ranks.barrier()
        ranks.barrier()

if __name__ == "__main__":
    with processes(1, work) as ranks:
        ranks.barrier()
        print(multiprocessing.active_children()[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_training_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "killed.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)
