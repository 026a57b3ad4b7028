"""Stored answers of older versions are judged again by today's labels."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.labels.classes import plan_change
from flows.labels.exclude import correct, exclude
from flows.versions.rejudged import as_answers, compare, present_labels, rejudged
from tasks.common.files import write_json
from tasks.inference.thresholds import make_rule
from tasks.labels.changes import FOLDER, Change
from tasks.labels.taxonomy import compose
from tests.flows.labels.corrections import project
from tests.support.checkout import git

CLASSES = ["cat", "dog"]


class Stored:
    """DVC's objects of one commit, by name."""

    def __init__(self, files: dict[str, bytes]):
        self.content = files

    def files(self, oid: str) -> dict[str, str]:
        return {name.split("/")[1]: name for name in self.content if name.startswith(f"{oid}/")}

    def read(self, oid: str) -> bytes:
        return self.content[oid]


def predictions(ids: list[str], labels: list[str], said: list[str]) -> pa.Table:
    rows = [[0.9, 0.1] if word == "cat" else [0.2, 0.8] for word in said]
    return pa.table({"id": ids, "split": ["test"] * len(ids), "label": labels, "probabilities": rows})


def test_figures_then_and_now_follow_the_labels():
    table = predictions(list("abcd"), ["cat", "cat", "dog", "dog"], ["cat", "dog", "dog", "dog"])
    rule = make_rule("multiclass", CLASSES, None, None)
    now = pa.chunked_array([pa.array(["cat", "dog", "dog", None])])
    found = compare(table, now, CLASSES, rule)
    assert found["test.accuracy"] == (0.75, 1.0)
    assert found["test.balanced_accuracy"] == (0.75, 1.0)
    assert compare(table, table["label"], CLASSES, rule) == {}
    gone = compare(table, pa.chunked_array([pa.nulls(4, pa.string())]), CLASSES, rule)
    assert gone["test.accuracy"] == (0.75, None)
    costly = compare(table, now, CLASSES, make_rule("multiclass", CLASSES, None, {"cat": 5.0}))
    assert costly["test.accuracy"] == (0.5, pytest.approx(1 / 3, abs=1e-6))  # .2 x 5: every answer is cat


def test_labels_are_read_in_the_names_that_the_version_knows():
    taxonomy = compose(
        [
            Change(number=number, kind=kind, old=old, new=new, at="", by="", why="", state="")
            for number, (kind, old, new) in enumerate(
                [
                    ("rename", ["cat"], ["feline"]),
                    ("split", ["dog"], ["hound", "poodle"]),
                    ("merge", ["ox", "yak"], ["cattle"]),
                ]
            )
        ]
    )
    classes = ["cat", "dog", "ox", "yak"]
    now = ["feline", "hound", "dog", "cattle", "cattle", "cattle", None, "bird"]
    then = ["cat", "dog", "dog", "ox", "yak", "dog", "dog", "cat"]
    found = as_answers(column(now), column(then), classes, taxonomy).to_pylist()
    assert found == ["cat", "dog", "dog", "ox", "yak", None, None, None]
    lists = as_answers(column([["feline", "poodle"], []]), column([["cat"], ["cat"]]), classes, taxonomy)
    assert lists.to_pylist() == [["cat", "dog"], []]


def column(values: list) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


def test_corrections_and_exclusions_in_data_count(tmp_path):
    root, ids = project(tmp_path / "project")
    correct(root, ids[0], "dog", "")
    exclude(root, [ids[1]], "blurred")
    column = pa.chunked_array([pa.array([*ids[:3], "f" * 64])])
    assert present_labels(root, column).to_pylist() == ["dog", None, "cat", None]
    buffer = pa.BufferOutputStream()
    pq.write_table(predictions(ids[:3], ["cat"] * 3, ["dog", "dog", "cat"]), buffer)
    about = {"classes": CLASSES, "task": "multiclass", "thresholds": dict.fromkeys(CLASSES, 0.5)}
    files = {"e/predictions.parquet": buffer.getvalue().to_pybytes(), "c/calibration.json": json.dumps(about).encode()}
    outs = [{"path": "artifacts/evaluate", "md5": "e"}, {"path": "artifacts/calibrate", "md5": "c"}]
    write_json(root / "dvc.lock", {"stages": {"evaluate": {"outs": outs}}})
    git(root, "add", "dvc.lock")
    git(root, "commit", "-qm", "a run")
    assert rejudged(root, Stored(files), "HEAD")["test.accuracy"] == (0.333333, 1.0)
    change = plan_change(root, "rename", ["cat"], ["feline"], by="ann", why="").change
    write_json(root / "data" / FOLDER / "000001-a.json", {"schema": 1, **change.model_dump(mode="json")})
    assert rejudged(root, Stored(files), "HEAD")["test.accuracy"] == (0.333333, 1.0)
