"""Zero-shot answers: the mathematics by hand, and a tiny CLIP model that is loaded as a real one."""

import subprocess
import sys

import numpy as np
import pytest

from tasks.common.errors import EvergreenError
from tasks.models.clip import Clip, clip_key, find_clip, input_side
from tasks.models.zero_shot import class_rows, texts_of, unit, zero_shot_probe
from tests.support.clip_model import SIDE, WIDTH, save_clip
from tests.support.shared import once


@pytest.fixture(scope="module")
def folder():
    return once("tiny-clip", save_clip)


def test_prompts_are_averaged_as_unit_vectors_and_made_unit_again():
    rows = class_rows([np.array([[3, 0], [0, 4]]), np.array([[0, -2]])])  # lengths must not weigh
    assert rows == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, -1]]))
    assert unit(np.array([[3.0, 4], [0, 0]])).tolist() == [[0.6, 0.8], [0, 0]]


def test_a_probability_is_the_softmax_of_cosines_over_the_temperature():
    rows, images = np.array([[1, 0], [0, 1]]), unit(np.array([[5.0, 0], [1, 1]]))
    assert zero_shot_probe(rows, 2.0).logits(images) == pytest.approx(np.array([[2, 0], [2**0.5, 2**0.5]]))
    high, low = (zero_shot_probe(rows, scale).probabilities(images) for scale in (100, 1))
    assert low[0] == pytest.approx([np.e / (np.e + 1), 1 / (np.e + 1)])
    assert high[0, 0] > low[0, 0]
    assert high[1] == pytest.approx([0.5, 0.5])


def test_a_class_is_described_by_its_name_and_by_its_meaning():
    assert texts_of("ankle_boot", prompts=["a photo of a {}.", "{}"]) == ["a photo of a ankle boot.", "ankle boot"]
    assert texts_of("boot", " high \n shoe", ["a {}."]) == ["a boot.", "a boot: high shoe"]
    assert len(texts_of("boot", "x" * 2000, ["{}"])[1]) == 206


def test_a_stored_model_gives_unit_vectors_as_open_clip_does(folder):
    import open_clip
    import torch
    from PIL import Image

    model = Clip(find_clip(str(folder)))
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    theirs, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.inference_mode():
        images = theirs.eval().encode_image(torch.stack([prepare(Image.fromarray(one)) for one in pixels]))
        texts = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(["a dog", "a cat"]))
    assert model(pixels) == pytest.approx(unit(images.numpy()), abs=1e-4)
    assert model.texts(["a dog", "a cat"]) == pytest.approx(unit(texts.numpy()), abs=1e-5)
    assert model(pixels).shape == (2, WIDTH)
    assert model.scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert input_side(folder) == SIDE


def test_a_model_of_the_hub_that_is_stored_needs_no_network(folder, tmp_path):
    """In a process of its own: the hub's library reads where its cache is when it is imported."""
    stored = tmp_path / "hub/models--someone--tiny"
    save_clip(stored / "snapshots/0123abc")
    (stored / "refs").mkdir()
    (stored / "refs/main").write_text("0123abc")
    code = "from tasks.models.clip import *; print(clip_key(find_clip('hf-hub:someone/tiny')))\n"
    code += "try: find_clip('someone/else')\nexcept EvergreenError as error: print(error)"
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9", "PATH": ""}
    env["PYTHONPATH"] = ":".join(sys.path)
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    key, refused = found.splitlines()
    assert key == clip_key(folder)  # the same weights
    assert refused.startswith("the weights of the CLIP model someone/else are not on this machine, and the hub did not")
    assert "connect to the hub once" in refused


def test_without_the_extra_the_command_that_installs_it_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as if it was not installed
    with pytest.raises(EvergreenError, match="need the extra `clip`: run `pip install open_clip_torch`"):
        find_clip(str(folder))


def test_what_is_missing_or_damaged_is_said(folder, tmp_path):
    with pytest.raises(EvergreenError, match=r"has no open_clip_config.json"):
        find_clip(str(tmp_path))
    with pytest.raises(EvergreenError, match=r"and no weights .* put open_clip_model.safetensors beside it"):
        find_clip(str(save_clip(tmp_path / "bare", weights=False)))
    damaged = save_clip(tmp_path / "damaged", weights=False)
    (damaged / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EvergreenError, match="could not be loaded"):
        Clip(find_clip(str(damaged)))
    assert clip_key(damaged) != clip_key(folder)
