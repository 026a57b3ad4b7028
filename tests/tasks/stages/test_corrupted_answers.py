"""Answers for corrupted images: cached in blocks, and the same wherever they come from."""

import shutil

import numpy as np
import pytest

from tasks.common.artifacts import training_rows
from tasks.common.cores import on_all_cores
from tasks.common.params import load_params
from tasks.dataset.pixels import pixel_table
from tasks.inference.onnx_model import OnnxModel
from tasks.scoring.corruptions import corrupt
from tasks.stages.evaluate import corrupted_answers
from tasks.stages.evaluate.corrupted_answers import CorruptedAnswers
from tests.support.small_project import finished_project

ROWS = np.arange(10)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("corrupted") / "project"
    return shutil.copytree(finished_project(), root)


@pytest.fixture
def answers(made, tmp_path, monkeypatch) -> CorruptedAnswers:
    """The exported model's answers for the test images, in a cache of this test's own."""
    monkeypatch.setenv("EVERGREEN_STATE", str(tmp_path / "state"))
    images, rows = load_params(made / "params.yaml").images, training_rows(made)["test"]
    ids = rows["id"].to_pylist()
    pixels = pixel_table(made, rows, images)
    return CorruptedAnswers(made, made / "artifacts/calibrate/model.onnx", images, pixels, ids)


def test_the_answers_are_the_models_for_the_corrupted_pixels(answers):
    wanted = np.stack([corrupt("noise", answers.pixels[[row]][0], answers.ids[row]) for row in ROWS])
    np.testing.assert_array_equal(answers("noise", ROWS), OnnxModel(answers.model)(wanted).probabilities)


def test_threads_that_ask_for_corruptions_share_one_model_and_get_its_answers(answers, monkeypatch):
    loaded = []
    monkeypatch.setattr(corrupted_answers, "OnnxModel", lambda file: loaded.append(file) or OnnxModel(file))
    names = ["noise", "blur", "jpeg", "dark"]
    found = on_all_cores(lambda name: answers(name, ROWS), names)
    for name, said in zip(names, found, strict=True):
        changed = np.stack([corrupt(name, answers.pixels[[row]][0], answers.ids[row]) for row in ROWS])
        np.testing.assert_array_equal(said, OnnxModel(answers.model)(changed).probabilities)
    assert loaded == [answers.model]


def test_small_blocks_answer_as_one_large_one(answers, monkeypatch):
    whole = answers("blur", ROWS)
    monkeypatch.setattr(corrupted_answers, "BLOCK", 4)
    blocks = list(answers.blocks("blur", ROWS))
    assert [block.rows.tolist() for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [block.ids for block in blocks] == [answers.ids[:4], answers.ids[4:8], answers.ids[8:10]]
    np.testing.assert_allclose(answers("blur", ROWS), whole, atol=1e-6)
    assert all(block.file.is_file() for block in blocks)


def test_an_entry_is_read_a_damaged_one_is_computed_again(answers):
    first = answers("dark", ROWS)
    (block,) = answers.blocks("dark", ROWS)
    block.store(1 - first)
    np.testing.assert_array_equal(answers("dark", ROWS), 1 - first)
    content = bytearray(block.file.read_bytes())
    content[-1] ^= 1
    block.file.write_bytes(content)
    np.testing.assert_array_equal(answers("dark", ROWS), first)
    np.testing.assert_array_equal(block.stored(), first)


def test_another_model_preprocessing_corruption_or_image_is_another_entry(answers, tmp_path):
    shutil.copy(answers.model, tmp_path / "model.onnx")
    with open(tmp_path / "model.onnx", "ab") as file:
        file.write(b"\0")
    same = dict(root=answers.root, pixels=answers.pixels, ids=answers.ids, images=answers.images)
    larger = answers.images.model_copy(update={"resolution": 40})
    others = [
        (CorruptedAnswers(model=tmp_path / "model.onnx", **same), "dark", ROWS),
        (CorruptedAnswers(model=answers.model, **(same | {"images": larger})), "dark", ROWS),
        (answers, "blur", ROWS),
        (answers, "dark", ROWS[1:]),
        (answers, "dark", ROWS[::-1]),
        (answers, "dark", ROWS),
    ]
    files = [next(made.blocks(corruption, rows)).file for made, corruption, rows in others]
    assert len(set(files)) == len(files)
    moved = CorruptedAnswers(model=shutil.copy(answers.model, tmp_path / "b.onnx"), **same)  # as in the next run
    assert next(moved.blocks("dark", ROWS)).file == files[-1]
