"""Clusters with an address, as users have them: through Ray's client, as `auto`, and with a head that is lost."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.scale import engine, training_ends
from flows.scale import map as scale_map
from flows.scale.engine import ClusterLost
from flows.scale.fill import fill_entries
from flows.scale.map import ray_map
from flows.scale.stages import run_stage_scaled
from flows.scale.training_files import OUTPUTS
from tasks.common.params import ScaleParams
from tasks.common.sections.training import UnfreezePhases
from tasks.stages.runner import run_stage
from tests.flows.scale import test_training
from tests.flows.scale.test_ray_fill import SHARDS, entry_bytes, fill_and_run, local_result, outputs, project
from tests.flows.scale.test_training import TRAINING
from tests.support.ray_head import CPUS, Head, running_head

pytestmark = pytest.mark.long
ITEMS = 12


@pytest.fixture(scope="module")
def one_head() -> Iterator[Head]:
    with running_head() as head:
        yield head


@pytest.fixture
def head(one_head) -> Head:
    """The head, which answers although an earlier test has killed it."""
    if not one_head.answers():
        one_head.kill()
        one_head.start()
        one_head.wait()
    return one_head


def address(head: Head, way: str) -> str:
    return "auto" if way == "auto" else getattr(head, way)


@pytest.mark.parametrize("way", ["client", "auto"])
def test_the_entries_and_the_results_are_those_of_local_stages(head, tmp_path, way):
    root = project(tmp_path, {"engine": "ray", "address": address(head, way)})
    assert fill_and_run(root, "inspect", "embed") == {"inspect": SHARDS, "embed": SHARDS}
    assert entry_bytes(root) == entry_bytes(local_result())
    assert outputs(root) == outputs(local_result())
    assert engine.cluster().sentence().endswith(f"at {address(head, way)}: 1 node, {CPUS} CPUs")


def training_project(folder: Path, head: Head, epochs: int = 1) -> Path:
    scale = ScaleParams(engine="ray", address=head.client, training_workers=2)
    short = TRAINING.model_copy(update={"epochs": UnfreezePhases(frozen=1, last=0, all=epochs)})
    return test_training.project(folder, scale, short)


def test_two_workers_train_through_rays_client(head, tmp_path):
    root, said = training_project(tmp_path, head), []
    run_stage_scaled("train_backbone", root, said.append)
    assert "2 of 2 training workers" in said[0]
    assert not any("worker was lost" in line for line in said), said
    assert test_training.files(root) == set(OUTPUTS)


def test_a_training_that_loses_its_head_says_so_and_the_next_run_goes_on(head, tmp_path, monkeypatch):
    monkeypatch.setattr(training_ends, "RECONNECT_SECONDS", 5)
    root, said = training_project(tmp_path, head, epochs=12), []

    def say(line: str) -> None:
        if "epoch   1" in line:  # of 13
            head.kill()

    with pytest.raises(ClusterLost, match="The finished epochs are kept: the next run goes on from there"):
        run_stage_scaled("train_backbone", root, say)
    head.start()
    head.wait()
    run_stage_scaled("train_backbone", root, said.append)
    assert any("continuing after epoch" in line for line in said), said
    assert test_training.files(root) == set(OUTPUTS)


def slowly_doubled(item: int) -> int:
    time.sleep(0.3)
    return 2 * item


@pytest.mark.parametrize("way", ["client", "host"])
def test_all_results_arrive_although_the_head_is_killed_and_started_again(head, way):
    engine.connect(ScaleParams(engine="ray", address=address(head, way)))
    said = []
    results = ray_map(slowly_doubled, range(ITEMS), in_flight=4, say=said.append)
    found = [next(results)]
    head.kill()
    head.start()  # answers seconds later
    found += results
    assert found == [2 * item for item in range(ITEMS)]
    assert any("to connect again" in line for line in said), said


def test_a_run_that_loses_its_head_says_so_and_the_next_one_goes_on_from_the_caches(head, tmp_path, monkeypatch):
    monkeypatch.setattr(scale_map, "RECONNECT_SECONDS", 3)
    root = project(tmp_path, {"engine": "ray", "address": head.host})
    fill_and_run(root, "inspect")
    made = []

    def lose(*arguments, **named):
        for result in ray_map(*arguments, **named):
            made.append(result)
            head.kill()
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(scale_map, "ray_map", lose)
        with pytest.raises(ClusterLost, match="start the command again when the cluster answers, and it goes on"):
            fill_entries("embed", root, lambda line: None)
    kept = {name: (root / ".evergreen/cache" / name).stat().st_mtime_ns for name in entry_bytes(root)}
    assert len(made) < SHARDS
    head.start()
    head.wait()
    fill_entries("embed", root, lambda line: None)
    run_stage("embed", root)
    assert entry_bytes(root) == entry_bytes(local_result())
    assert outputs(root) == outputs(local_result())
    for name, at in kept.items():
        assert (root / ".evergreen/cache" / name).stat().st_mtime_ns == at, f"{name} was made again"
