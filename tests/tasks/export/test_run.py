"""An export counts only if it answers as its model does, and replaces nothing else."""

import os
import stat
from dataclasses import replace

import numpy as np
import pytest

from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, sha256_file
from tasks.dataset.decode import preprocess
from tasks.export import formats
from tasks.export.formats import FORMATS, Format
from tasks.export.images import odd_images
from tasks.export.parity import ParityFailed, check, compare
from tasks.export.run import export
from tasks.export.source import Source, Written
from tasks.inference.onnx_model import OnnxModel, Outputs
from tasks.releases import bundle
from tests.support.small_project import CLASSES, SIZE, finished_project


@pytest.fixture(scope="module")
def source() -> Source:
    folder = finished_project() / "artifacts/bundle"
    return Source(folder, bundle.read(folder), "v0.1.0")


def test_the_odd_images_are_64_different_ones_that_decode_and_always_the_same():
    images = odd_images()
    pixels = {preprocess(data, SIZE, "squash", 4_000_000, None).tobytes() for _, data in images}
    assert len({name for name, _ in images}) == len(pixels) == 64
    assert odd_images.__wrapped__() == images


def outputs(value: float) -> Outputs:
    return Outputs(np.full((2, 2), 4.0), np.array([[0.5, 0.5], [value, 1 - value]]), np.full((2, 3), 2.0))


def test_the_difference_names_the_worst_image_and_nan_is_never_within():
    found = compare(outputs(0.7), outputs(0.5))
    assert (found.worst, round(found.probabilities, 6), found.logits, found.features) == (1, 0.2, 0, 0)
    assert found.within(0.3)
    assert not found.within(0.1)
    assert not compare(outputs(float("nan")), outputs(0.5)).within(10)
    with pytest.raises(ValueError, match="shape"):
        compare(Outputs(*(part[:1] for part in outputs(0.5))), outputs(0.5))


def test_features_count_too():
    apart = outputs(0.5)._replace(features=np.full((2, 3), 2.2))
    found = compare(apart, outputs(0.5))
    assert round(found.features, 6) == 0.1
    assert not found.within(1e-4)


def test_an_export_says_what_it_is_and_how_it_was_checked(source, tmp_path):
    before = os.umask(0o027)
    try:
        made = export(source.bundle, "v0.1.0", "triton", tmp_path / "new/out")
    finally:
        os.umask(before)
    rights = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert rights == {True: 0o750, False: 0o640}, "a server of another user reads it"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
    (tmp_path / "new/out").rename(tmp_path / "out")
    record, about = read_json(tmp_path / "out/export.json"), read_json(tmp_path / "out/model.json")
    assert record == made.record
    assert (record["format"], record["version"], record["not_run"]) == ("triton", "v0.1.0", False)
    assert record["bundle"] == bundle.digest(source.bundle)
    assert (record["parity"]["images"], record["parity"]["probabilities"]) == (64, 0)
    assert {"evergreen", "python", "onnxruntime"} <= set(record["tools"])
    assert about["classes"] == CLASSES
    assert about["preprocess"]["resolution"] == SIZE
    for name, entry in record["files"].items():
        assert sha256_file(tmp_path / "out" / name) == entry["sha256"]
    assert "64 odd images" in made.sentence()


def wrong(source, folder):
    (folder / "model.bin").write_bytes(b"converted")
    model = OnnxModel(source.model)

    def run(pixels):
        found = model(pixels)
        return found._replace(probabilities=found.probabilities[:, ::-1])

    return Written(run=run, checked="model.bin")


def test_one_that_answers_otherwise_leaves_nothing_and_keeps_what_was_there(source, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "wrong", Format("wrong", "wrong", "answers the other way round"))
    monkeypatch.setattr("tasks.export.run.writer", lambda chosen: wrong)
    with pytest.raises(ParityFailed, match=r"model.bin answers differently .* expected at most 0.0001"):
        export(source.bundle, "v0.1.0", "wrong", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export(source.bundle, "v0.1.0", "triton", tmp_path / "out")
    before = sha256_file(tmp_path / "out/export.json")
    monkeypatch.setitem(FORMATS, "wrong", Format("wrong", "wrong", "answers the other way round"))
    monkeypatch.setattr("tasks.export.run.writer", lambda chosen: wrong)
    with pytest.raises(ParityFailed):
        export(source.bundle, "v0.1.0", "wrong", tmp_path / "out")
    assert sha256_file(tmp_path / "out/export.json") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_format_that_depends_on_the_batch_fails(source):
    model = OnnxModel(source.model)

    def run(pixels):
        found = model(pixels)
        return found._replace(probabilities=found.probabilities + (len(pixels) == 1) * 0.01)

    with pytest.raises(ParityFailed):
        check(source, run, (64, 1), 1e-4, "it")
    check(source, run, (64,), 1e-4, "it")


def test_a_folder_with_other_things_is_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    with pytest.raises(EvergreenError, match="not an export"):
        export(source.bundle, "v0.1.0", "triton", tmp_path / "out")
    assert (tmp_path / "out/thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(EvergreenError, match="not a folder"):
        export(source.bundle, "v0.1.0", "triton", tmp_path / "file")
    with pytest.raises(EvergreenError, match=r"expected one of .*triton"):
        export(source.bundle, "v0.1.0", "trition", tmp_path / "other")


def test_a_missing_library_is_named_with_the_command_that_installs_it():
    lacking = replace(FORMATS["triton"], needs=("json", "no_such_module"), install="pip install it")
    assert formats.missing(lacking) == ["no_such_module"]
    with pytest.raises(EvergreenError, match=r"needs no_such_module, .*`pip install it`"):
        formats.writer(lacking)
