"""The model repository is one that Triton reads."""

import re

import pytest

from tasks.common.errors import EvergreenError
from tasks.export import triton
from tasks.export.source import Source
from tasks.releases import bundle
from tests.support.small_project import CLASSES, SIZE, finished_project


def made(tmp_path, **changes):
    folder = finished_project() / "artifacts/bundle"
    source = Source(folder, bundle.read(folder) | changes, "v0.1.0")
    triton.write(source, tmp_path)
    return tmp_path / "model_repository" / source.name


def test_the_repository_has_the_model_its_labels_and_a_configuration_that_batches(tmp_path):
    place = made(tmp_path)
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*")) == [
        *("1", "1/model.onnx", "config.pbtxt", "labels.txt")
    ]
    assert (place / "labels.txt").read_text().splitlines() == CLASSES
    text = (place / "config.pbtxt").read_text()
    assert f'"images", data_type: TYPE_UINT8, dims: [ {SIZE}, {SIZE}, 3 ]' in text
    assert re.search(r'"probabilities", data_type: TYPE_FP32, dims: \[ 3 \], label_filename: "labels.txt"', text)
    assert re.search(r'"features", data_type: TYPE_FP32, dims: \[ 1280 \]', text)
    assert "dynamic_batching" in text
    assert "max_batch_size: 64" in text
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")


def test_a_name_of_other_letters_becomes_one_that_servers_accept(tmp_path):
    assert made(tmp_path, name="../naïve model").name == "___na_ve_model"


def test_a_class_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(EvergreenError, match="line break"):
        made(tmp_path, classes=["a\nb", "c", "d"])
