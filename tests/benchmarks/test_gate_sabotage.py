"""The sabotages of the gate's benchmark change what they say; the seeds are compared as the gate compares."""

import json
import shutil

import numpy as np
import pytest

from benchmarks import gate, gate_graphs, gate_seeds
from benchmarks.gate_heads import change_head, never, roll
from benchmarks.gate_sabotage import relabelled, sabotages
from tasks.inference.onnx_model import OnnxModel
from tasks.models.head import read_head
from tests.support.predictions import CLASSES, NEW, TARGETS, table
from tests.support.small_project import finished_project

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
MODEL = "artifacts/bundle/model.onnx"


@pytest.fixture
def edited(tmp_path):
    source = finished_project() / MODEL
    (tmp_path / MODEL).parent.mkdir(parents=True)

    def outputs(change, pixels=PIXELS):
        shutil.copyfile(source, tmp_path / MODEL)
        gate_graphs.edit(MODEL, change, tmp_path)
        return OnnxModel(tmp_path / MODEL)(pixels)

    return outputs


def test_there_are_30_sabotages():
    assert len(sabotages()) >= 30


def test_edited_graphs_have_the_fault_that_they_are_named_for(edited):
    sound = OnnxModel(finished_project() / MODEL)
    whole = sound(PIXELS)
    np.testing.assert_allclose(edited(gate_graphs.bgr).logits, sound(PIXELS[..., ::-1]).logits, atol=1e-4)
    turned = PIXELS.transpose(0, 2, 1, 3)
    np.testing.assert_allclose(edited(gate_graphs.transposed).logits, sound(turned).logits, atol=1e-4)
    darker = (PIXELS * np.float32(0.2)).astype(np.uint8)
    np.testing.assert_allclose(edited(gate_graphs.underexposed).logits, sound(darker).logits, atol=1e-4)
    np.testing.assert_allclose(edited(gate_graphs.large).logits, whole.logits, atol=1e-6)
    np.testing.assert_allclose(edited(gate_graphs.slow).logits, whole.logits, atol=1e-4)
    assert np.isnan(edited(gate_graphs.not_a_number).logits).all()
    permuted = edited(gate_graphs.permuted)
    np.testing.assert_allclose(permuted.probabilities, np.roll(whole.probabilities, 1, axis=1), atol=1e-6)
    np.testing.assert_allclose(permuted.logits, whole.logits, atol=1e-6)
    assert edited(lambda graph: gate_graphs.hotter(25.0, graph)).probabilities.max() > whole.probabilities.max()
    assert np.abs(edited(gate_graphs.rounded).logits - whole.logits).max() > 0.01
    both = np.concatenate([PIXELS[:1], PIXELS[:1] // 4])
    dark, light = edited(gate_graphs.fails_in_the_dark, both).logits, sound(both).logits
    np.testing.assert_allclose(dark, light * [[1], [-1]], atol=1e-4)


def test_heads_and_labels_are_changed_as_named(tmp_path):
    root = shutil.copytree(finished_project(), tmp_path / "main")
    before, model = read_head(root), root / "artifacts/calibrate/model.onnx"
    whole = OnnxModel(model)(PIXELS).logits
    change_head(roll, root)
    np.testing.assert_array_equal(read_head(root).weight, np.roll(before.weight, 1, axis=0))
    np.testing.assert_allclose(OnnxModel(model)(PIXELS).logits, np.roll(whole, 1, axis=1), atol=1e-4)
    change_head(never(0), root)
    (given_up,) = np.flatnonzero(read_head(root).bias - np.roll(before.bias, 1) < -900)
    assert (OnnxModel(model)(PIXELS).logits[:, given_up] < -900).all()
    said = relabelled("test", CLASSES, table(TARGETS, NEW), NEW == TARGETS)
    assert said["label"].to_pylist() == [CLASSES[k] for k in NEW]


def test_the_figure_names_what_caught_each_model_and_what_did_not():
    found = {
        "unspoiled": {"outcome": "promote", "caught": []},
        "slow": {"outcome": "reject", "caught": ["latency_ms.p99"]},
        "new fault": {"outcome": "promote", "caught": []},
    }
    figure = gate.sabotaged_figure(found)
    assert (figure.value, figure.unit, figure.met) == (1, "of 2", False)
    assert figure.spread.startswith("PROMOTED new fault; slow: reject, latency_ms.p99")
    assert figure.peer == "unspoiled: promote"


def test_seeds_are_compared_in_pairs_and_read_from_what_was_kept(tmp_path):
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 100)
    models = [np.where(rng.random(300) < 0.8, targets, (targets + 1) % 3).tolist() for _ in range(4)]
    (tmp_path / "seeds.json").write_text(json.dumps({"targets": targets.tolist(), "classes": 3, "models": models}))
    noise, within = gate_seeds.figures(gate_seeds.kept_answers(tmp_path, 4, quick=False))
    assert 0 < noise.value < 6
    assert within.value >= 4 / 6
    assert "6 pairs of seeds on 300 test images" in within.spread
