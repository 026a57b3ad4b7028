"""A bundle's reference as monitoring reads it."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from monitoring.drift.reference import load
from tasks.releases.bundle import BundleDamaged, digest
from tests.support.small_project import finished_project


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_bundles_reference_answers_as_its_model_serves(task, tmp_path):
    folder = finished_project(task) / "artifacts/bundle"
    table = pq.read_table(folder / "reference.parquet")
    found = load(folder, tmp_path)
    assert len(found) == len(table) == 40
    assert (found.digest, found.task) == (digest(folder), task)
    assert found.arrays.ids.tolist() == table["id"].to_pylist()
    assert found.arrays.features.shape == (40, 1280)
    assert np.allclose(found.arrays.probabilities, np.array(table["probabilities"].to_pylist()))
    from serving.predictor import Predictor

    predictor = Predictor(folder)
    assert found.ood_threshold == predictor.about["ood"]["threshold"]
    correct = found.correct
    assert np.isfinite(correct).all()
    if task == "multiclass":
        said = [found.classes[k] for k in found.arrays.probabilities.argmax(axis=1)]
        assert correct.tolist() == [float(a == b) for a, b in zip(said, table["label"].to_pylist(), strict=True)]
        assert np.allclose(found.arrays.numbers["confidence"], found.arrays.probabilities.max(axis=1))
    else:
        assert found.arrays.predicted.shape == (40, 4)  # the last column: no label at all


def test_a_folder_without_a_readable_reference_is_named(tmp_path):
    with pytest.raises(BundleDamaged, match="holds no bundle"):
        load(tmp_path, tmp_path)
    folder = tmp_path / "bundle"
    shutil.copytree(finished_project("multiclass") / "artifacts/bundle", folder)
    (folder / "reference.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(BundleDamaged, match=r"reference.parquet cannot be read"):
        load(folder, tmp_path)
