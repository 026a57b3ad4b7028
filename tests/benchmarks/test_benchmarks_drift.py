"""The drift benchmarks measure what they claim, and a quick pass of each runs."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import drift_alarms, drift_power, fashion_windows, measure_speed, record
from benchmarks.calibration import fashion_script
from benchmarks.fashion_windows import IMAGE_SHIFTS
from benchmarks.scratch import FASHION
from tasks.common.errors import DataError
from tasks.dataset.decode import decode


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, list[str]]:
    table = pq.read_table(FASHION / "base.parquet", columns=["image", "label"])
    rows = table.take(np.random.default_rng(0).permutation(len(table))[:1400]).to_pylist()
    return np.stack([np.asarray(decode(row["image"]["bytes"], 10**6)) for row in rows]), [row["label"] for row in rows]


@pytest.fixture(scope="module")
def fashion_mnist(images, tmp_path_factory) -> Path:
    """A folder in the form of Fashion-MNIST, whose training part has the images of datasets/fashion."""
    folder, (pixels, names) = tmp_path_factory.mktemp("fashion-mnist"), images
    labels = np.array([fashion_script().CLASSES.index(name) for name in names], np.uint8)
    header = struct.pack(">IIII", 2051, len(pixels), 28, 28)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes(), 1))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header[:8] + labels.tobytes(), 1))
    return folder


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The folder for recorded figures, which a quick pass must leave empty."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    return tmp_path / "kept"


def test_every_shift_changes_images_more_with_its_strength(images):
    picture = images[0][0]
    for kind, (change, values) in IMAGE_SHIFTS.items():
        changed = [change(picture, value, 0) for value in values]
        assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in changed), kind
        gaps = [np.abs(one.astype(float) - picture).mean() for one in changed]
        assert 0 < gaps[0] < gaps[1] < gaps[2], kind


def test_powers_are_compared_at_the_same_false_alarm_rate():
    powers = drift_power.Powers()
    powers.null["ours"] = np.linspace(0.01, 1, 200).tolist()
    powers.shifted["ours"] = [0.0, 0.012, 0.5]
    assert powers.power("ours") == pytest.approx(2 / 3, abs=1e-9)
    powers.null["bbsd"] = [0.0] * 200  # always alarms: no power at a rate of 1 %
    powers.shifted["bbsd"] = [0.0, 0.0, 0.0]
    assert powers.power("bbsd") == 0


def test_a_missing_package_is_reported(tmp_path):
    with pytest.raises(DataError, match="install Debian's package dataset-fashion-mnist"):
        fashion_windows.cast(10, 10, tmp_path)


def test_a_quick_pass_of_drift_alarms(fashion_mnist, kept, capsys):
    drift_alarms.main([str(fashion_mnist), "--quick"])
    said = capsys.readouterr().out
    for figure in ("null_false_alarm_rate", "null_drifted_rate_n10000", "null_evidently_embedding_mmd_rate"):
        assert figure in said
    assert not kept.exists()


def test_a_quick_pass_of_drift_power(fashion_mnist, images, kept, capsys, tmp_path):
    table = pq.read_table(FASHION / "base.parquet", columns=["image", "label"])[:300]
    domains = pa.array(["photo"] * 240 + ["sketch"] * 60)
    pq.write_table(table.append_column("domain", domains), tmp_path / "pacs.parquet")
    drift_power.main([str(fashion_mnist), "--pacs", str(tmp_path / "pacs.parquet"), "--quick"])
    said = capsys.readouterr().out
    for figure in ("shift_detection_rate", "power_vs_bbsd_ratio", "pacs_photo_to_sketch"):
        assert figure in said
    assert not kept.exists()


def test_a_quick_pass_of_measure_speed(kept, capsys):
    measure_speed.main(["--quick"])
    said = capsys.readouterr().out
    assert "measure_vs_evidently_ratio" in said
    assert "monitor_run_s_1e5" in said
    assert not kept.exists()
