"""Stage `evaluate` on a small real project, and its parts."""

import csv
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import (
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from tasks.common.artifacts import training_rows
from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import sha256_file
from tasks.common.params import EvaluateParams, GateParams, load_params
from tasks.common.schemas import predictions_schema
from tasks.common.sealed import sealed_path
from tasks.dataset.pixels import shard_pixels
from tasks.gate import champion as gate_champion
from tasks.gate.evidence import Contender, Trial
from tasks.gate.judge import judge
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.thresholds import make_rule, read_rule
from tasks.labels.changes import Change
from tasks.labels.taxonomy import compose
from tasks.scoring.corruptions import CORRUPTIONS, corrupt
from tasks.scoring.metrics import one_hot
from tasks.scoring.targets import encode
from tasks.stages.evaluate import figures, stage
from tasks.stages.evaluate.siblings import sibling_figures, unseen_groups
from tests.support.small_project import CLASSES, finished_project

REPORT = "artifacts/evaluate/report.json"
SETTINGS = EvaluateParams(
    corruptions=["dark", "blur", "noise", "jpeg", "grayscale", "crop", "motion_blur", "occlusion"],
    corruption_images=20,
    latency_runs=5,
    many_shot=25,
    few_shot=20,
)

WHO = {"at": "", "by": "", "why": "", "state": ""}


def replace(table: pa.Table, name: str, values) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def hard_and_sliced(root) -> None:
    """Every fourth test image becomes one of the hard set; the others are from one of two rooms."""
    for path in ("artifacts/validate/accepted.parquet", "artifacts/clean/labels.parquet"):
        table = pq.read_table(root / path)
        split = table["split"].to_pylist()
        test = [row for row, value in enumerate(split) if value == "test"]
        for row in test[::4]:
            split[row] = "hard"
        table = replace(table, "split", split)
        if "slice" in table.column_names:
            rooms = [
                [{"name": "room", "value": "ab"[row % 2]}] if split[row] == "test" else [] for row in range(len(table))
            ]
            table = replace(table, "slice", rooms)
        (root / path).unlink()
        pq.write_table(table, root / path)


def some_synthetic(root) -> None:
    """The first three training images were made by a program."""
    file = root / "artifacts/inspect/samples.parquet"
    table = pq.read_table(file)
    train = [row for row, split in enumerate(table["split"].to_pylist()) if split == "train"]
    origin = ["synthetic" if row in train[:3] else "import" for row in range(len(table))]
    file.unlink()
    pq.write_table(replace(table, "origin", origin), file)


@pytest.fixture(scope="module", params=["multiclass", "multilabel"])
def evaluated(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param) / "project"
    shutil.copytree(finished_project(request.param), root)
    hard_and_sliced(root)
    some_synthetic(root)
    params = load_params(root / "params.yaml")
    stage.run(root, images=params.images, embed=params.embed, evaluate=SETTINGS)
    metrics = json.loads((root / "metrics/evaluate.json").read_text())
    table = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    return SimpleNamespace(root=root, task=request.param, params=params, metrics=metrics, table=table)


def test_predictions_are_the_exported_models_on_test_and_hard_images(evaluated):
    table, root = evaluated.table, evaluated.root
    assert table.schema.equals(predictions_schema(evaluated.task))
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet")
    rows = [row for row in accepted.to_pylist() if row["split"] in ("test", "hard")]
    rows.sort(key=lambda row: row["split"] == "hard")
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    assert table["label"].to_pylist() == [row["label"] for row in rows]
    pixels = shard_pixels(root, rows[0]["shard"], evaluated.params.images)[[row["row"] for row in rows]]
    expected = OnnxModel(root / "artifacts/calibrate/model.onnx")(pixels).probabilities
    np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), expected, atol=1e-6)
    assert np.isfinite(table["ood"].to_numpy()).all()


def test_a_small_test_split_is_backed_by_cross_validation_over_groups(evaluated):
    found = evaluated.metrics["cross_validated"]
    rows = training_rows(evaluated.root)
    real = sum(len(rows[split]) for split in ("train", "calibration", "test")) - 3  # nothing is measured on synthetic
    assert found["images"] == real > evaluated.metrics["test"]["n"]
    assert found["single_group"] == []
    assert 0 <= found["low"] < found["balanced_accuracy"] < found["high"] <= 1


def test_metrics_are_those_of_the_predictions(evaluated):
    calibration = json.loads((evaluated.root / "artifacts/calibrate/calibration.json").read_text())
    rule = read_rule(calibration)
    for split in ("test", "hard"):
        rows = evaluated.table.filter(pa.compute.equal(evaluated.table["split"], split))
        targets = encode(rows["label"], CLASSES, evaluated.task)
        probabilities = np.array(rows["probabilities"].to_pylist())
        found = evaluated.metrics[split]
        assert found["n"] == len(rows)
        if evaluated.task == "multiclass":
            predicted = (probabilities * rule.weights).argmax(axis=1)
            assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, predicted), abs=1e-6)
        else:
            predicted = probabilities >= rule.thresholds
            assert found["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"), abs=1e-6)
            assert found["micro_f1"] == pytest.approx(f1_score(targets, predicted, average="micro"), abs=1e-6)
        assert found["accuracy"] > 0.5  # the small project's head nearly always is right
    assert {"ece", "debiased_ece", "brier", "log_loss", "average_precision"} <= set(evaluated.metrics["test"])
    before = evaluated.metrics["uncalibrated"]
    measured = json.loads((evaluated.root / "metrics/calibrate.json").read_text())
    same = measured["scaling"]["method"] == "none"
    assert (before["log_loss"] == pytest.approx(evaluated.metrics["test"]["log_loss"], abs=1e-5)) == same
    assert sum(before["reliability"]["count"]) == evaluated.metrics["test"]["n"] * (
        1 if evaluated.task == "multiclass" else len(CLASSES)
    )
    decides = "thresholds" if evaluated.task == "multilabel" else "weights"
    assert evaluated.metrics.keys() & {"thresholds", "weights"} == {decides}
    assert evaluated.metrics[decides] == calibration[decides]


def test_slices_shots_corruptions_latency_parity_and_size_are_measured(evaluated):
    metrics = evaluated.metrics
    assert metrics["slices"].keys() == {"room=a", "room=b"}
    assert sum(found["n"] for found in metrics["slices"].values()) == metrics["test"]["n"]
    shots = metrics["shots"]
    assert sum(found["classes"] for found in shots.values() if found) == 3
    assert (shots["many"] is not None) == (evaluated.task == "multilabel")  # only there a class has over 25 images
    assert metrics["corruptions"].keys() == CORRUPTIONS.keys()
    assert all(found["n"] == 20 and found["kept"] >= 0 for found in metrics["corruptions"].values())
    assert metrics["corruptions"]["grayscale"]["kept"] == 1  # Fashion-MNIST is grey already
    assert 0 < metrics["latency_ms"]["p50"] <= metrics["latency_ms"]["p99"]
    assert metrics["parity"]["max_difference"] < 1e-4
    size = (evaluated.root / "artifacts/calibrate/model.onnx").stat().st_size
    assert metrics["size_mb"] == pytest.approx(size / 1e6, abs=1e-3)


def test_figures_beyond_right_and_wrong_are_those_of_the_predictions(evaluated):
    rows = evaluated.table.filter(pa.compute.equal(evaluated.table["split"], "test"))
    truth = encode(rows["label"], CLASSES, evaluated.task)
    p = np.array(rows["probabilities"].to_pylist())
    found, table = evaluated.metrics["test"], json.loads((evaluated.root / REPORT).read_text())["classes"]
    assert found["auc"] == pytest.approx(roc_auc_score(one_hot(truth, 3), p, average="macro"), abs=1e-6)
    assert found["auc"] == pytest.approx(np.mean([row["auc"] for row in table]), abs=1e-6)
    assert ("kappa" in found) == (evaluated.task == "multiclass")
    if evaluated.task == "multiclass":
        assert found["kappa"] == pytest.approx(cohen_kappa_score(truth, p.argmax(axis=1)), abs=1e-6)
    assert "top5" not in found, "there are three classes"
    assert "cost" not in found, "no costs are set"
    people = evaluated.metrics["people"]
    assert list(people) == ["at_90", "at_95", "at_99"]
    shares = [one["share"] for one in people.values()]
    assert shares == sorted(shares)
    assert all(one["low"] <= one["share"] <= one["high"] for one in people.values())


def test_top_5_and_costs_are_measured_where_there_are_any():
    rng = np.random.default_rng(0)
    targets, p = rng.integers(0, 6, 200), rng.dirichlet(np.ones(6), 200)
    results = figures.Results(
        list("abcdef"), "multiclass", make_rule("multiclass", list("abcdef"), {}, {}), targets, p, p.argmax(axis=1)
    )
    found = figures.beyond_right(results, {"a": 5.0})
    assert found["top5"] == pytest.approx(top_k_accuracy_score(targets, p, k=5), abs=1e-6)
    wrong = targets != p.argmax(axis=1)
    assert found["cost"] == pytest.approx((wrong * np.where(targets == 0, 5, 1)).mean(), abs=1e-6)


def test_sets_of_plausible_classes_are_measured_on_the_test_images(evaluated):
    sets = json.loads((evaluated.root / "artifacts/calibrate/calibration.json").read_text())["conformal"]
    rows = evaluated.table.filter(pa.compute.equal(evaluated.table["split"], "test"))
    truth = one_hot(encode(rows["label"], CLASSES, evaluated.task), 3)
    p = np.array(rows["probabilities"].to_pylist())
    found = evaluated.metrics["conformal"]
    there = p >= np.array([sets["bounds"][name] for name in CLASSES])
    if evaluated.task == "multiclass":
        there[np.arange(len(p)), p.argmax(axis=1)] = True
        assert found["covered"] == pytest.approx((there & truth).sum() / len(p), abs=1e-6)
        assert found["set_length"] == pytest.approx(there.sum() / len(p), abs=1e-6)
    assert found["wanted"] == 0.9
    table = json.loads((evaluated.root / "artifacts/evaluate/report.json").read_text())["classes"]
    assert found["class_coverage"] == pytest.approx(np.mean([row["coverage"] for row in table]), abs=1e-6)
    assert all(row["set_length"] > 0 for row in table)
    assert sum(one["classes"] for one in found["shots"].values() if one) == 3


def test_a_model_without_sets_has_no_figures_of_sets(tmp_path):
    """A project whose calibration.json is older than sets, or that asks for none."""
    root = shutil.copytree(finished_project(), tmp_path / "project")
    file = root / "artifacts/calibrate/calibration.json"
    about = json.loads(file.read_text()) | {"conformal": None}
    file.unlink()
    file.write_text(json.dumps(about))
    params = load_params(root / "params.yaml")
    settings = EvaluateParams(corruptions=[], corruption_images=1, latency_runs=1)
    stage.measure(root, training_rows(root), about, params.images, settings, lambda *_: {"max_difference": 0.0})
    assert json.loads((root / "metrics/evaluate.json").read_text())["conformal"] is None


def test_the_figures_without_siblings_are_those_of_the_other_images(evaluated):
    siblings = evaluated.metrics["siblings"]
    parts = [siblings[name] for name in ("with", "without") if siblings[name]]
    test = evaluated.metrics["test"]
    assert sum(part["n"] for part in parts) == test["n"]
    assert sum(part["n"] * part["accuracy"] for part in parts) == pytest.approx(test["n"] * test["accuracy"], abs=1e-3)
    assert siblings["layout"] is None  # the names are counters


def results(right: list[bool]) -> figures.Results:
    predicted = np.array([int(not one) for one in right])
    return figures.Results(
        ["a", "b"],
        "multiclass",
        make_rule("multiclass", ["a", "b"], None, None),
        np.zeros(len(right), int),
        np.eye(2)[predicted],
        predicted,
    )


def test_what_leans_on_siblings_is_said_with_its_interval():
    right = [True] * 90 + [True] * 6 + [False] * 4
    mask = np.arange(100) < 90
    found = sibling_figures(results(right), mask)
    assert (found["with"]["n"], found["with"]["accuracy"]) == (90, 1.0)
    assert (found["without"]["n"], found["without"]["accuracy"]) == (10, 0.6)
    assert found["sentence"] == (
        "accuracy 96.0 % overall, 60.0 % (31.3 to 83.2) on the 10 of 100 test images without a sibling in train"
    )
    assert sibling_figures(results(right), ~mask)["without"]["n"] == 90
    assert "no test image has a sibling" in sibling_figures(results(right), np.zeros(100, bool))["sentence"]
    assert "every test image has a sibling" in sibling_figures(results(right), np.ones(100, bool))["sentence"]


def test_a_probe_says_what_siblings_are_worth_where_every_test_image_has_one():
    """Classes are noise; only the object is recognised, so nothing is left on objects that are new."""
    rng = np.random.default_rng(0)
    track = np.repeat(np.arange(60), 4)
    x = rng.normal(size=(60, 48))[track] + 0.2 * rng.normal(size=(240, 48))
    y = rng.integers(0, 2, 60)[track]
    found = unseen_groups(x.astype(np.float16), y, ["a", "b"], track.astype(str).astype(object))
    assert found["divided"] > 0.9
    assert found["whole"] < 0.7
    assert found["whole_low"] <= found["whole"] <= found["whole_high"]


def test_report_plots_and_csv_files_agree_with_the_metrics(evaluated):
    folder = evaluated.root / "artifacts/evaluate"
    report = json.loads((folder / "report.json").read_text())
    assert [row["class"] for row in report["classes"]] == CLASSES
    assert all(row["train"] >= 20 for row in report["classes"])
    recall = np.mean([row["recall"] for row in report["classes"]])
    if evaluated.task == "multiclass":
        assert recall == pytest.approx(evaluated.metrics["test"]["balanced_accuracy"], abs=1e-5)
    with open(folder / "confusion.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    right = sum(pair["actual"] == pair["predicted"] for pair in pairs)
    if evaluated.task == "multiclass":
        assert right / len(pairs) == pytest.approx(evaluated.metrics["test"]["accuracy"], abs=1e-5)
    wrong = sum(entry["images"] for entry in report["confusions"])
    assert wrong == len(pairs) - right
    with open(folder / "reliability.csv", newline="") as file:
        bins = list(csv.DictReader(file))
    events = evaluated.metrics["test"]["n"] * (len(CLASSES) if evaluated.task == "multilabel" else 1)
    assert sum(int(row["count"]) for row in bins) == events
    names = {"reliability", "confusion", "precision_recall", "per_class", "worst"}
    assert {file.stem for file in (folder / "plots").iterdir()} == names
    for file in (folder / "plots").iterdir():
        Image.open(file).load()


def test_a_second_run_writes_the_same_bytes_to_new_files(evaluated):
    """DVC's cache hardlinks outputs: the old file must stay as it is."""
    folder = evaluated.root / "artifacts/evaluate"
    before = {file.relative_to(folder): sha256_file(file) for file in folder.rglob("*.*") if file.is_file()}
    kept = evaluated.root / "kept.parquet"
    kept.unlink(missing_ok=True)
    os.link(folder / "predictions.parquet", kept)
    stage.run(evaluated.root, images=evaluated.params.images, embed=evaluated.params.embed, evaluate=SETTINGS)
    after = {file.relative_to(folder): sha256_file(file) for file in folder.rglob("*.*") if file.is_file()}
    assert before == after
    assert not os.path.samefile(kept, folder / "predictions.parquet")
    again = json.loads((evaluated.root / "metrics/evaluate.json").read_text())
    assert again | {"latency_ms": None} == evaluated.metrics | {"latency_ms": None}


def test_the_gate_judges_what_evaluate_wrote(evaluated):
    """First model: promoted. The same model against itself, with its own corruption figures: held."""
    table, metrics = evaluated.table, evaluated.metrics
    trial = Trial(CLASSES, evaluated.task, dict.fromkeys(CLASSES, 20), "hard-1")
    challenger = Contender("c", table, metrics)
    policy = GateParams(resamples=200, max_ece=1, max_latency_ms=10_000, min_corruption_kept=0)
    first = judge(challenger, None, trial, policy)
    assert first.outcome == "promote", first.sentence
    bundle = evaluated.root / "artifacts/bundle"
    champion = gate_champion.champion_metrics(evaluated.root, bundle, table, classes=CLASSES, evaluate=SETTINGS)
    assert champion["corruptions"] == metrics["corruptions"]
    again = judge(challenger, Contender("v1", table, champion), trial, policy)
    assert again.outcome == "hold", again.sentence
    names = {check.name for check in again.checks}
    assert {"corruptions.blur.accuracy", "small_slices.balanced_accuracy", "hard.balanced_accuracy"} <= names


def test_a_champion_with_costs_is_measured_by_its_own_answers(evaluated, tmp_path):
    if evaluated.task == "multilabel":
        return
    bundle = shutil.copytree(evaluated.root / "artifacts/bundle", tmp_path / "bundle")
    about = json.loads((bundle / "bundle.json").read_text())
    del about["weights"]  # as bundles of before had none
    (bundle / "bundle.json").write_text(json.dumps(about))
    options = {"classes": CLASSES, "evaluate": SETTINGS}
    plain = gate_champion.champion_metrics(evaluated.root, bundle, evaluated.table, **options)
    assert plain["corruptions"] == evaluated.metrics["corruptions"]
    (bundle / "bundle.json").write_text(json.dumps(about | {"weights": {CLASSES[0]: 1e9}}))
    found = gate_champion.champion_metrics(evaluated.root, bundle, evaluated.table, **options)
    assert found["weights"] == {CLASSES[0]: 1e9, CLASSES[1]: 1.0, CLASSES[2]: 1.0}
    test = evaluated.table.filter(pa.compute.equal(evaluated.table["split"], "test")).sort_by("id").slice(0, 20)
    always = test["label"].to_pylist().count(CLASSES[0]) / 20  # the share that is right of "always the first class"
    assert [one["accuracy"] for one in found["corruptions"].values()] == pytest.approx([always] * len(CORRUPTIONS))


def test_corruptions_are_compared_where_a_class_of_the_champion_was_split(evaluated, tmp_path):
    bundle = shutil.copytree(evaluated.root / "artifacts/bundle", tmp_path / "bundle")
    about = json.loads((bundle / "bundle.json").read_text())
    old, thresholds = ["Whole", *about["classes"][1:]], about["thresholds"]
    about |= {"classes": old, "thresholds": dict(zip(old, thresholds.values(), strict=True))}
    (bundle / "bundle.json").write_text(json.dumps(about))
    split = Change(number=1, kind="split", old=["Whole"], new=about["classes"][1:2] + CLASSES[:1], **WHO)
    options = {"classes": CLASSES, "evaluate": SETTINGS, "taxonomy": compose([split])}
    found = gate_champion.champion_metrics(evaluated.root, bundle, evaluated.table, **options)["corruptions"]
    assert {name: one["n"] for name, one in found.items()} == {
        name: one["n"] for name, one in evaluated.metrics["corruptions"].items()
    }
    if evaluated.task == "multiclass":  # the same model: only where the third class lies between the parts it differs
        for name, one in found.items():
            assert one["accuracy"] == pytest.approx(evaluated.metrics["corruptions"][name]["accuracy"], abs=0.15)
    about["preprocess"]["resolution"] += 8
    (bundle / "bundle.json").write_text(json.dumps(about))
    assert gate_champion.champion_metrics(evaluated.root, bundle, evaluated.table, **options)["corruptions"] == {}


def test_a_corrected_label_counts_for_the_champion_too(evaluated, tmp_path):
    """Its figures are cached: not across a change of labels."""
    if evaluated.task == "multilabel":
        return
    root = shutil.copytree(evaluated.root, tmp_path / "project")
    bundle, table = root / "artifacts/bundle", evaluated.table
    settings = evaluated.params.model_copy(update={"evaluate": SETTINGS})

    def seen(labels: list[str]) -> list[str]:
        asked = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
        return gate_champion.champion_evidence(root, bundle, asked, CLASSES, settings)[0]["label"].to_pylist()

    given = table["label"].to_pylist()
    corrected = [next(name for name in CLASSES if name != given[0]), *given[1:]]
    assert seen(given) == given
    assert seen(corrected) == corrected


def test_another_head_or_stale_pixels_show_as_lost_parity(evaluated, tmp_path):
    if evaluated.task == "multilabel":
        return
    from safetensors.numpy import load_file, save_file

    root = tmp_path / "project"
    shutil.copytree(evaluated.root, root)
    head = root / "artifacts/train_head/head.safetensors"
    tensors = load_file(head)
    head.unlink()
    save_file({"weight": tensors["weight"][::-1].copy(), "bias": tensors["bias"]}, head)
    stage.run(root, images=evaluated.params.images, embed=evaluated.params.embed, evaluate=SETTINGS)
    assert json.loads((root / "metrics/evaluate.json").read_text())["parity"]["max_difference"] > 0.1

    head.unlink()
    save_file(tensors, head)
    for cached in list((root / ".evergreen/cache/pixels").rglob("*.npy")):
        turned = np.load(cached)[:, ::-1].copy()
        with sealed_path(cached) as temporary, open(temporary, "wb") as file:
            np.save(file, turned)
    stage.run(root, images=evaluated.params.images, embed=evaluated.params.embed, evaluate=SETTINGS)
    assert json.loads((root / "metrics/evaluate.json").read_text())["parity"]["max_difference"] > 0.01


def test_a_project_without_test_images_is_refused(evaluated, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(evaluated.root, root)
    for path in ("artifacts/validate/accepted.parquet", "artifacts/clean/labels.parquet"):
        table = pq.read_table(root / path)
        split = ["train" if value == "test" else value for value in table["split"].to_pylist()]
        (root / path).unlink()
        pq.write_table(replace(table, "split", split), root / path)
    with pytest.raises(DataError, match="test split has no labelled image"):
        stage.run(root, images=evaluated.params.images, embed=evaluated.params.embed, evaluate=SETTINGS)


def test_a_model_that_diverged_is_refused(tmp_path):
    from tasks.inference.ood import scores as ood

    about, tensors, _ = ood.fit("energy", None, np.ones((3, 2)), np.ones((3, 2)), 0.02, "multiclass")
    from safetensors.numpy import save_file

    (tmp_path / "artifacts/calibrate").mkdir(parents=True)
    save_file(tensors, tmp_path / "artifacts/calibrate/ood.safetensors")

    class Pixels:
        def batches(self, size):
            yield slice(0, 3), np.zeros((3, 8, 8, 3), np.uint8)

    broken = SimpleNamespace(
        probabilities=np.array([[1, 0], [np.nan, np.nan], [0, 1]]), logits=np.ones((3, 2)), features=np.ones((3, 2))
    )
    with pytest.raises(EvergreenError, match="1 of 3 images are not finite"):
        stage._predict(tmp_path, lambda block: broken, Pixels(), {"ood": about})


# --- parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_repeatable_and_does_something(name):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    before = pixels.copy()
    first, second = (corrupt(name, pixels, "ab" * 32) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(pixels, before)
    assert np.abs(first.astype(int) - pixels).mean() > 2


@pytest.mark.parametrize("side", [40, 80])
def test_motion_blur_spreads_a_point_along_a_line_of_a_tenth_of_the_side(side):
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[side // 2, side // 2] = 240
    blurred = corrupt("motion_blur", pixels, "ab" * 32)[:, :, 0].astype(int)
    rows, columns = np.nonzero(blurred)
    assert blurred.sum() == pytest.approx(240, abs=side // 10)
    assert max(np.ptp(rows), np.ptp(columns)) in (side // 10 - 2, side // 10 - 1), "0.7 of it, if it runs diagonally"
    assert len(rows) >= max(np.ptp(rows), np.ptp(columns)) + 1, "without a gap"
    others = [np.nonzero(corrupt("motion_blur", pixels, f"{name:02x}" * 32)[:, :, 0]) for name in range(8)]
    assert len({(tuple(a), tuple(b)) for a, b in others}) > 3, "each image has a direction of its own"
    flat = np.full((side, side, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt("motion_blur", flat, "ab" * 32), flat)


def test_occlusion_hides_one_grey_square_of_two_fifths_of_the_side():
    pixels = np.zeros((50, 50, 3), np.uint8)
    places = set()
    for name in range(8):
        hidden = corrupt("occlusion", pixels, f"{name:02x}" * 32)
        rows, columns, _ = np.nonzero(hidden)
        assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == 20
        assert (hidden == 128).sum() == 20 * 20 * 3
        places.add((rows.min(), columns.min()))
    assert len(places) == 8


def test_noise_is_an_images_own():
    grey = np.full((32, 32, 3), 128, np.uint8)
    one, other = corrupt("noise", grey, "ab" * 32), corrupt("noise", grey, "cd" * 32)
    assert (one != other).mean() > 0.9
    assert one.std() == pytest.approx(20, abs=1)


def test_figures_are_json_whatever_is_undefined():
    tidy = figures.tidy({"a": np.float32(0.1234567), "b": [np.nan, np.int64(3)], "c": np.array([1.0, np.nan])})
    assert tidy == {"a": 0.123457, "b": [None, 3], "c": [1.0, None]}
    targets, probabilities = np.array([0, 0]), np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    json.dumps(
        figures.overall(targets, probabilities, make_rule("multiclass", list("abc"), None, None)), allow_nan=False
    )
    rows = figures.by_class(targets, np.array([0, 1]), probabilities, ["a", "b", "c"], [200, 50, 3], 100, 20)
    assert [row["shot"] for row in rows] == ["many", "medium", "few"]
    assert rows[2]["recall"] is None
    assert figures.by_shot(rows) == {"many": {"classes": 1, "recall": 0.5}, "medium": None, "few": None}


def test_shots_split_at_the_given_numbers():
    assert [figures.shot(n, 100, 20) for n in (101, 100, 20, 19, 0)] == ["many", "medium", "medium", "few", "few"]
