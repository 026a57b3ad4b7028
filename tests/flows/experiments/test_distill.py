"""Teachers of `evergreen distill` become names that always mean the same."""

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.experiments.distill import better, pinned_teacher, planned
from flows.experiments.settings import with_settings
from flows.publishing.experiment_table import Row
from flows.publishing.history import open_project
from tasks.common.errors import EvergreenError
from tasks.common.params import parse_params, parse_text
from tasks.common.paths import cache_dir
from tasks.common.presets import PRESETS
from tasks.releases.bundle import BundleDamaged, digest, verify, write_manifest
from tests.support import released_project


@pytest.fixture
def project(tmp_path):
    return released_project.copy(tmp_path)


def test_every_kind_of_teacher_is_pinned(project, tmp_path):
    releases = open_project(project)[1]
    first = releases.history()[0]
    assert pinned_teacher(project, releases, first.version) == first.bundle
    assert pinned_teacher(project, releases, "live") == releases.live().bundle
    assert pinned_teacher(project, releases, "edge") == PRESETS["edge"]
    assert pinned_teacher(project, releases, "a" * 64) == "a" * 64
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "model.onnx").write_text("answers")
    write_manifest(folder)
    name = pinned_teacher(project, releases, str(folder))
    assert name == digest(folder)
    verify(cache_dir("bundles", project) / name)
    (folder / "model.onnx").write_text("torn")
    with pytest.raises(BundleDamaged, match=r"model\.onnx"):
        pinned_teacher(project, releases, str(folder))
    with pytest.raises(EvergreenError, match=rf"v99 is not a teacher.*{first.version}"):
        pinned_teacher(project, releases, "v99")


def test_the_student_is_tried_with_its_teachers_and_alone(project):
    alone, taught = planned("balanced", ["a" * 64], {"temperature": 2.0}, alone=True)
    assert planned("balanced", ["a" * 64], {"temperature": 2.0}, alone=False) == [taught]
    text = (project / "params.yaml").read_text()

    def stage(changes):
        return parse_params(parse_text(with_settings(text, changes))).train_backbone

    assert stage(alone).backbone == stage(taught).backbone == PRESETS["balanced"]
    assert stage(alone).distill.teachers == []
    assert (stage(taught).distill.teachers, stage(taught).distill.temperature) == (["a" * 64], 2.0)


def test_the_command_refuses_an_unknown_teacher_before_any_training(project, monkeypatch):
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["distill", "no-such-teacher"])
    assert isinstance(result.exception, EvergreenError)
    assert "no-such-teacher is not a teacher" in str(result.exception)


def test_teachers_that_do_not_help_are_not_applied():
    def row(name, score):
        figures = {"outcome": "hold", "calibration_score": score}
        return Row(name=name, kind="experiment", changes={}, champion="v1", sentence="", figures=figures)

    alone, taught = row("alone", 0.7), row("taught", 0.62)
    assert better([alone, taught]).row == alone
    assert "the student alone is 8.0 points better" in better([alone, taught]).sentence
    assert better([taught, alone]).row == alone
    assert better([taught]).row == taught
