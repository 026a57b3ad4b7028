"""Synthetic images train up to their share of a class, and are counted apart."""

from collections import Counter

import pyarrow.parquet as pq
import pytest

from tasks.common.files import read_json
from tasks.stages.validate import stage, synthetic
from tests.support.inspected_project import PARAMS, Project, fashion


def test_the_share_is_of_a_classs_training_images_and_the_smallest_ids_stay():
    real = Counter(a=4, b=100)
    ids, labels = list("526134"), [["a"]] * 4 + [["b"]] * 2
    assert synthetic.beyond(ids, labels, real, 0.5).tolist() == [False] * 6
    assert synthetic.beyond(ids, labels, real, 0.34).tolist() == [True, False, True, False, False, False]
    assert synthetic.beyond(ids, labels, real, 0.0).all()
    both = [["a", "b"], ["a"], ["b"]]  # an image with two labels needs room in both
    assert synthetic.beyond(list("123"), both, Counter(a=0, b=100), 0.5).tolist() == [True, True, False]


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "dvc.yaml").touch()
    made = Project(tmp_path)
    made.add(fashion("base", each=20, classes=("Trouser", "Bag")) + fashion("base", ("calibration", "test"), each=3))
    return made


def test_what_is_above_the_share_is_left_out_and_the_report_says_so(project, monkeypatch):
    rows = [row | {"origin": "synthetic", "split": "train"} for row in fashion("base", each=60, classes=("Bag",))[20:]]
    project.add(rows, kind="synthetic")
    found = {}
    for share in (0.5, 0.25, 1.0):
        monkeypatch.setattr("tests.support.inspected_project.PARAMS", _with_share(share))
        out = project.run(min_rows=10, min_per_class={"train": 1}, min_classes=2, copies_of=[])
        ids = set(pq.read_table(out / "accepted.parquet")["id"].to_pylist())
        found[share] = len(ids & {row["id"] for row in rows})
        result = read_json(out / "result.json")["synthetic"]
        assert result["used"] == found[share]
        assert result["classes"]["Bag"]["left_out"] == result["left_out"] == len(rows) - found[share]
        figures = read_json(project.root / "metrics" / "validate.json")["synthetic"]
        assert figures == {"used": found[share], "left_out": len(rows) - found[share]}
    real = result["classes"]["Bag"]["real"]
    assert found == {0.5: min(real, len(rows)), 0.25: real // 3, 1.0: len(rows)}
    assert found[0.25] < found[0.5] < len(rows)


def test_a_project_without_them_says_nothing_of_them(project):
    out = project.run(min_rows=10, min_per_class={"train": 1}, copies_of=[])
    assert "synthetic" not in read_json(out / "result.json")
    assert "synthetic" not in stage.MIX_COMPARED


def _with_share(share: float):
    return PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"synthetic_share": share})})
