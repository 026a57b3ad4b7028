"""Which model answers: canary, shadow, humans only, and models that fail."""

import pytest

from serving.live import Model
from serving.service.app import create_app
from serving.service.contracts import Choice
from serving.service.hooks import Observer
from serving.service.settings import Settings
from tests.support.service import Gate, Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, image_bytes
from tests.support.waiting import until


class Noted(Observer):
    """Keeps what the service tells."""

    def __init__(self):
        self.failed, self.left_out, self.requests, self.refusals = [], 0, [], []

    def model_failed(self, model, role, error):
        self.failed.append(role)

    def shadow_left_out(self, model):
        self.left_out += 1

    def request(self, route, status, seconds):
        self.requests.append((route, status))

    def refused(self, route, reason):
        self.refusals.append(reason)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [data for name in CLASSES for data in image_bytes(name, 2)]


def test_a_shadow_answers_the_same_image_unseen(model, photos):
    kept, shadow = Kept(), Model(model.predictor, "v0.2.0")
    with served(create_app(OneModel(model, shadow=shadow), kept, Settings(cache_bytes=0))) as client:
        answer = client.post("/predict", content=photos[0]).json()
        until(lambda: len(kept.records) == 2)
        assert [role["version"] for role in client.get("/model").json()["others"].values()] == ["v0.2.0"]
    assert answer["version"] == "v0.1.0"
    seen, unseen = (answered for _, answered in kept.records)
    assert (seen.role, unseen.role, unseen.model.version) == ("live", "shadow", "v0.2.0")
    assert unseen.prediction.label == seen.prediction.label
    assert unseen.request == seen.request == answer["request"]


def test_a_shadow_that_is_slow_or_fails_costs_no_answer(model, photos):
    gate, noted = Gate(model.predictor), Noted()
    gate.open.set()
    router = OneModel(model, shadow=Model(gate, "v0.2.0"))
    with served(create_app(router, Kept(), Settings(cache_bytes=0), observer=noted)) as client:
        gate.error = RuntimeError("a broken shadow")
        assert client.post("/predict", content=photos[0]).status_code == 200
        until(lambda: noted.failed == ["shadow"])
    settings = Settings(cache_bytes=0, shadow_queue=0)
    gate.error = None
    with served(create_app(router, Kept(), settings, observer=noted)) as client:
        assert client.post("/predict", content=photos[0]).status_code == 200
        until(lambda: noted.left_out == 1)


def test_a_shadow_or_a_log_in_disorder_costs_no_answer(model, photos):
    class Broken(Kept):
        def record(self, asked, answered):
            raise OSError("the disk is full")

    noted = Noted()
    router = OneModel(model, shadow=Model(object(), "v0.2.0"))
    router.models = lambda: {"live": model}
    settings = Settings(cache_bytes=0)
    with served(create_app(router, Kept(), settings, observer=noted)) as client:
        assert client.post("/predict", content=photos[0]).status_code == 200
        until(lambda: noted.failed == ["shadow"])
    with served(create_app(OneModel(model), Broken(), settings)) as client:
        for _ in range(3):
            assert client.post("/predict", content=photos[0]).status_code == 200
        assert client.post("/predict", content=b"no image").status_code == 415


def test_the_live_model_answers_where_a_canary_fails(model, photos):
    gate, noted, kept = Gate(model.predictor, RuntimeError("a broken canary")), Noted(), Kept()
    router = OneModel(model)
    router.choose = lambda key, digest: Choice(Model(gate, "v0.2.0"), "canary")
    with served(create_app(router, kept, observer=noted)) as client:
        answer = client.post("/predict", content=photos[0]).json()
    assert (answer["version"], answer["role"], noted.failed) == ("v0.1.0", "live", ["canary"])
    assert [answered.model.version for _, answered in kept.records] == ["v0.1.0"]


def test_a_live_model_that_fails_is_said(model, photos):
    gate, noted = Gate(model.predictor), Noted()
    gate.open.set()
    with served(create_app(OneModel(Model(gate, "v0.1.0")), Kept(), observer=noted)) as client:
        gate.error = RuntimeError("a broken model")
        sent = client.post("/predict", content=photos[0])
        gate.error = None
        assert client.post("/predict", content=photos[0]).status_code == 200
    assert (sent.status_code, sent.json()["reason"]) == (503, "model_failed")
    assert (noted.failed, noted.refusals) == (["live"], ["model_failed"])
    assert noted.requests == [("/predict", 503), ("/predict", 200)]


def test_humans_only_sends_every_answer_to_a_person(model, photos):
    kept = Kept()
    router = OneModel(model)
    with served(create_app(router, kept)) as client:
        before = client.post("/predict", content=photos[0]).json()
        router.choice["humans_only"] = True
        during = client.post("/predict", content=photos[0]).json()
        router.choice["humans_only"] = False
        after = client.post("/predict", content=photos[0]).json()
    assert not before["needs_review"]
    assert (during["needs_review"], during["label"]) == (True, before["label"])
    assert not after["needs_review"]
    assert [answered.prediction.needs_review for _, answered in kept.records] == [False, True, False]
