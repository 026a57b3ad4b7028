"""Answers for corrupted images from a Ray cluster: the entries that stage and gate would make."""

import shutil
from pathlib import Path

import pytest

from flows.experiments.run import settings_of
from flows.scale.fill import fill_champion, fill_entries
from tasks.common.artifacts import training_rows
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import cache_dir
from tasks.gate.champion import corrupted_answers
from tasks.stages.evaluate import corrupted_answers as answers_module
from tasks.stages.evaluate.corrupted import chosen_rows
from tests.support.ray_cluster import ray_cluster  # noqa: F401
from tests.support.small_project import finished_project

BLOCKS = 4 * 4  # corruptions of params.yaml, parts of 36 test images


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project after `bundle`, with blocks of ten images and an empty cache of answers."""
    monkeypatch.setattr(answers_module, "BLOCK", 10)
    root = shutil.copytree(finished_project(), tmp_path / "project")
    shutil.rmtree(cache_dir("corrupted", root))
    return root


def set_scale(root: Path, engine: str, address: str) -> None:
    text = (root / "params.yaml").read_text()
    text = text.replace("  engine: local\n  address: null", f"  engine: {engine}\n  address: {address}")
    (root / "params.yaml").write_text(text)


def entries(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache_dir("corrupted", root).rglob("*.npy")}


def local_entries(root: Path) -> dict[str, bytes]:
    """What stage and gate compute without Ray; the entries are deleted afterwards."""
    params, rows = load_params(root / "params.yaml"), training_rows(root)["test"]
    answers = corrupted_answers(root, root / "artifacts/bundle", rows)
    for name in params.evaluate.corruptions:
        answers(name, chosen_rows(answers.ids, params.evaluate))
    found = entries(root)
    shutil.rmtree(cache_dir("corrupted", root))
    return found


def test_stage_and_gate_find_the_entries_that_they_would_have_made(ray_cluster, project, monkeypatch):  # noqa: F811
    expected = local_entries(project)
    assert len(expected) == BLOCKS
    set_scale(project, "ray", ray_cluster.address)
    said = []
    assert fill_entries("evaluate", project, said.append) == BLOCKS
    assert "2 nodes" in said[0]
    assert entries(project) == expected
    params, rows = load_params(project / "params.yaml"), training_rows(project)["test"]
    assert fill_entries("evaluate", project, said.append) == 0
    assert fill_champion(project, params, project / "artifacts/bundle", rows, said.append) == 0  # it is the same model

    shutil.rmtree(cache_dir("corrupted", project))
    assert fill_champion(project, params, project / "artifacts/bundle", rows, said.append) == BLOCKS
    assert entries(project) == expected


def test_one_block_and_a_local_engine_ask_no_cluster(project, monkeypatch):
    rows = training_rows(project)["test"]
    for engine, size in (("local", 10), ("ray", 100)):
        set_scale(project, engine, "127.0.0.1:9")
        monkeypatch.setattr(answers_module, "BLOCK", size)
        params = load_params(project / "params.yaml")
        one = params.evaluate.model_copy(update={"corruptions": ["dark"]})
        params = params.model_copy(update={"evaluate": one})
        assert fill_champion(project, params, project / "artifacts/bundle", rows) == 0


def test_the_gate_of_a_trial_that_is_a_task_of_the_cluster_asks_it_for_no_workers(project):
    set_scale(project, "ray", "127.0.0.1:9")
    bundle, rows = project / "artifacts/bundle", training_rows(project)["test"]
    assert fill_champion(project, settings_of(project, alone=True), bundle, rows) == 0
    with pytest.raises(EvergreenError, match="cannot be reached"):
        fill_champion(project, settings_of(project, alone=False), bundle, rows)
