"""The int8 form of a live version: judged like any challenger, held, and live once a person approves it."""

import shutil
from pathlib import Path

import pytest

from flows.publishing.held import approve
from flows.repo.git import git
from flows.runs.quantise import quantise
from serving.predictor import Predictor
from tasks.common.errors import EvergreenError
from tasks.common.files import parse_yaml
from tasks.common.params import load_params
from tasks.releases import bundle
from tasks.releases.store import open_store
from tests.support.quantised_project import released
from tests.support.small_project import CLASSES, image_bytes


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return released(tmp_path_factory.mktemp("quantise") / "project")


def store(root: Path):
    return open_store(load_params(root / "params.yaml").store, root)


def test_an_unknown_name_leaves_nothing_behind(project):
    with pytest.raises(EvergreenError, match=r"v9 is not a version or a held run; versions: v0\.1\.0"):
        quantise(project, "v9", bound=0.1, by="ann", why="")
    assert not (project / ".evergreen/runs").exists()


def test_the_int8_form_is_judged_held_and_published_by_a_person(project, tmp_path):
    float_bundle = store(project).live().bundle
    run_id, found, ending = quantise(project, "live", bound=0.5, by="ann", why="line 3 is slow", say=str)
    assert ending.outcome == "held"
    assert "int8 of v0.1.0: line 3 is slow" in ending.sentence
    assert f"`evergreen approve {run_id}` publishes it" in ending.sentence
    assert {one.name for one in found.classes} == set(CLASSES)
    assert found.of == float_bundle
    assert found.size_mb < found.size_before_mb / 2
    assert ending.verdict.champion == "v0.1.0"
    assert store(project).live().bundle == float_bundle
    record = store(project).run(run_id)
    assert (record["outcome"], record["by"]) == ("held", "ann")

    shutil.rmtree(project / ".evergreen/runs" / run_id)  # a held run outlives its workspace
    git(project, "worktree", "prune")
    live = approve(project, run_id, by="bo")
    assert live.bundle == record["bundle"] != float_bundle
    stages = parse_yaml(git(project, "show", f"{live.git_rev}:dvc.lock"))["stages"]
    assert set(stages) == {"made", "quantise"}

    folder = store(project).get_bundle(live.bundle, tmp_path / "bundle")
    about = bundle.read(folder)
    assert about["quantised"] == found.model_dump(mode="json")
    assert "accuracy lost" in (folder / "card.md").read_text()
    assert (folder / "model.onnx").stat().st_size < 6e6
    (answer,) = Predictor(folder).predict(image_bytes("Bag"))
    assert answer.label == "Bag"
    with pytest.raises(EvergreenError, match="computes in int8 already"):
        quantise(project, "live", bound=0.5, by="ann", why="", say=str)
