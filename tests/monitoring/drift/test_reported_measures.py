"""Accuracy, label shift, example images and the words of findings."""

import numpy as np
import pyarrow as pa
import pytest

from monitoring.drift import accuracy, label_shift, wording
from monitoring.drift.reference import answered, from_table
from monitoring.drift.window import measure_window
from monitoring.live.labels import Truth, with_truth
from tests.support import drift_windows
from tests.support.drift_rows import PARAMS, WINDOW, finding, window


def labelled(rows: pa.Table, wrong: int, right: int, chance: float | None = None, hard: bool = False) -> pa.Table:
    """The first `wrong` + `right` answers with a label that says so."""
    count = wrong + right
    answers = rows["prediction"].to_pylist()[:count]
    truth = [("Bag" if answer != "Bag" else "Coat") if n < wrong else answer for n, answer in enumerate(answers)]
    known = {
        name: Truth(label, chance, hard) for name, label in zip(rows["id"].to_pylist()[:count], truth, strict=True)
    }
    return with_truth(rows, known)


def test_late_labels_give_the_true_accuracy(reference):
    rows = window(1000)
    given = labelled(rows, 30, 70)
    found = finding(measure_window(rows, WINDOW, reference, PARAMS, given), "accuracy.true")
    assert found.value == pytest.approx(0.7)
    assert found.low < 0.7 < found.high
    assert found.detail == "70 of 100 answers with a late label are right"
    nothing = measure_window(rows, WINDOW, reference, PARAMS, given.slice(100))
    assert not [f for f in nothing.findings if f.name == "accuracy.true"]


def test_labels_that_were_asked_for_at_random_estimate_the_accuracy_of_the_whole_window(reference):
    rows = window(1000)
    audit = labelled(rows, 30, 70, chance=0.1)
    hard = labelled(rows.slice(100), 100, 0, hard=True)
    found = finding(measure_window(rows, WINDOW, reference, PARAMS, pa.concat_tables([audit, hard])), "accuracy.true")
    assert found.value == pytest.approx(0.7, abs=0.03)
    assert found.low < 0.7 < found.high
    assert found.detail == "estimated from 100 labels that were asked for at random, of 1000 answers"


def test_labels_of_images_picked_for_being_hard_say_nothing_about_the_others(reference):
    rows = window(1000)
    hard, fed_back = labelled(rows, 50, 0, hard=True), labelled(rows.slice(50), 2, 18)
    both = measure_window(rows, WINDOW, reference, PARAMS, pa.concat_tables([hard, fed_back]))
    found = finding(both, "accuracy.true")
    assert found.value == pytest.approx(0.9)
    assert found.detail == (
        "18 of 20 answers with a late label are right; 50 that were picked for being hard do not count"
    )
    only = measure_window(rows, WINDOW, reference, PARAMS, hard)
    assert not [f for f in only.findings if f.name == "accuracy.true"]
    every = measure_window(rows, WINDOW, reference, PARAMS, labelled(rows, 100, 900, hard=True))
    assert finding(every, "accuracy.true").detail == "1000 of 1000 answers have a label"


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
    found = finding(measure_window(window(priors=(0.1, 0.3, 0.2, 0.4)), WINDOW, reference, PARAMS), "label.shift")
    assert found.value == pytest.approx(0.3, abs=0.1)
    assert found.low < 0.3 < found.high
    quiet = finding(measure_window(window(), WINDOW, reference, PARAMS), "label.shift")
    assert quiet.value < 0.12


def test_a_class_without_reference_rows_does_not_affect_the_estimate():
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=bool)[rng.integers(0, 2, 100)]
    p = 0.8 * labels + 0.1
    new = label_shift.estimate_priors(p[:20], p, labels)
    assert new[2] == 0
    assert new.sum() == pytest.approx(1)


def test_drifted_rows_come_first_and_typical_ones_are_of_each_class(reference):
    strange = window(20, seed=7, moved=2.0)
    rows = pa.concat_tables([window(180), strange])
    measures = measure_window(rows, WINDOW, reference, PARAMS)
    assert len(set(measures.moved[:15]) & set(strange["id"].to_pylist())) >= 10  # one in ten by chance
    assert len(set(measures.typical)) == len(measures.typical) == 50
    predicted = dict(
        zip(reference.arrays.ids.tolist(), reference.arrays.predicted.argmax(axis=1).tolist(), strict=True)
    )
    assert {predicted[id_] for id_ in measures.typical[:4]} == {0, 1, 2, 3}


def test_the_wording_says_what_moved_and_by_how_much():
    dark, before = np.full(9, 92.0), np.full(9, 133.0)
    assert wording.describe_numbers("brightness", dark, before) == "images are 31 % darker (median 92, was 133)"
    assert wording.describe_numbers("confidence", np.full(3, 0.71), np.full(3, 0.93)).startswith(
        "the model is less certain"
    )
    assert "spread differently" in wording.describe_numbers("width", np.array([1.0, 5, 9]), np.array([4.0, 5, 6]))
    mixed = wording.describe_shares(["Bag", "Coat"], np.array([0.2, 0.8]), np.array([0.1, 0.9]))
    assert mixed.startswith("'Bag' is 2x as common (20 %, was 10 %)")
    rarer = wording.describe_shares(["Bag", "Coat"], np.array([0.1, 0.9]), np.array([0.2, 0.8]))
    assert rarer.startswith("'Bag' is 2x as rare (10 %, was 20 %)")
    assert wording.quoted("a\nb" + "x" * 50) == "'a b" + "x" * 36 + "…'"


def test_the_reference_is_answered_as_the_bundle_says(tmp_path):
    table = drift_windows.reference_table(rows=40)
    classes = drift_windows.CLASSES
    plain = {"classes": classes, "task": "multiclass", "thresholds": dict.fromkeys(classes, 0.5)}
    costly = plain | {"weights": {"Coat": 1e9}}
    p = np.array(table["probabilities"].to_pylist())
    weighted = [classes[k] for k in (p * np.where(np.array(classes) == "Coat", 1e9, 1)).argmax(axis=1)]
    assert weighted.count("Coat") > 30
    bare = table.drop_columns(["prediction", "confidence"])
    for about, said in ((plain, table["label"].to_pylist()), (costly, weighted)):
        shown = answered(bare, about)
        assert shown["prediction"].to_pylist() == said
        sure = p[np.arange(40), [classes.index(one) for one in said]]
        assert shown["confidence"].to_pylist() == pytest.approx(sure)
        measured = from_table(bare, about | {"ood": {"threshold": 9.0}}, "d" * 64, tmp_path)
        assert [classes[row.argmax()] for row in measured.arrays.predicted] == said
        assert measured.arrays.numbers["confidence"] == pytest.approx(sure)
    unknown = bare.set_column(
        bare.column_names.index("probabilities"), "probabilities", pa.nulls(40, pa.list_(pa.float32()))
    )
    assert answered(unknown, costly)["prediction"].null_count == 40
