"""The page of experiments: what was tried, in words; hostile settings stay text."""

import csv
import io
import os

import pytest

from flows.publishing.experiment_table import Row, add_row
from flows.repo import workspace
from tasks.common.files import write_json
from tests.support import released_project
from tests.support.console import serving

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def root(tmp_path):
    main = released_project.copy(tmp_path)
    tree, lock = workspace.create(main, workspace.new_run_id("abcdef"), {})
    write_json(tree / "metrics/evaluate.json", {})
    figures = {"outcome": "hold", "calibration_score": 0.712, "test": 0.7, "gain": 0.0125, "seconds": 61.0}
    row = Row(name="loss-abc", kind="experiment", champion="v0.3.0", sentence="hold: no gain", figures=figures)
    add_row(tree, row.model_copy(update={"changes": {"train_head.method": HOSTILE}}))
    refused = {"figures": {"outcome": "reject"}, "name": "as-set-abc"}
    add_row(tree, row.model_copy(update=refused))
    add_row(tree, row.model_copy(update={"kind": "run", "name": "a-run"}))
    os.close(lock)
    return main


def test_experiments_are_listed_with_their_figures_and_runs_are_not(root, visit):
    with serving(root) as site:
        page = visit(f"{site.url}/experiments", user=site.user, width=390)
        assert 'href="/experiments"' in site.get("/runs")[2]
        for said in (HOSTILE, "settings as they are", "would be held", "would be rejected", "71.2", "+1.2", "v0.3.0"):
            assert said in page.text
        assert "a-run" not in page.text
        assert not page.scrolls_sideways
        assert page.axe_violations == []
        assert page.problems == []
        rows = list(csv.DictReader(io.StringIO(site.get("/experiments?format=csv")[2].lstrip("\ufeff"))))
    assert {row["name"]: row["gate"] for row in rows} == {"loss-abc": "hold", "as-set-abc": "reject"}
    assert next(row for row in rows if row["name"] == "loss-abc")["gain"] == "0.0125"


def test_a_project_without_experiments_says_how_to_make_one(tmp_path):
    with serving(released_project.copy(tmp_path)) as site:
        assert "evergreen experiment --set" in site.get("/experiments")[2]
