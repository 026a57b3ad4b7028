"""The demo's reviewer corrects a label that is really wrong, and the demo checks that it was trained on."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.demo.production import Demo, Story
from tasks.common.errors import EvergreenError
from tests.flows.labels.corrections import labels_of, project
from tests.support import versions_project


def run_of(root: Path, name: str, ids: list[str], labels: list[str]) -> None:
    """The labels that the run `name` trained on."""
    folder = root / f".evergreen/runs/{name}/tree/artifacts/clean"
    folder.mkdir(parents=True)
    count = len(ids)
    table = pa.table({"id": ids, "split": ["train"] * count, "label": labels, "action": ["keep"] * count})
    pq.write_table(table, folder / "labels.parquet")


def test_one_wrong_label_is_corrected_and_its_training_is_checked(tmp_path, monkeypatch):
    from flows.cli.main import app

    root, ids = project(tmp_path / "project")
    pq.write_table(pa.table({"id": ids, "label": ["cat", "cat", "dog", "cat", "cat"]}), tmp_path / "truth.parquet")
    story = Story(tmp_path, (), True, "", "", "")

    def evergreen(root: Path, *arguments: str) -> int:
        monkeypatch.chdir(root)
        return CliRunner().invoke(app, list(arguments)).exit_code

    demo = Demo(root, versions_project.store(root), evergreen, story)
    run_of(root, "run-1", ids, ["cat"] * 5)
    assert demo.correct_a_label() == (ids[2], "dog")
    assert labels_of(root, ids) == ["cat", "cat", "dog", "cat", "cat"]
    with pytest.raises(EvergreenError, match="to be trained on as dog"):
        demo.explain(ids[2], "dog")
    run_of(root, "run-2", ids, ["cat", "cat", "dog", "cat", "cat"])
    demo.explain(ids[2], "dog")
    assert demo.correct_a_label() is None
