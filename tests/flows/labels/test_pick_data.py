"""Unlabelled images of data/: which are picked, what is asked once, what more labels would bring."""

import csv
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.classes import plan_change, record_change
from flows.labels.pick_data import FOLDER, divide, images, pick_data, picked, waiting
from tasks.active import samples as data_samples
from tasks.active.outlook import training_curve
from tasks.active.samples import live_samples, of_split
from tasks.common.errors import DataError
from tasks.common.files import sha256_bytes
from tasks.common.params import Params, load_params
from tasks.labels.storing import write_annotations
from tests.support.annotating import said
from tests.support.checkout import ROOT
from tests.support.ingesting import take
from tests.support.live_project import commit_project
from tests.support.shared import networks, once

CLASSES = ["Bag", "Trouser"]
FRACTIONS = {"train": 0.7, "calibration": 0.15, "test": 0.15}


def fashion(count: int) -> list[tuple[str, bytes]]:
    """(class, encoded image) of `count` images of CLASSES."""
    table = pq.read_table(ROOT / "datasets/fashion/base.parquet", columns=["image", "label", "split"])
    table = table.filter(pc.and_(pc.equal(table["split"], "train"), pc.is_in(table["label"], pa.array(CLASSES))))
    found = table.slice(0, count)
    return list(
        zip(found["label"].to_pylist(), found["image"].combine_chunks().field("bytes").to_pylist(), strict=True)
    )


def class_free(root) -> None:
    """A project whose data/ holds 120 images of a folder without classes, and the features of all of them."""
    text = (ROOT / "params.yaml").read_text().replace("  resolution: 64", "  resolution: 32")
    (root / "params.yaml").write_text(text)
    (root / "dvc.yaml").write_text("stages: {}\n")
    networks(root)
    folder = root / "source"
    folder.mkdir()
    for number, (_, content) in enumerate(fashion(120)):
        (folder / f"{number:03d}.png").write_bytes(content)
    found = take(root, folder)
    assert found.unlabelled == found.taken > 100
    params = load_params(root / "params.yaml")
    data_samples.features_of(root, live_samples(root, params), params)


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(once("class-free", class_free), tmp_path / "main", symlinks=True)


def params_of(root, **review) -> Params:
    params = load_params(root / "params.yaml")
    return params.model_copy(update={"review": params.review.model_copy(update=review)})


def label(root, ids: set[str], folder) -> None:
    """Ingest the true labels of images of data/, in class folders."""
    for name, content in fashion(120):
        if sha256_bytes(content) in ids:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{sha256_bytes(content)[:12]}.png").write_bytes(content)
    take(root, folder)


def splits_of(root, entries) -> dict[str, int]:
    rows = live_samples(root, params_of(root))
    of = dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True))
    assert all(of[entry.id] == entry.split for entry in entries)
    return {name: sum(entry.split == name for entry in entries) for name in FRACTIONS}


def test_a_folder_without_classes_becomes_a_queue_and_then_a_model(root, tmp_path):
    params = params_of(root, max_source_share=1.0)
    first = pick_data(root, params, 40)
    assert splits_of(root, first) == {"train": 28, "calibration": 6, "test": 6}
    assert {(entry.split == "train", entry.why, entry.prediction) for entry in first} == {
        (True, "typical", None),
        (False, "random", None),
    }
    shown = list(images(root, waiting(root, live_samples(root, params))))
    assert {entry.id for entry, _, _ in shown} == {entry.id for entry in first}
    assert all(sha256_bytes(content) == entry.id == row["id"] for entry, row, content in shown)

    label(root, {entry.id for entry in first[:35]}, tmp_path / "labels")
    samples = live_samples(root, params)
    assert {entry.id for entry, _ in waiting(root, samples)} == {entry.id for entry in first[35:]}
    second = pick_data(root, params, 20)
    assert not {entry.id for entry in first} & {entry.id for entry in second}
    taught = [entry for entry in second if entry.split == "train"]
    assert {entry.why for entry in taught} == {"uncertain"}
    assert all(entry.prediction in CLASSES and 0.5 <= entry.confidence <= 1 for entry in taught)
    assert {entry.prediction for entry in second if entry.split != "train"} <= {None}
    assert len(picked(root)) == 60


def test_what_was_picked_is_written_for_people_who_name_the_first_classes(root, tmp_path, monkeypatch, visit):
    monkeypatch.chdir(root)
    out, page = tmp_path / "out.csv", tmp_path / "q.html"
    run = CliRunner()
    result = run.invoke(app, ["queue", "--pick-data", "20", "--csv", str(out), "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "20 images of the data set picked" in result.output
    assert "what these labels would bring cannot be told yet" in result.output
    assert "20 images of the data set wait for a label" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["id"] for row in rows} == {entry.id for entry in picked(root)}
    assert all(sha256_bytes((tmp_path / row["image"]).read_bytes()) == row["id"] for row in rows)
    assert {row["detail"] for row in rows} == {"teaches the next model", "measures the next model"}

    shown = visit(page).page
    shown.get_by_label("new label").nth(0).fill('Bag, "big"')
    shown.get_by_label("comment").nth(0).fill("clear")
    shown.get_by_label("new label").nth(1).fill("Trouser")
    with shown.expect_download() as download:
        shown.click("#save")
    saved = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [(row["label"], row["comment"]) for row in saved] == [('Bag, "big"', "clear"), ("Trouser", "")]
    assert "20 images of the data set wait" in run.invoke(app, ["queue"]).output


def test_what_people_answer_in_the_table_is_taken_and_a_curve_can_be_told(root, tmp_path, monkeypatch):
    commit_project(root)
    monkeypatch.chdir(root)
    run, out = CliRunner(), tmp_path / "out.csv"
    run.invoke(app, ["queue", "--pick-data", "40", "--csv", str(out)])
    truth = {sha256_bytes(content): name for name, content in fashion(120)}
    rows = [row | {"label": truth[row["id"]]} for row in csv.DictReader(out.read_text().splitlines())]
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    result = run.invoke(app, ["label", str(out), "--annotator", "ann"])
    assert result.exit_code == 0, result.output
    labels = live_samples(root, params_of(root))
    assert {row["id"]: row["label"] for row in labels.to_pylist() if row["label"]} == {
        r["id"]: r["label"] for r in rows
    }
    assert "wait for a label" in run.invoke(app, ["queue"]).output
    result = run.invoke(app, ["queue", "--pick-data", "10"])
    assert "10 more labels: about +" in result.output
    assert "10 images of the data set wait" in result.output


def test_the_method_and_the_quota_that_are_set_pick(root, tmp_path):
    label(root, {sha256_bytes(content) for _, content in fashion(40)}, tmp_path / "labels")
    found = {
        method: [entry.id for entry in pick_data(copied(root, tmp_path / method), params_of(root, method=method), 10)]
        for method in ("margin", "random", "badge")
    }
    assert len({tuple(ids) for ids in found.values()}) == 3


def copied(root, to):
    return shutil.copytree(root, to, symlinks=True)


def test_what_people_excluded_is_not_asked_for(root):
    params = params_of(root)
    names = live_samples(root, params)["id"].to_pylist()
    write_annotations(root / "data", [said(name, exclude=True, role="reviewer") for name in names[:30]])
    assert set(live_samples(root, params)["id"].to_pylist()) == set(names[30:])


def test_labels_have_the_names_of_today(root, tmp_path):
    label(root, {sha256_bytes(content) for _, content in fashion(40)}, tmp_path / "labels")
    before = live_samples(root, params_of(root))["label"].drop_null().to_pylist()
    commit_project(root)
    record_change(root, plan_change(root, "rename", ["Bag"], ["Handbag"], by="ann", why="its name in the shop"))
    after = live_samples(root, params_of(root))["label"].drop_null().to_pylist()
    assert after == ["Handbag" if name == "Bag" else name for name in before]
    assert "Handbag" in after


def test_a_damaged_file_of_picks_is_skipped(root):
    made = pick_data(root, params_of(root), 5)
    (root / ".evergreen" / FOLDER / "torn.json").write_text('[{"id"')
    assert picked(root) == made


def test_calibration_and_test_get_what_they_lack_and_train_the_rest():
    free = {"train": 1000, "calibration": 1000, "test": 1000}
    none = dict.fromkeys(FRACTIONS, 0)
    assert divide(none, free, FRACTIONS, 100) == {"train": 70, "calibration": 15, "test": 15}
    balanced = {"train": 700, "calibration": 150, "test": 150}
    assert divide(balanced, free, FRACTIONS, 100) == {"train": 70, "calibration": 15, "test": 15}
    assert divide({"train": 100, "calibration": 300, "test": 300}, free, FRACTIONS, 100)["train"] == 100
    assert divide({"train": 1000, "calibration": 0, "test": 0}, free, FRACTIONS, 100)["train"] == 0
    assert divide(none, {"train": 5, "calibration": 1, "test": 0}, FRACTIONS, 100) == {
        "train": 5,
        "calibration": 1,
        "test": 0,
    }


def test_the_curve_says_what_more_labels_bring_and_is_kept(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["curve"])
    assert isinstance(result.exception, DataError)
    assert "labelled training images of 0 classes" in str(result.exception)
    result = CliRunner().invoke(app, ["experiment", "--find-rate", "12"])
    assert "labels of 0 classes: a rate is found on at least two" in str(result.exception)
    label(root, {sha256_bytes(content) for _, content in fashion(120)}, tmp_path / "labels")
    result = CliRunner().invoke(app, ["curve", "--labels", "50"])
    assert result.exit_code == 0, result.output
    assert "50 more labels: about +" in result.output
    assert "  Bag: " in result.output
    result = CliRunner().invoke(app, ["experiment", "--find-rate", "12"])
    assert result.exit_code == 0, result.output
    assert "12 steps at rising rates on " in result.output
    assert "--set train_backbone.learning_rate=" in result.output or "no rate lowered" in result.output
    assert result.output.count("  learning_rate ") >= 3
    (kept,) = (root / ".evergreen/cache/curve").glob("*.json")
    curve, classes = training_curve(root, params_of(root))
    assert classes == CLASSES
    assert curve.total == len(of_split(live_samples(root, params_of(root)), "train", True)) == curve.support.sum()
    kept.write_text("torn")
    again, _ = training_curve(root, params_of(root))
    assert np.array_equal(again.errors, curve.errors)


def test_enough_is_said_by_the_gain_that_is_set(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    label(root, {sha256_bytes(content) for _, content in fashion(120)}, tmp_path / "labels")
    said = {}
    for least in ("0.0", "1.0"):
        text = (ROOT / "params.yaml").read_text().replace("  resolution: 64", "  resolution: 32")
        (root / "params.yaml").write_text(text.replace("min_gain: 0.001", f"min_gain: {least}"))
        said[least] = "enough: 100 more labels of this kind bring less" in CliRunner().invoke(app, ["curve"]).output
    assert said == {"0.0": False, "1.0": True}
