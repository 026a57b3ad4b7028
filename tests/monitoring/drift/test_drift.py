"""Measuring a window: what moved is found, what did not is quiet, and broken values are neither hidden nor fatal."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, mannwhitneyu

from monitoring.contracts import Finding, Measures
from monitoring.drift import accuracy, calibration, distances, domain_classifier, label_shift, wording
from monitoring.drift.reference import from_table
from monitoring.drift.window import measure_window
from monitoring.log.schema import log_schema
from tasks.common.params import DriftParams
from tasks.releases import reference as releases_reference
from tests.support import drift_rows
from tests.support.drift_rows import CLASSES, WINDOW, D, a_reference, window

PARAMS = DriftParams(resamples=400)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return a_reference(tmp_path_factory.mktemp("drift"))


def found(measures: Measures, name: str) -> Finding:
    (finding,) = (finding for finding in measures.findings if finding.name == name)
    return finding


def drifted(measures: Measures) -> set[str]:
    return {finding.name for finding in measures.drifted()}


# --- distances


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_the_ks_distance_is_scipys_with_and_without_ties(a, b):
    a, b = np.array(a, float), np.array(b, float)
    assert distances.ks(a, np.sort(b)) == pytest.approx(ks_2samp(a, b, method="asymp").statistic)
    rng = np.random.default_rng(len(a))
    c, d = rng.normal(size=len(a)), rng.normal(size=len(b))
    assert distances.ks(c, np.sort(d)) == pytest.approx(ks_2samp(c, d, method="asymp").statistic)


def test_distances_of_many_splits_are_those_of_each():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, 60).astype(float)
    values[:5] = np.nan
    chosen = rng.random((8, 60)) < 0.4
    gaps, sizes = distances.ks_splits(values, chosen)
    for row in range(8):
        inside, outside = (v[np.isfinite(v)] for v in (values[chosen[row]], values[~chosen[row]]))
        assert gaps[row] == pytest.approx(ks_2samp(inside, outside).statistic)
        assert sizes[row] == pytest.approx(len(inside) * len(outside) / (len(inside) + len(outside)))


def test_thresholds_are_the_inverse_of_the_probabilities():
    for p in (0.5, 0.01, 1e-5):
        assert distances.ks_p(distances.ks_at(p, 150.0), 150.0) == pytest.approx(p, rel=1e-6)
        assert distances.mean_p(distances.mean_at(p, 150.0, 5), 150.0, 5) == pytest.approx(p, rel=1e-6)
        assert distances.psi_p(distances.psi_at(p, 150.0, 5), 150.0, 5) == pytest.approx(p, rel=1e-6)
        assert calibration.embedding_p(calibration.embedding_at(p)) == pytest.approx(p, rel=1e-6)


def test_an_empty_category_is_no_infinity():
    assert np.isfinite(distances.psi(np.array([0, 9]), np.array([9, 0])))
    assert distances.psi(np.array([3, 9]), np.array([3, 9])) == 0
    assert distances.kl(np.array([8, 1]), np.array([1, 8])) > 0


# --- embedding


def test_out_of_fold_areas_are_those_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    scores, fold = rng.integers(0, 9, (50, 3)).astype(float), np.zeros(50, int)
    chosen = rng.random((50, 3)) < 0.4
    area, z = domain_classifier.surprise(scores, fold, chosen)
    for k in range(3):
        inside, outside = scores[chosen[:, k], k], scores[~chosen[:, k], k]
        assert area[k] == pytest.approx(mannwhitneyu(inside, outside).statistic / len(inside) / len(outside))
    assert np.allclose(z, (area - 0.5) / domain_classifier.error(chosen.sum(axis=0), (~chosen).sum(axis=0)))


def test_features_of_high_dimension_are_told_apart_only_where_they_differ():
    rng = np.random.default_rng(0)
    base, same = rng.normal(size=(300, 400)), rng.normal(size=(200, 400))
    other = same + 0.3 * (np.arange(400) < 60)
    inside = (np.arange(500) < 200)[:, None]
    areas = []
    for side in (same, other):
        x = np.vstack(domain_classifier.project(side, base))
        fold = domain_classifier.folds(500, rng)
        areas.append(domain_classifier.surprise(domain_classifier.out_of_fold(x, fold, inside), fold, inside)[0][0])
    assert abs(areas[0] - 0.5) < 0.1 < 0.2 < areas[1] - 0.5


def test_one_wild_row_does_not_blind_the_classifier(reference):
    def wild(columns):
        columns["features"][0] = np.full(D, 1e30)

    assert "embedding" in drifted(measure_window(window(moved=0.5, change=wild), WINDOW, reference, PARAMS))


# --- windows


def test_a_window_like_the_reference_is_quiet_and_everything_is_measured(reference):
    measures = measure_window(window(), WINDOW, reference, PARAMS)
    assert not measures.drifted()
    assert not [finding for finding in measures.findings if finding.status == "error"]
    names = {finding.name for finding in measures.findings}
    assert names >= {
        "image.brightness", "image.contrast", "image.sharpness", "image.entropy", "image.width", "image.height",
        "image.format", "image.mode", "image.exif_orientation", "prediction.mix", "prediction.probabilities",
        "prediction.mean", "confidence", "ood", "ood.rate", "embedding", "missing.image", "missing.features",
        "accuracy.estimated", "accuracy.reference", "label.shift",
    }  # fmt: skip
    assert sum(measures.mix.values()) == pytest.approx(1)
    assert list(measures.mix) == CLASSES
    assert measures.window.used == 200
    judged = [finding for finding in measures.findings if finding.status == "ok"]
    assert all(finding.threshold > 0 for finding in judged)
    assert all(finding.value <= finding.threshold for finding in judged)
    json.loads(measures.model_dump_json())


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"dark": 0.8}, {"image.brightness"}),
        ({"priors": (0.1, 0.3, 0.2, 0.4)}, {"prediction.mix"}),
        ({"moved": 0.6}, {"embedding", "ood"}),
    ],
)
def test_what_moved_is_found(reference, how, names):
    for seed in range(3):
        measures = measure_window(window(seed=seed, **how), WINDOW, reference, PARAMS)
        assert names <= drifted(measures)
        for finding in measures.drifted():
            assert finding.value > finding.threshold
            assert finding.p_value <= 0.01


def test_a_changed_camera_is_found_by_its_format(reference):
    def camera(columns):
        columns["format"] = ["PNG"] * 60 + ["JPEG"] * 140

    finding = found(measure_window(window(change=camera), WINDOW, reference, PARAMS), "image.format")
    assert finding.status == "drifted"
    assert "'PNG' is new (30 %, was 0 %)" in finding.detail
    one = measure_window(window(change=lambda c: c["format"].__setitem__(0, "PNG")), WINDOW, reference, PARAMS)
    assert found(one, "image.format").status == "ok"


def test_false_alarms_keep_to_their_rate_over_many_references(tmp_path):
    """The rate holds over references as well: 5 % asked, 8 references x 25 windows, of both sizes."""
    params = DriftParams(resamples=300, false_alarm_rate=0.05)
    alarms = 0
    for seed in range(8):
        one = a_reference(tmp_path, 120, seed)
        for draw in range(25):
            rows = 40 if draw % 2 else 400
            alarms += bool(measure_window(window(rows, 100 * seed + draw), WINDOW, one, params).drifted())
    assert alarms <= 22  # 10 expected; more than 22 has a chance under 1 in 1,000 were windows independent


def test_measuring_again_gives_the_same_and_reads_the_calibration_from_the_cache(reference):
    rows = window()
    first = measure_window(rows, WINDOW, reference, PARAMS)
    files = {file: file.stat().st_mtime_ns for file in reference.cache.rglob("*.npz")}
    assert files
    assert measure_window(rows, WINDOW, reference, PARAMS) == first
    assert {file: file.stat().st_mtime_ns for file in reference.cache.rglob("*.npz")} == files
    for file in files:
        file.write_bytes(b"torn")
    assert measure_window(rows, WINDOW, reference, PARAMS) == first


def test_a_large_window_is_compared_with_as_many_rows_as_the_reference_has(reference):
    measures = measure_window(window(2000), WINDOW, reference, PARAMS)
    assert measures.window.used == 300
    assert not measures.drifted()


def test_the_same_image_again_is_one_sample(reference):
    rows = window(100)
    repeated = pa.concat_tables([rows, rows.take([0] * 900)])
    measures = measure_window(repeated, WINDOW, reference, PARAMS)
    assert found(measures, "repeats").value == pytest.approx(0.9)
    assert (measures.window.used, measures.drifted()) == (100, [])


def test_slow_drift_does_not_hide_in_the_window_before(reference):
    """Two per cent darker with each window: no window differs much from the one before it."""
    names = [drifted(measure_window(window(seed=n, dark=1 - 0.02 * n), WINDOW, reference, PARAMS)) for n in range(12)]
    assert not any("image.brightness" in found for found in names[:2])
    assert all("image.brightness" in found for found in names[8:])


def test_a_multi_label_model_is_measured_by_its_labels(tmp_path):
    def lists(columns):
        columns["label"] = [[label] if label != "Coat" else [] for label in columns["label"]]
        columns["prediction"] = [["Bag", label] if label == "Shirt" else [] for label in columns["prediction"]]

    def rows(count, seed, schema):
        made = drift_rows.columns(count, np.random.default_rng(seed))
        lists(made)
        return drift_rows.table(made, schema)

    about = drift_rows.ABOUT | {"task": "multilabel"}
    one = from_table(rows(200, 0, releases_reference.schema("multilabel")), about, "multi", tmp_path)
    assert 0 < np.nanmean(one.correct) < 1
    measures = measure_window(rows(200, 1, log_schema("multilabel")), WINDOW, one, PARAMS)
    assert not [finding for finding in measures.findings if finding.status == "error"]
    assert list(measures.mix) == [*CLASSES, "(none)"]
    assert measures.mix["Bag"] == measures.mix["Shirt"] > 0
    assert "prediction.mix" in drifted(measures)  # the answers above are not those of the thresholds


def test_many_classes_cost_seconds_not_minutes(tmp_path):
    names = [f"class {k}" for k in range(300)]
    rng = np.random.default_rng(0)

    def rows(count, schema):
        made = drift_rows.columns(count, rng)
        made["probabilities"] = list(rng.dirichlet(np.full(300, 0.02), count))
        made["confidence"] = [p.max() for p in made["probabilities"]]
        made["prediction"] = made["label"] = [names[int(p.argmax())] for p in made["probabilities"]]
        return drift_rows.table(made, schema)

    about = drift_rows.ABOUT | {"classes": names, "thresholds": dict.fromkeys(names, 0.5)}
    one = from_table(rows(200, releases_reference.schema("multiclass")), about, "many", tmp_path)
    measures = measure_window(rows(100, log_schema("multiclass")), WINDOW, one, PARAMS)
    assert not measures.drifted()
    assert "300 classes, 100 at most" in found(measures, "label.shift").detail


def test_the_sources_of_a_window_are_counted(reference):
    def name(columns):
        columns["source"] = ["a"] * 150 + ["b"] * 40 + [None] * 10

    finding = found(measure_window(window(change=name), WINDOW, reference, PARAMS), "sources")
    assert (finding.status, finding.value) == ("info", 2)
    assert "the largest sent 75 % of the images" in finding.detail
    assert not [f for f in measure_window(window(), WINDOW, reference, PARAMS).findings if f.name == "sources"]


# --- values that are not there


@pytest.mark.parametrize(
    ("column", "value"), [("ood", float("nan")), ("ood", float("inf")), ("brightness", None), ("confidence", None)]
)
def test_99_percent_missing_is_drift_and_costs_no_other_column(reference, column, value):
    def lose(columns):
        columns[column] = [value] * 198 + list(columns[column][198:])

    measures = measure_window(window(change=lose), WINDOW, reference, PARAMS)
    assert drifted(measures) == {f"missing.{column}"}
    assert "99 %" in found(measures, f"missing.{column}").detail
    lost = found(measures, column if column in ("ood", "confidence") else f"image.{column}")
    assert lost.status == "error"
    assert found(measures, "image.contrast").status == "ok"


@pytest.mark.parametrize("column", ["features", "probabilities", "prediction", "ood", "sharpness", "format"])
def test_a_column_without_any_value_never_kills_the_report(reference, column):
    def lose(columns):
        del columns[column]

    measures = measure_window(window(change=lose), WINDOW, reference, PARAMS)
    assert f"missing.{column}" in drifted(measures)
    assert found(measures, "image.contrast").status == "ok"
    json.loads(measures.model_dump_json())


def test_rows_of_another_length_or_with_a_nan_are_missing(reference):
    def break_rows(columns):
        columns["features"] = [row[:3] for row in columns["features"][:40]] + list(columns["features"][40:])
        columns["features"][50] = np.full(D, np.nan)
        columns["probabilities"][0] = None

    measures = measure_window(window(change=break_rows), WINDOW, reference, PARAMS)
    assert found(measures, "missing.features").value == pytest.approx(41 / 200)
    assert "0.5 % NaN or infinite" in found(measures, "missing.features").detail
    assert found(measures, "missing.features").status == "drifted"
    assert found(measures, "missing.probabilities").status == "ok"
    assert found(measures, "embedding").status == "ok"


def test_images_that_could_not_be_read_are_a_finding(reference):
    def broken(columns):
        columns["reason"] = ["truncated"] * 50 + [None] * 150
        for name in set(columns) - {"id", "at", "reason"}:
            columns[name] = [None] * 50 + list(columns[name][50:])

    measures = measure_window(window(change=broken), WINDOW, reference, PARAMS)
    assert drifted(measures) == {"missing.image"}
    assert found(measures, "missing.image").detail.startswith("25 % of images could not be read")
    assert found(measures, "missing.ood").value == 0


def test_windows_too_small_to_compare_say_so(reference):
    for rows in (0, 1, 9):
        measures = measure_window(window(rows), WINDOW, reference, PARAMS)
        assert found(measures, "rows").status == "error"
        assert not measures.drifted()
        json.loads(measures.model_dump_json())


# --- reported


def test_late_labels_give_the_true_accuracy(reference):
    rows = window(1000)
    answers = rows["prediction"].to_pylist()
    wrong = ["Bag" if answer != "Bag" else "Coat" for answer in answers[:30]]
    labels = pa.table({"id": [*rows["id"].to_pylist()[:100], "f" * 64], "label": [*wrong, *answers[30:100], "Bag"]})
    finding = found(measure_window(rows, WINDOW, reference, PARAMS, labels), "accuracy.true")
    assert finding.value == pytest.approx(0.7)
    assert finding.low < 0.7 < finding.high
    assert finding.detail == "70 of 100 answers with a late label are right"
    nothing = measure_window(rows, WINDOW, reference, PARAMS, labels.slice(100))
    assert not [f for f in nothing.findings if f.name == "accuracy.true"]


def test_the_estimated_accuracy_follows_the_confidence():
    rng = np.random.default_rng(0)
    for mean in (0.7, 0.9):
        reference_confidence = rng.beta(9, 1, 1000)
        confidence = rng.beta(20 * mean, 20 * (1 - mean), 2000)
        correct = (rng.random(1000) < reference_confidence).astype(float)
        value, low, high = accuracy.estimate_accuracy(confidence, reference_confidence, correct)
        assert low <= mean <= high
        assert low <= value <= high
    value, low, high = accuracy.estimate_accuracy(np.array([0.5]), np.ones(10), np.ones(10))
    assert 0 <= low <= value <= high <= 1


def test_wilsons_interval_stays_inside():
    assert accuracy.measure_accuracy(10, 10)[1:] == (pytest.approx(0.7225, abs=1e-3), 1.0)
    assert accuracy.measure_accuracy(0, 10)[1] == pytest.approx(0, abs=1e-9)


def test_the_shifted_mix_of_classes_is_estimated(reference):
    finding = found(measure_window(window(priors=(0.1, 0.3, 0.2, 0.4)), WINDOW, reference, PARAMS), "label.shift")
    assert finding.value == pytest.approx(0.3, abs=0.1)
    assert finding.low < 0.3 < finding.high
    quiet = found(measure_window(window(), WINDOW, reference, PARAMS), "label.shift")
    assert quiet.value < 0.12


def test_a_class_without_reference_rows_costs_the_estimate_nothing():
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=bool)[rng.integers(0, 2, 100)]
    p = 0.8 * labels + 0.1
    new = label_shift.estimate_priors(p[:20], p, labels)
    assert new[2] == 0
    assert new.sum() == pytest.approx(1)


# --- examples and words


def test_the_rows_that_moved_come_first_and_typical_ones_are_of_every_class(reference):
    strange = window(20, seed=7, moved=2.0)
    rows = pa.concat_tables([window(180), strange])
    measures = measure_window(rows, WINDOW, reference, PARAMS)
    assert len(set(measures.moved[:15]) & set(strange["id"].to_pylist())) >= 10  # one in ten by chance
    assert len(set(measures.typical)) == len(measures.typical) == 50
    predicted = dict(
        zip(reference.arrays.ids.tolist(), reference.arrays.predicted.argmax(axis=1).tolist(), strict=True)
    )
    assert {predicted[id_] for id_ in measures.typical[:4]} == {0, 1, 2, 3}


def test_words_say_what_moved_and_by_how_much():
    dark, before = np.full(9, 92.0), np.full(9, 133.0)
    assert wording.describe_numbers("brightness", dark, before) == "images are 31 % darker (median 92, was 133)"
    assert wording.describe_numbers("confidence", np.full(3, 0.71), np.full(3, 0.93)).startswith(
        "the model is less certain"
    )
    assert "spread differently" in wording.describe_numbers("width", np.array([1.0, 5, 9]), np.array([4.0, 5, 6]))
    mixed = wording.describe_shares(["Bag", "Coat"], np.array([0.2, 0.8]), np.array([0.1, 0.9]))
    assert mixed.startswith("'Bag' is 2x as common (20 %, was 10 %)")
    assert wording.quoted("a\nb" + "x" * 50) == "'a b" + "x" * 36 + "…'"
