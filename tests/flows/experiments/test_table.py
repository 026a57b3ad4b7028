"""Rows of DVC's experiment table, as DVC itself reads them."""

import os
from contextlib import closing

import pytest

from flows.publishing.experiment_table import Row, add_row, figures_of, ref_of, rows
from flows.repo import workspace
from flows.repo.pipeline import open_repo
from tasks.common.checks import Check
from tasks.common.files import write_json
from tasks.gate.verdict import GateVerdict
from tests.support import released_project
from tests.support.checkout import git

ROW = Row(
    name="rate-0.1",
    kind="experiment",
    changes={"clean.seed": 3},
    key="k",
    inputs="i",
    champion="v0.3.0",
    sentence="hold: not shown to be better",
    by="Ann",
    figures={"outcome": "hold", "test": 0.5},
)


@pytest.fixture
def project(tmp_path):
    """(main checkout, worktree with another setting)."""
    main = released_project.copy(tmp_path)
    tree, lock = workspace.create(main, workspace.new_run_id("abcdef"), {})
    text = (tree / "params.yaml").read_text()
    assert "  rare_class: 20\n" in text
    (tree / "params.yaml").write_text(text.replace("  rare_class: 20\n", "  rare_class: 21\n"))
    write_json(tree / "metrics/evaluate.json", {"test": {"accuracy": 0.75}})
    yield main, tree
    os.close(lock)


def test_dvc_shows_the_row_with_its_settings_and_metrics(project):
    main, tree = project
    before = {name: git(main, *name.split()) for name in ("status --porcelain", "for-each-ref refs/heads refs/tags")}
    made = add_row(tree, ROW)
    assert {name: git(main, *name.split()) for name in before} == before
    assert git(main, "rev-parse", f"{made.rev}^") == git(main, "rev-parse", "HEAD") == made.baseline
    assert "metrics/experiment.json" not in git(tree, "status", "--porcelain", "--ignored")
    with closing(open_repo(main)) as repo:
        (shown,) = [state for state in repo.experiments.show() if state.rev == made.baseline]
    (found,) = shown.experiments
    (state,) = found.revs
    assert found.name == "rate-0.1"
    assert state.data.params["params.yaml"]["data"]["clean"]["rare_class"] == 21
    assert state.data.metrics["metrics/evaluate.json"]["data"] == {"test": {"accuracy": 0.75}}


def test_rows_come_back_as_they_were_written_and_those_of_dvc_are_left_out(project):
    main, tree = project
    made = add_row(tree, ROW)
    git(main, "update-ref", ref_of(made.baseline, "of-dvc"), "HEAD")
    git(main, "update-ref", "refs/exps/exec/EXEC_HEAD", "HEAD")
    (found,) = rows(main)
    assert found == made.model_copy(update={"at": found.at})
    assert found.at > 0
    assert rows(main, "0" * 40) == []
    git(tree, "commit", "--allow-empty", "-qm", "another baseline")
    again = add_row(tree, ROW.model_copy(update={"figures": {"outcome": "promote"}}))
    (found,) = rows(main)
    assert found.baseline != made.baseline, "DVC takes no name that two rows have"
    assert found.figures == {"outcome": "promote"}
    assert found.rev == again.rev


def test_the_figures_are_those_of_stages_and_gate(tmp_path):
    write_json(
        tmp_path / "metrics/evaluate.json",
        {
            "test": {"balanced_accuracy": 0.7, "debiased_ece": 0.02},
            "hard": None,
            "shots": {"few": {"recall": 0.25}},
            "latency_ms": {"p50": 1.5},
        },
    )
    write_json(tmp_path / "metrics/train_head.json", {"score": 0.66})
    check = Check(name="test.balanced_accuracy", status="fail", detail="", value=0.03)
    verdict = GateVerdict(outcome="hold", sentence="", checks=[check], challenger="c", champion="v0.1.0", hard_set=None)
    found = figures_of(tmp_path, verdict, "balanced_accuracy", 12.34)
    wanted = {"outcome": "hold", "champion": "v0.1.0", "calibration_score": 0.66, "test": 0.7, "gain": 0.03}
    assert found == wanted | {"hard": None, "few": 0.25, "ece": 0.02, "latency_ms": 1.5, "seconds": 12.3}
    first = figures_of(tmp_path, verdict.model_copy(update={"champion": None}), "balanced_accuracy", None)
    assert first["gain"] is None
    assert first["seconds"] is None
    (tmp_path / "metrics/train_head.json").unlink()
    assert figures_of(tmp_path, verdict, "balanced_accuracy", None)["calibration_score"] is None
