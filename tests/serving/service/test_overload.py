"""Many requests at once, with a model that a test holds: batches, full queues, deadlines, slow clients."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from serving.live import Model
from serving.service.app import create_app
from serving.service.settings import Settings
from tests.serving.service.test_predict import same
from tests.support.service import Gate, Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, image_bytes
from tests.support.waiting import until


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [data for name in CLASSES for data in image_bytes(name, 5)]


@contextmanager
def held(model: Model, settings: Settings):
    """(client, the service, the gate of its model), with the model closed."""
    gate = Gate(model.predictor)
    gate.open.set()  # for the first image, which the service computes when it starts
    app = create_app(OneModel(Model(gate, "v0.1.0")), Kept(), settings)
    with served(app) as client:
        gate.batches.clear()
        gate.open.clear()
        try:
            yield client, app.state.service, gate
        finally:
            gate.open.set()


def send(client, pool: ThreadPoolExecutor, images: list[bytes]) -> list:
    return [pool.submit(client.post, "/predict", content=data) for data in images]


def test_images_of_many_requests_are_computed_together_and_answered_as_alone(model, photos):
    settings = Settings(max_batch=4, cache_bytes=0)
    with held(model, settings) as (client, service, gate), ThreadPoolExecutor(10) as pool:
        first = send(client, pool, photos[:1])
        until(lambda: service.waiting == 1 and not service._batcher.waiting)
        others = send(client, pool, photos[1:10])
        until(lambda: service._batcher.waiting == 9)
        gate.open.set()
        answers = [sent.result().json() for sent in [*first, *others]]
    assert gate.batches == [1, 4, 4, 1]
    for answer, photo in zip(answers, photos, strict=False):
        same(answer, photo, model.predictor)


def test_a_full_queue_says_when_to_come_again_and_loses_nothing(model, photos):
    with held(model, Settings(queue=3, max_images=2)) as (client, service, gate), ThreadPoolExecutor(4) as pool:
        waiting = send(client, pool, photos[:3])
        until(lambda: service.waiting == 3)
        refused = client.post("/predict", content=photos[3])
        assert (refused.status_code, refused.json()["reason"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        gate.open.set()
        assert [sent.result().status_code for sent in waiting] == [200] * 3
        assert client.post("/predict", content=photos[3]).status_code == 200
    assert (service.admission.images, service.admission.bytes) == (0, 0)


def test_bytes_that_wait_are_bounded(model, photos):
    settings = Settings(queue_bytes=len(photos[0]) + 10)
    with held(model, settings) as (client, service, gate), ThreadPoolExecutor(2) as pool:
        waiting = send(client, pool, photos[:1])
        until(lambda: service.waiting == 1)
        assert client.post("/predict", content=photos[1]).json()["reason"] == "queue_full"
        gate.open.set()
        assert waiting[0].result().status_code == 200


def test_an_image_that_waited_too_long_is_not_computed(model, photos):
    with held(model, Settings(deadline_seconds=0.3)) as (client, service, gate), ThreadPoolExecutor(4) as pool:
        first = send(client, pool, photos[:1])
        until(lambda: service.waiting == 1 and not service._batcher.waiting)
        others = send(client, pool, photos[1:3])
        until(lambda: service._batcher.waiting == 2)
        threading.Event().wait(0.4)
        gate.open.set()
        assert first[0].result().status_code == 200
        refused = [sent.result() for sent in others]
    assert [(sent.status_code, sent.json()["reason"]) for sent in refused] == [(503, "deadline")] * 2
    assert gate.batches == [1]


def test_a_slow_client_and_one_that_never_stops_are_refused(model):
    settings = Settings(body_seconds=0.3, max_bytes=10_000)
    with served(create_app(OneModel(model), Kept(), settings)) as client:
        address = client.base_url.host, client.base_url.port
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
        with socket.create_connection(address, 10) as connection:
            connection.sendall(head + b"Content-Length: 100\r\n\r\nabc")
            assert connection.recv(4000).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(address, 10) as connection:
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n4000\r\n" + bytes(0x4000) + b"\r\n")
            assert connection.recv(4000).startswith(b"HTTP/1.1 413 ")
        assert client.get("/health").status_code == 200


def test_requests_that_wait_are_answered_before_the_service_stops(model, photos):
    with ThreadPoolExecutor(4) as pool, held(model, Settings()) as (client, service, gate):
        waiting = send(client, pool, photos[:3])
        until(lambda: service.waiting == 3)
        service.draining = True
        assert client.get("/ready").status_code == 503
        gate.open.set()
        assert [sent.result().status_code for sent in waiting] == [200] * 3
    assert not [thread for thread in threading.enumerate() if thread.name == "evergreen-model"]


def test_each_decoder_is_a_thread(model):
    with held(model, Settings(decoders=3)):
        names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("evergreen-decode") for name in names) == 3
