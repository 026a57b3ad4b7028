"""Stage `validate` on batches: noisy labels, other mixes, missing labels, traffic and hard sets."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.common.errors import BatchRefused
from tasks.common.files import write_json
from tasks.common.paths import cache_dir
from tasks.labels.storing import write_annotations
from tasks.stages.validate import rules
from tests.support.annotating import said
from tests.support.checkout import ROOT
from tests.support.inspected_project import CLASSES, Project, fashion, status_of
from tests.support.shared import networks


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "dvc.yaml").touch()
    networks(tmp_path)
    return Project(tmp_path)


@pytest.fixture(scope="module")
def base() -> list[dict]:
    """100 training images a class, noise included, and a few to calibrate and test."""
    return fashion("base", each=100) + fashion("base", ("calibration", "test"), each=3)


# --- batches --------------------------------------------------------------------------------------------------


def test_a_flipped_class_is_refused_and_named_and_its_images_are_shown(project, base):
    project.add(base)
    bad = project.add(fashion("sabotaged"))
    with pytest.raises(BatchRefused, match="images labelled 'Bag' look like another class") as refusal:
        project.run()
    assert refusal.value.batch == bad
    report, page = project.kept(bad)
    assert report["refused"]["what"] == bad
    failed = {name for name, status in status_of(report["batches"][1]["checks"]).items() if status == "fail"}
    assert failed == {"noise.Bag", "noise.Sneaker"}
    assert "labelled Bag, looks like" in page
    assert "Nothing is trained until" not in page, "the batch may be tombstoned a moment later"
    told = report["opinions"]["images"]
    assert {one["given"] for one in told} >= {"Bag"}
    assert all(one["given"] != one["seen"] for one in told)
    assert ("Bag", "Sneaker") in {(one["given"], one["seen"]) for one in report["opinions"]["confused"]}
    assert {one["id"] for one in told} <= {row["id"] for row in fashion("sabotaged")}
    assert "data:image/png;base64," in page
    assert str(project.root / ".evergreen" / "validation" / f"{bad}.html") in str(refusal.value)
    assert not (project.root / "artifacts" / "validate").exists()


def test_a_swap_of_two_classes_is_refused(project, base):
    swap = {"Trouser": "Bag", "Bag": "Trouser"}
    project.add(base)
    project.add([row | {"label": swap.get(row["label"], row["label"])} for row in fashion("batch-2", each=40)])
    with pytest.raises(BatchRefused) as refusal:
        project.run()
    assert "'Bag'" in str(refusal.value)
    assert "'Trouser'" in str(refusal.value)


def test_labels_that_chosen_images_of_an_unlabelled_batch_got_refuse_nothing(project, base):
    project.add(base)
    bare = project.add([row | {"label": None} for row in fashion("batch-2", each=60)])
    wrong = [row["id"] for row in project.samples if row["batch"] == bare][:40]
    write_annotations(project.root / "data", [said(name, "Bag") for name in wrong])  # doubtful ones, all of one class
    result = json.loads((project.run() / "result.json").read_text())
    assert status_of(result["batches"][1]["checks"]).keys() == {"quarantined"}


def test_an_honest_batch_is_accepted_and_its_measurements_are_reused(project, base):
    project.add(base)
    project.add(fashion("batch-2", each=60))
    out = project.run()
    result = json.loads((out / "result.json").read_text())
    checks = status_of(result["batches"][1]["checks"])
    assert {"prior_change", "noise.comparable", "noise.Bag"} <= checks.keys()
    assert set(checks.values()) == {"pass"}
    assert status_of(result["batches"][0]["checks"]).keys() == {"null_labels", "quarantined"}, "nothing before it"

    features = cache_dir("features", project.root)
    shutil.rmtree(features)
    project.run()
    assert not any(cache_dir("features", project.root).iterdir()), "the features were made again"
    assert json.loads((out / "result.json").read_text()) == result


def test_a_production_batch_from_another_camera_is_not_taken_for_noise(project, base):
    """Its labels are right; the probe trained on the old camera disagrees with many of them."""
    truth = dict(zip(*pq.read_table(ROOT / "datasets/fashion/truth.parquet").to_pydict().values(), strict=True))
    window = fashion("production-2", (None,), classes=(None,))
    labelled = [row | {"split": "train", "label": truth[row["id"]]} for row in window if truth[row["id"]] in CLASSES]
    project.add(base)
    project.add(labelled, kind="production")
    result = json.loads((project.run() / "result.json").read_text())
    (comparable,) = [check for check in result["batches"][1]["checks"] if check["name"].startswith("noise.")]
    assert comparable["value"] > comparable["bound"]


def test_a_batch_without_labels_is_refused_unless_it_is_traffic(project, base):
    unlabelled = [row | {"label": None} for row in fashion("batch-2", each=20)]
    project.add(base)
    bad = project.add(unlabelled)
    with pytest.raises(BatchRefused, match="80 of 80 rows have no label") as refusal:
        project.run()
    assert refusal.value.batch == bad
    again = Project(project.root.parent / "traffic")
    again.add(base)
    again.add(unlabelled, kind="production")
    assert pq.read_table(again.run() / "accepted.parquet").num_rows == len(base) + 80


def test_what_ingest_quarantined_counts_against_a_batch(project, base):
    bad = project.add(base, quarantined={"truncated": 200})
    with pytest.raises(BatchRefused, match=f"200 of {len(base) + 200} rows are quarantined") as refusal:
        project.run()
    assert refusal.value.batch == bad


def test_a_tombstoned_batch_is_not_judged(project, base):
    project.add(base)
    bad = project.add([], quarantined={"truncated": 90})
    with pytest.raises(BatchRefused):
        project.run()
    write_json(project.root / "tombstones.json", {bad: {"why": "broken upload", "at": "", "by": ""}})
    project.run()


def test_the_hard_set_is_not_compared_with_earlier_batches(project, base):
    project.add(base)
    project.add([row | {"split": "hard"} for row in fashion("hard", ("hard",))], kind="hard")
    result = json.loads((project.run() / "result.json").read_text())
    assert status_of(result["batches"][1]["checks"]).keys() == {"null_labels", "quarantined"}


def test_prior_change_needs_more_than_chance():
    earlier = np.array([500, 300, 200])
    same = rules.prior_change(np.array([50, 30, 20]), earlier, 0.35)
    assert (same.status, same.value, same.low) == ("pass", 0, 0)
    other = rules.prior_change(np.array([5, 15, 80]), earlier, 0.35)
    assert other.status == "fail"
    assert other.value == pytest.approx(0.6)
    tiny = rules.prior_change(np.array([1, 2, 3]), earlier, 0.25)  # 0.3 apart, but of six images
    assert tiny.value > 0.25
    assert tiny.status == "pass"


def test_honest_samples_pass_prior_change_at_any_size():
    rng, earlier = np.random.default_rng(0), np.array([900, 400, 200, 80, 20])
    for size in (30, 100, 1000):
        for _ in range(50):
            assert rules.prior_change(rng.multinomial(size, earlier / earlier.sum()), earlier, 0.1).status == "pass"


def test_another_mix_refuses_the_batch(project, base):
    project.add(base)
    project.add(fashion("base", classes=("Trouser",))[100:200])
    with pytest.raises(BatchRefused, match=r"label mix differs by 0\.75"):
        project.run()


def test_traffic_and_reviews_may_have_another_mix(project, base):
    trousers = fashion("base", classes=("Trouser",))
    project.add(base)
    project.add(trousers[100:150], kind="production")
    project.add(trousers[200:250], kind="review")
    result = json.loads((project.run() / "result.json").read_text())
    assert "noise.Trouser" in status_of(result["batches"][1]["checks"])
    assert status_of(result["batches"][2]["checks"]).keys() == {"null_labels", "quarantined"}


# --- multi-label ----------------------------------------------------------------------------------------------


def test_multilabel_is_judged_class_by_class(tmp_path):
    def with_kind(rows: list[dict]) -> list[dict]:
        """The class, and whether it is worn on the feet."""
        return [row | {"label": [row["label"], *(["shoe"] if row["label"] == "Sneaker" else [])]} for row in rows]

    project = Project(tmp_path, "multilabel")
    project.add(with_kind(fashion("base", each=60) + fashion("base", ("calibration", "test"), each=2)))
    project.add(with_kind(fashion("batch-2", each=40)))
    out = project.run()
    assert json.loads((out / "classes.json").read_text()) == sorted([*CLASSES, "shoe"])
    bad = project.add([row | {"label": [row["label"], "shoe"]} for row in fashion("sabotaged", each=40)])
    with pytest.raises(BatchRefused, match="images labelled 'shoe' look like another class") as refusal:
        project.run()
    assert refusal.value.batch == bad
