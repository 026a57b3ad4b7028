"""Malformed requests: each gets a clear 4xx of problem+json, and the service goes on."""

import pytest

from serving.service.app import create_app
from serving.service.settings import Settings
from tests.support.hostile_requests import HOSTILE
from tests.support.service import Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, image_bytes

SETTINGS = Settings(max_images=4, max_bytes=200_000, max_request_bytes=1_000_000, body_seconds=0.5)


@pytest.fixture(scope="module")
def client():
    with served(create_app(OneModel(small_model()), Kept(), SETTINGS)) as client:
        yield client


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_refused_clearly(client, name):
    case = HOSTILE[name]
    sent = client.request("POST", "/predict" + case.query, content=case.body, headers=case.headers)
    assert (sent.status_code, sent.json()["reason"]) == (case.status, case.reason)
    assert sent.headers["content-type"] == "application/problem+json"
    assert sent.json()["detail"]
    (photo,) = image_bytes(CLASSES[0], 1)
    assert client.post("/predict", content=photo).status_code == 200
