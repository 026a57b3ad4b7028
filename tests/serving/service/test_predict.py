"""POST /predict over a real port with a real model."""

import base64

import pytest

from serving.predictor import Predictor
from serving.service.app import create_app
from serving.service.settings import Settings
from tests.support.service import Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, image_bytes


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def kept():
    return Kept()


@pytest.fixture(scope="module")
def client(model, kept):
    with served(create_app(OneModel(model), kept, Settings(max_images=8))) as client:
        yield client


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [data for name in CLASSES for data in image_bytes(name, 3)]


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def same(answer: dict, image: bytes, predictor: Predictor) -> None:
    """Require the answer that the predictor gives to the image alone."""
    (expected,) = predictor.predict([image])
    assert answer["label"] == expected.label
    assert answer["confidence"] == pytest.approx(expected.confidence, abs=2e-6)
    assert answer["plausible"] == list(expected.plausible)
    assert answer["ood"] == pytest.approx(expected.ood, rel=1e-5, abs=2e-6)
    assert (answer["coarse"], answer["is_ood"], answer["needs_review"]) == (
        expected.coarse,
        expected.is_ood,
        expected.needs_review,
    )


def test_bytes_are_answered_with_what_their_owner_said(client, kept, model, photos):
    kept.records.clear()
    sent = client.post(
        "/predict?key=order-7&top=2",
        content=photos[0],
        headers={"x-source": "cam-1", "x-slices": '{"product": "A7"}', "x-request-id": "mine-1"},
    )
    answer = sent.json()
    same(answer, photos[0], model.predictor)
    assert (answer["key"], answer["source"], answer["slices"]) == ("order-7", "cam-1", {"product": "A7"})
    assert answer["request"] == sent.headers["x-request-id"] == "mine-1"
    assert answer["top"][0]["label"] == answer["label"]
    assert len(answer["top"]) == 2
    assert answer["version"] == "v0.1.0"
    ((asked, answered),) = kept.records
    assert asked.image == photos[0]
    assert (answered.prediction.label, answered.request, answered.model) == (answer["label"], "mine-1", model)
    assert answered.latency_ms > 0
