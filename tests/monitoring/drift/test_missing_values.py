"""Missing and broken values are findings and never stop the other measures."""

import json

import numpy as np
import pytest

from monitoring.drift.window import measure_window
from tests.support.drift_rows import PARAMS, WINDOW, D, drifted_names, finding, window


@pytest.mark.parametrize(
    ("column", "value"), [("ood", float("nan")), ("ood", float("inf")), ("brightness", None), ("confidence", None)]
)
def test_99_percent_missing_is_drift_and_does_not_affect_other_columns(reference, column, value):
    def lose(columns):
        columns[column] = [value] * 198 + list(columns[column][198:])

    measures = measure_window(window(change=lose), WINDOW, reference, PARAMS)
    assert drifted_names(measures) == {f"missing.{column}"}
    assert "99 %" in finding(measures, f"missing.{column}").detail
    lost = finding(measures, column if column in ("ood", "confidence") else f"image.{column}")
    assert lost.status == "error"
    assert finding(measures, "image.contrast").status == "ok"


@pytest.mark.parametrize("column", ["features", "probabilities", "prediction", "ood", "sharpness", "format"])
def test_a_column_without_any_value_does_not_stop_the_measures(reference, column):
    def lose(columns):
        del columns[column]

    measures = measure_window(window(change=lose), WINDOW, reference, PARAMS)
    assert f"missing.{column}" in drifted_names(measures)
    assert finding(measures, "image.contrast").status == "ok"
    json.loads(measures.model_dump_json())


def test_rows_of_another_length_or_with_a_nan_are_missing(reference):
    def break_rows(columns):
        columns["features"] = [row[:3] for row in columns["features"][:40]] + list(columns["features"][40:])
        columns["features"][50] = np.full(D, np.nan)
        columns["probabilities"][0] = None

    measures = measure_window(window(change=break_rows), WINDOW, reference, PARAMS)
    assert finding(measures, "missing.features").value == pytest.approx(41 / 200)
    assert "0.5 % NaN or infinite" in finding(measures, "missing.features").detail
    assert finding(measures, "missing.features").status == "drifted"
    assert finding(measures, "missing.probabilities").status == "ok"
    assert finding(measures, "embedding").status == "ok"


def test_images_that_could_not_be_read_are_a_finding(reference):
    def broken(columns):
        columns["reason"] = ["truncated"] * 50 + [None] * 150
        for name in set(columns) - {"id", "at", "reason"}:
            columns[name] = [None] * 50 + list(columns[name][50:])

    measures = measure_window(window(change=broken), WINDOW, reference, PARAMS)
    assert drifted_names(measures) == {"missing.image"}
    assert finding(measures, "missing.image").detail.startswith("25 % of images could not be read")
    assert finding(measures, "missing.ood").value == 0


def test_a_window_that_is_too_small_is_an_error(reference):
    for rows in (0, 1, 9):
        measures = measure_window(window(rows), WINDOW, reference, PARAMS)
        assert finding(measures, "rows").status == "error"
        assert not measures.drifted()
        json.loads(measures.model_dump_json())
