"""POST /predict over a real port with a real model."""

import base64
import io
import json

import pytest
from PIL import Image

from serving.predictor import Predictor
from serving.service.app import create_app
from serving.service.settings import Settings
from tests.support.service import Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, SIZE, image_bytes


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


def test_json_of_one_image_and_of_a_list_with_a_bad_one(client, model, photos):
    one = client.post("/predict", json={"image": in_base64(photos[0]), "key": "a"})
    same(one.json(), photos[0], model.predictor)
    images = [
        {"image": in_base64(photos[1]), "key": "b", "slices": {"line": "2"}},
        {"image": in_base64(b"no image"), "key": "c"},
        {"image": "%%%"},
        {"image": "data:image/png;base64," + in_base64(photos[2])},
    ]
    for body in (images, {"images": images}):
        good, bad, broken, last = client.post("/predict?top=0", json=body).json()["answers"]
        same(good, photos[1], model.predictor)
        assert (good["key"], good["slices"], good["top"]) == ("b", {"line": "2"}, [])
        assert (bad["reason"], bad["status"], bad["key"]) == ("unknown_format", 415, "c")
        assert broken["reason"] == "bad_base64"
        same(last, photos[2], model.predictor)


def test_json_as_curl_sends_it_without_a_content_type_is_no_image(client, model, photos):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    body = {"image": in_base64(photos[0]), "key": "a"}
    one, some = (client.post("/predict", content=json.dumps(sent), headers=headers).json() for sent in (body, [body]))
    same(one, photos[0], model.predictor)
    same(some["answers"][0], photos[0], model.predictor)
    same(client.post("/predict", content=photos[0], headers=headers).json(), photos[0], model.predictor)


def test_a_form_of_one_file_and_of_some(client, model, photos):
    one = client.post("/predict", files={"image": photos[0]}, data={"key": "k", "slices": '{"a": "b"}'}).json()
    same(one, photos[0], model.predictor)
    assert (one["key"], one["slices"]) == ("k", {"a": "b"})
    files = [("images", ("x.png", data)) for data in photos[:2]]
    sent = client.post("/predict", files=files, data={"about": '[{"key": "1"}, {"source": 5}]'}).json()
    same(sent["answers"][0], photos[0], model.predictor)
    assert sent["answers"][0]["key"] == "1"
    assert sent["answers"][1]["reason"] == "bad_request"


def test_the_same_bytes_are_computed_once_and_logged_twice(client, kept, photos):
    kept.records.clear()
    answers = [client.post("/predict", content=photos[4]).json() for _ in range(2)]
    assert [answer.pop("cached") for answer in answers] == [False, True]
    assert answers[0].pop("request") != answers[1].pop("request")
    assert answers[0] == answers[1]
    assert len(kept.records) == 2


def test_an_unusable_image_is_refused_and_logged(client, kept):
    kept.records.clear()
    sent = client.post("/predict", content=b"no image", headers={"x-key": "k"})
    assert sent.status_code == 415
    assert sent.headers["content-type"] == "application/problem+json"
    assert sent.json()["request"] == sent.headers["x-request-id"]
    ((asked, answered),) = kept.records
    assert (asked.key, answered.prediction.reason) == ("k", "unknown_format")


def test_heat_shows_what_made_the_model_answer(client, photos):
    answer = client.post("/predict?heat=1", content=photos[0]).json()
    assert answer["heat"]["label"] == answer["label"]
    assert answer["heat"]["method"] == "occlusion"  # the map of so small a model has too few places
    picture = Image.open(io.BytesIO(base64.b64decode(answer["heat"]["png"])))
    assert (picture.format, picture.size) == ("PNG", (SIZE, SIZE))
    assert "heat" not in client.post("/predict?heat=0", content=photos[0]).json()


def test_what_the_model_is_and_whether_the_service_is_ready(client, model):
    about = client.get("/model").json()
    assert (about["version"], about["bundle"], about["classes"]) == ("v0.1.0", model.predictor.digest, CLASSES)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json()["status"] == "ready"


def test_a_multi_label_model_answers_a_list(photos):
    with served(create_app(OneModel(small_model(task="multilabel")), Kept())) as client:
        answer = client.post("/predict", content=photos[0]).json()
    assert isinstance(answer["label"], list)
    assert len(answer["top"]) == min(5, len(CLASSES))
