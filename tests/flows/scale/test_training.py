"""Stage 1 under Ray Train, on a real cluster of two nodes."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml

from flows.scale.engine import ClusterLost
from flows.scale.stages import run_stage_scaled, worth_a_cluster
from flows.scale.training import share_of
from flows.scale.training_ends import Head, lasting, reasons
from flows.scale.training_files import OUTPUTS, deliver, project_of, receive
from tasks.backbones import frozen
from tasks.common import artifacts
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json
from tasks.common.params import ScaleParams, TrainBackboneParams, load_run_params
from tasks.common.sections.training import UnfreezePhases
from tasks.stages.runner import run_stage
from tests.support import small_project
from tests.support.small_training import checkpoints, write_params
from tests.support.waiting import until

TRAINING = TrainBackboneParams(
    epochs=UnfreezePhases(frozen=1, last=1, all=5), augment=[], batch_size=32, learning_rate=1e-3
)


def project(folder: Path, scale: ScaleParams, training: TrainBackboneParams = TRAINING) -> Path:
    root = small_project.copy(folder, "multiclass")
    shutil.rmtree(root / artifacts.FOLDER)
    write_params(root, training)
    values = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(values | {"scale": scale.model_dump()}))
    return root


def training_workers() -> list[int]:
    """The processes that Ray Train has started."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if "RayTrainWorker" in " ".join(one.info["cmdline"] or [])]


def kill_a_worker() -> None:
    """Kill the second training worker, as a spot instance that is taken away."""
    os.kill(max(training_workers()), signal.SIGKILL)


def files(root: Path) -> set[str]:
    found = [*(root / artifacts.FOLDER).rglob("*"), *(root / "metrics").glob("train_backbone*")]
    return {file.relative_to(root).as_posix() for file in found}


@pytest.mark.long
def test_a_training_on_two_nodes_outlives_a_killed_worker_and_makes_what_one_process_makes(ray_cluster, tmp_path):
    root = project(tmp_path / "ray", ray_cluster.model_copy(update={"training_workers": 2}))
    said = []

    def say(line: str) -> None:
        said.append(line)
        if "epoch   2" in line:  # five are left
            kill_a_worker()

    run_stage_scaled("train_backbone", root, say)
    assert any("continuing after epoch" in line for line in said), said
    assert sum("epoch   7" in line for line in said) == 1, said
    assert not checkpoints(root)
    assert not list((root / ".evergreen/cache/ray").iterdir()), "folders of Ray Train are left"
    alone = project(tmp_path / "alone", ScaleParams())
    run_stage("train_backbone", alone)
    assert files(root) == files(alone)
    assert (
        read_json(root / "metrics/train_backbone.json").keys()
        == read_json(alone / "metrics/train_backbone.json").keys()
    )
    together, expected = (
        np.loadtxt(one / artifacts.FOLDER / "history.csv", delimiter=",", skiprows=1, usecols=(3, 4, 5))
        for one in (root, alone)
    )
    np.testing.assert_allclose(together[:3], expected[:3], rtol=0.02)
    np.testing.assert_allclose(together, expected, rtol=0.2)  # rounding grows with each step of a fine-tuning


@pytest.mark.long
def test_workers_of_one_machine_that_do_not_see_the_folder_send_what_they_made(ray_cluster, tmp_path):
    scale = {"training_workers": 2, "shared": str(tmp_path / "shared")}
    frozen = TRAINING.model_copy(update={"epochs": UnfreezePhases(frozen=2, last=0, all=0)})
    root, said = project(tmp_path / "ray", ray_cluster.model_copy(update=scale), frozen), []
    sent_to = Path(tempfile.gettempdir()) / deliver(root, load_run_params(root / "params.yaml")).name
    run_stage_scaled("train_backbone", root, said.append)
    assert "2 of 2 training workers" in said[0]
    assert not any("worker was lost" in line for line in said), said
    assert files(root) == set(OUTPUTS)
    assert not sent_to.exists()
    assert not list(sent_to.parent.glob(f"eg-train-{os.getpid()}-*")), "folders of Ray Train are left"


@pytest.mark.long
def test_ctrl_c_ends_the_workers_of_a_training(ray_cluster, tmp_path):
    endless = TRAINING.model_copy(update={"epochs": UnfreezePhases(frozen=1, last=0, all=900)})
    root = project(tmp_path / "ray", ray_cluster.model_copy(update={"training_workers": 2}), endless)

    def say(line: str) -> None:
        if "epoch   1" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage_scaled("train_backbone", root, say)
    until(lambda: not training_workers(), 30, "training workers are left")


def test_every_worker_gets_as_many_cores_as_all_can_have():
    nodes = [{"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0}]
    assert share_of(nodes, 2, False) == ({"CPU": 4}, 2)
    assert share_of(nodes, 3, False) == ({"CPU": 4}, 3)
    assert share_of(nodes, 20, False) == ({"CPU": 1}, 12)
    assert share_of(nodes, 8, True) == ({"CPU": 2, "GPU": 1}, 2)
    with pytest.raises(EvergreenError, match="no node for a training worker: expected 1 GPU"):
        share_of([{"CPU": 8.0}], 2, True)


def test_the_only_gpu_of_a_cluster_is_worth_it_where_this_machine_has_none(monkeypatch):
    assert [worth_a_cluster(workers, 0) for workers in (0, 1, 2)] == [False, False, True]
    for here in (True, False):
        monkeypatch.setattr(frozen, "may_have_accelerator", lambda here=here: here)
        assert worth_a_cluster(1, 1) is not here


def test_one_process_trains_where_a_share_of_a_batch_would_be_another_training(tmp_path):
    scale = ScaleParams(engine="ray", address="127.0.0.1:1", training_workers=2)
    training = TRAINING.model_copy(update={"epochs": UnfreezePhases(frozen=1, last=0, all=0), "batch_norm": "train"})
    root, said = project(tmp_path, scale, training), []
    run_stage_scaled("train_backbone", root, said.append)  # asks no cluster
    assert "trains on this machine" in said[0]
    assert (root / artifacts.FOLDER / "weights.safetensors").is_file()


def test_a_worker_that_does_not_see_the_folder_trains_on_what_it_is_sent(tmp_path, monkeypatch):
    scale = ScaleParams(engine="ray", shared=str(tmp_path / "shared"), training_workers=2)
    frozen = TRAINING.model_copy(update={"epochs": UnfreezePhases(frozen=1, last=0, all=0)})
    root = project(tmp_path / "driver", scale, frozen)
    alone = shutil.copytree(root, tmp_path / "alone")
    (tmp_path / "worker").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "worker"))
    monkeypatch.setenv("RANK", "0")
    delivery = deliver(root, load_run_params(root / "params.yaml"))
    monkeypatch.setenv("EVERGREEN_STATE", "")  # taken back at the end
    with pytest.raises(KeyError), project_of(root, root, delivery) as kept:  # noqa: PT012
        (kept / "checkpoint").touch()
        raise KeyError("a lost worker")
    with project_of(root, root, delivery) as folder:
        assert folder == kept
        assert (folder / "checkpoint").exists(), "the next try goes on from it"
        assert folder.parent == tmp_path / "worker"
        run_stage("train_backbone", folder)
        sent = delivery.outputs(folder)
    assert not folder.exists()
    receive(root, sent)
    monkeypatch.setenv("EVERGREEN_STATE", str(alone / ".evergreen"))
    run_stage("train_backbone", alone)
    assert files(root) == files(alone)
    for name in files(alone):
        assert (root / name).read_bytes() == (alone / name).read_bytes(), name
    with pytest.raises(EvergreenError, match="sent no files"):
        receive(root, {})
    (root / artifacts.FOLDER / "model.json").unlink()
    with pytest.raises(EvergreenError, match="sent artifacts"):
        receive(root, {name: content for name, content in sent.items() if "metrics" not in name})
    assert not (root / artifacts.FOLDER / "model.json").exists()


def test_the_reasons_of_a_failed_training_are_those_of_its_workers_each_once():
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    lost = WorkerHealthCheckFailedError("A worker does not answer:", OSError("The actor died.\nIts node was lost."))
    broken = [RuntimeError(f"[pair.cc:{port}] Connection closed by peer") for port in (4001, 4002)]
    error = WorkerGroupError("[Rank 0 Error Snippet]: ...", {0: broken[0], 1: lost, 2: broken[1]})
    assert reasons(error) == "[pair.cc:4001] Connection closed by peer; The actor died."
    assert reasons(ControllerError(ValueError("No room.\nMore."))) == "No room."
    assert reasons(KeyError()) == "KeyError"


def test_only_the_loss_of_another_worker_is_worth_another_try():
    assert lasting(RuntimeError("Connection closed by peer")) is None
    assert lasting(ConnectionError("refused")) is None
    assert lasting(EvergreenError("no labels")) == "no labels"
    assert "out of the GPU's memory (CUDA out of memory. Tried" in lasting(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    )
    assert "KeyError: 'a bug'" in lasting(KeyError("a bug"))


def test_a_head_that_does_not_answer_for_a_minute_ends_the_training():
    answers, said = [True, False, False, True, False, False], []

    def ask() -> None:
        if not answers.pop(0):
            raise ClusterLost("gone.")

    head = Head(said.append, ask, answered=0, asked=0)
    for now in (2, 2.5, 60, 61.9, 62, 62.5, 100, 102):  # seconds; asked at 2, 60, 62, 100 and 102
        head.look(now)
    assert answers == [False]
    assert said == ["ray: gone. Waiting 60 s for an answer"] * 2
    with pytest.raises(ClusterLost, match="The finished epochs are kept"):
        head.look(161)
