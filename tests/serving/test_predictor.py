"""Predictions of image bytes by a real bundle."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.predictor import Prediction, Predictor
from tasks.common.files import read_json, write_json
from tasks.dataset.decode import preprocess
from tasks.releases import bundle
from tasks.stages.calibrate import probes
from tests.support.checkout import ROOT
from tests.support.small_project import CLASSES, finished_project, image_bytes


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(finished_project() / "artifacts/bundle")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_same_answer(one: Prediction, other: Prediction) -> None:
    """Require the same answer, with numbers equal to within rounding.

    Kernels for other batch sizes and processors sum in another order, which moves these numbers by about 1e-6 of their
    size. Two different images of these classes never pass: their answers are further apart than the tolerance.
    """
    numbers = ("confidence", "probabilities", "ood")
    rounded = {name: pytest.approx(getattr(other, name), rel=1e-5, abs=1e-6) for name in numbers}
    assert vars(one) | {"features": None} == vars(other) | {"features": None} | rounded
    np.testing.assert_allclose(one.features, other.features, rtol=1e-5, atol=1e-5 * np.abs(other.features).max())


def test_real_images_are_recognised(predictor):
    for name in CLASSES:
        found = predictor.predict(image_bytes(name, 10))
        assert sum(answer.label == name for answer in found) >= 7
        assert all(sum(answer.probabilities) == pytest.approx(1, abs=1e-5) for answer in found)
        assert all(answer.confidence == max(answer.probabilities) for answer in found)


def with_weights(folder: Path, weights: dict[str, float] | None) -> Predictor:
    """A predictor of the finished bundle whose bundle.json has these weights; None: none, as schema 2."""
    copy = shutil.copytree(finished_project() / "artifacts/bundle", folder)
    about = json.loads((copy / "bundle.json").read_text())
    about = about | {"weights": weights} if weights else {k: v for k, v in about.items() if k != "weights"}
    (copy / "bundle.json").write_text(json.dumps(about))
    (copy / "MANIFEST.json").unlink()
    bundle.write_manifest(copy)
    return Predictor(copy)


def test_costs_move_the_answer_and_its_confidence_is_that_of_the_answer(tmp_path, predictor):
    images = image_bytes(CLASSES[0], 5)
    old = with_weights(tmp_path / "old", None).predict(images)
    assert [one.label for one in old] == [one.label for one in predictor.predict(images)]
    found = with_weights(tmp_path / "costly", {CLASSES[1]: 1e9}).predict(images)
    assert {one.label for one in found} == {CLASSES[1]}
    assert [one.confidence for one in found] == pytest.approx([one.probabilities[1] for one in found])
    assert [one.probabilities for one in found] == [pytest.approx(one.probabilities) for one in old]
    assert all(one.needs_review for one in found if one.confidence < 0.5)


def test_one_image_in_jpeg_and_png_gets_one_answer(predictor):
    image = Image.open(io.BytesIO(image_bytes("Trouser")[0])).convert("RGB").resize((120, 160))
    png, jpeg = predictor.predict([encoded(image, "PNG"), encoded(image, "JPEG", quality=95)])
    assert png.label == jpeg.label
    assert png.confidence == pytest.approx(jpeg.confidence, abs=0.1)


def test_bad_images_get_reasons_and_the_others_their_answers(predictor):
    (good,) = image_bytes("Bag")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    jpeg = encoded(noise, "JPEG")
    found = predictor.predict([b"", good, b"not an image", jpeg[: len(jpeg) // 2], good, b"PK\x03\x04zip"])
    assert [answer.reason for answer in found] == ["empty_file", None, "unknown_format", "truncated", None, "archive"]
    assert_same_answer(found[4], found[1])
    assert_same_answer(predictor.predict([good])[0], found[1])
    assert found[0] == Prediction(reason="empty_file", detail=found[0].detail)
    assert [answer.label for answer in predictor.predict([b"", b"x"])] == [None, None]
    assert predictor.predict([]) == []


def test_altered_bytes_never_raise(predictor):
    rng = np.random.default_rng(1)
    image = Image.open(io.BytesIO(image_bytes("Bag")[0])).convert("RGB").resize((48, 48))
    originals = [encoded(image, kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]
    damaged = []
    for number in range(120):
        data = bytearray(originals[number % len(originals)])
        for place in rng.integers(0, len(data), 6):
            data[place] = rng.integers(256)
        damaged.append(bytes(data[: rng.integers(1, len(data) + 1)] if number % 3 == 0 else data))
    found = predictor.predict(damaged)
    assert len(found) == 120
    assert all((answer.label is None) == (answer.reason is not None) for answer in found)


def test_large_batches_keep_their_order(predictor):
    images = [data for name in CLASSES for data in image_bytes(name, 30)]
    together = predictor.predict(images)
    assert [a.label for a in together] == [predictor.predict([data])[0].label for data in images]


def test_unfamiliar_images_are_flagged_for_review(predictor):
    """All flat colours, and most of pure noise: how much depends on the backbone, see docs/ood.md."""
    found = {
        name: predictor.predict([encoded(Image.fromarray(image), "PNG") for image in pixels])
        for name, pixels in probes.far(32).items()
    }
    assert all(answer.is_ood and answer.needs_review for answer in found["flat"])
    assert np.mean([answer.is_ood for answer in found["noise"]]) > 0.7
    assert all(answer.needs_review for answer in found["noise"] if answer.is_ood)
    familiar = [answer for name in CLASSES for answer in predictor.predict(image_bytes(name, 30))]
    assert np.mean([answer.is_ood for answer in familiar]) < 0.15


def test_an_unsure_answer_goes_to_review(predictor):
    pixels = np.stack([preprocess(data, 32, "squash", 10**6) for data in image_bytes("Bag", 2)])
    outputs = predictor.predict_pixels(pixels)
    outputs = outputs._replace(probabilities=np.array([[0.4, 0.3, 0.3], [0.9, 0.05, 0.05]], np.float32))
    found = predictor.answers(outputs)
    assert [answer.is_ood for answer in found] == [False, False]
    assert [answer.needs_review for answer in found] == [True, False]


def test_an_answer_comes_with_the_plausible_classes_the_likeliest_first(predictor):
    pixels = np.stack([preprocess(data, 32, "squash", 10**6) for data in image_bytes("Bag", 2)])
    outputs = predictor.predict_pixels(pixels)
    bounds = predictor.about["conformal"]["bounds"]
    low, high = min(bounds.values()) / 2, 1 - min(bounds.values())
    outputs = outputs._replace(probabilities=np.array([[low, low, high], [0.3, 0.31, 0.39]], np.float32))
    sure, unsure = predictor.answers(outputs)
    assert sure.plausible == (CLASSES[2],)
    there = [name for name, p in zip(CLASSES, (0.3, 0.31, 0.39), strict=True) if p >= bounds[name]]
    assert set(unsure.plausible) == {*there, CLASSES[2]}
    assert unsure.plausible[0] == unsure.label


def test_a_bundle_without_sets_answers_without_them(tmp_path):
    folder = Path(shutil.copytree(finished_project() / "artifacts/bundle", tmp_path / "bundle"))
    about = read_json(folder / "bundle.json")
    (folder / "MANIFEST.json").unlink()
    write_json(folder / "bundle.json", {key: value for key, value in about.items() if key != "conformal"})
    bundle.write_manifest(folder)
    (answer,) = Predictor(folder).predict(image_bytes("Bag"))
    assert answer.label == "Bag"
    assert answer.plausible is None


def test_multilabel_answers_are_sets_of_labels():
    predictor = Predictor(finished_project("multilabel") / "artifacts/bundle")
    found = predictor.predict(image_bytes("Ankle boot", 8))
    assert all(isinstance(answer.label, tuple) for answer in found)
    assert sum(answer.label == ("Ankle boot",) for answer in found) >= 5
    assert all(set(answer.label) <= set(answer.plausible) for answer in found)


def test_a_damaged_bundle_is_not_served(tmp_path):
    folder = Path(shutil.copytree(finished_project() / "artifacts/bundle", tmp_path / "bundle"))
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-100] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(bundle.BundleDamaged, match=r"model\.onnx"):
        Predictor(folder)


def test_serving_needs_no_training_library(tmp_path):
    (tmp_path / "image").write_bytes(image_bytes("Bag")[0])
    code = (
        "import sys, pathlib; from serving.predictor import Predictor; "
        f"p = Predictor({str(finished_project() / 'artifacts/bundle')!r}); "
        f"print(p.predict([pathlib.Path({str(tmp_path / 'image')!r}).read_bytes()])[0].label); "
        "print(sorted({'torch', 'timm', 'scipy', 'sklearn', 'pandas', 'dvc', 'prefect'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["Bag", "[]"]
