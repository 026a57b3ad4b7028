"""The gate notices answers that are not of the published model, or not of the test and hard images."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.common.artifacts import ACCEPTED
from tasks.common.params import load_params
from tasks.dataset.pixels import pixel_table
from tasks.gate.shipped import bundle_difference, held_out_samples
from tasks.inference.onnx_model import OnnxModel
from tests.support.predictions import NEW, OLD, TARGETS, checks, measured, table, verdict
from tests.support.small_project import CLASSES, finished_project

SAMPLES = table(TARGETS, NEW).select(["id", "split", "label"])


def _judged(predictions=None, samples=SAMPLES, shipped=1e-6):
    predictions = table(TARGETS, NEW) if predictions is None else predictions
    live = table(TARGETS, OLD).take(pa.array(range(len(predictions))))
    return verdict(predictions, live, measured(TARGETS, NEW), samples=samples, shipped=shipped)


def test_answers_of_the_published_model_on_all_images_are_judged():
    found = _judged()
    assert found.outcome == "promote"
    assert checks(found)["bundle.max_difference"].status == "pass"


@pytest.mark.parametrize("shipped", [0.002, float("inf")])
def test_another_model_in_the_bundle_is_rejected(shipped):
    found = _judged(shipped=shipped)
    assert found.outcome == "reject"
    assert checks(found)["bundle.max_difference"].status == ("error" if np.isinf(shipped) else "fail")


def test_images_that_are_left_out_moved_or_relabelled_are_an_error():
    labels = [*SAMPLES["label"].to_pylist()[:-1], "Bag"]
    moved = ["hard", *SAMPLES["split"].to_pylist()[1:]]
    more = pa.concat_tables([SAMPLES, pa.table({"id": ["new"], "split": ["hard"], "label": ["Bag"]})])
    for samples in (
        SAMPLES.slice(1),
        SAMPLES.set_column(2, "label", pa.array(labels)),
        SAMPLES.set_column(1, "split", pa.array(moved)),
        more,
    ):
        found = _judged(samples=samples)
        assert found.outcome == "reject"
        assert checks(found)["images"].status == "error"
        assert "1 are missing, added, or have another split or label" in checks(found)["images"].detail


def test_the_bundles_own_model_is_asked_again(tmp_path):
    root = shutil.copytree(finished_project(), tmp_path / "main")
    samples = held_out_samples(root)
    assert set(samples["split"].to_pylist()) == {"test"}
    accepted = pq.read_table(root / ACCEPTED)
    rows = accepted.filter(pa.compute.equal(accepted["split"], "test"))
    pixels = pixel_table(root, rows, load_params(root / "params.yaml").images)[:]
    said = OnnxModel(root / "artifacts/bundle/model.onnx")(pixels).probabilities
    made = rows.append_column("probabilities", pa.array(list(said)))
    assert bundle_difference(root, made) < 1e-6
    other = said.copy()
    other[:, [0, 1]] = other[:, [1, 0]]
    expected = np.abs(said - other).max()
    assert bundle_difference(root, rows.append_column("probabilities", pa.array(list(other)))) == pytest.approx(
        expected
    )
    short = rows.append_column("probabilities", pa.array(list(said[:, : len(CLASSES) - 1])))
    assert bundle_difference(root, short) == np.inf
    unknown = made.set_column(made.schema.get_field_index("id"), "id", pa.array([f"x{n}" for n in range(len(made))]))
    assert bundle_difference(root, unknown) == np.inf
