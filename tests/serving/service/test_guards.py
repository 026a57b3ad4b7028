"""Tokens, rates, feedback, KServe's protocol and metrics, over a real port with a real model."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from starlette.middleware import Middleware

from serving.live import Model
from serving.service.access import NEEDS, OPEN, SCOPES, Client, Guard
from serving.service.app import create_app
from serving.service.contracts import Feedback
from serving.service.feedback import feedback_routes
from serving.service.kserve import kserve_routes
from serving.service.metrics import FOLDER, Metrics
from serving.service.rates import Rates
from serving.service.settings import Settings
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tests.support.checkout import ROOT
from tests.support.service import Gate, Kept, OneModel, served, small_model
from tests.support.small_project import CLASSES, image_bytes
from tests.support.waiting import until

CLIENTS = {
    "all": Client("all", SCOPES),
    "other": Client("other", ("predict",)),
    "reader": Client("reader", ("metrics",)),
}
ROUTES = [  # every route of the service, as a client sees it
    ("POST", "/predict"),
    ("GET", "/model"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("POST", "/feedback"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/small"),
    ("GET", "/v2/models/small/ready"),
    ("POST", "/v2/models/small/infer"),
    ("GET", "/v2/models/small/versions/v0.1.0"),
    ("GET", "/v2/models/small/versions/v0.1.0/ready"),
    ("POST", "/v2/models/small/versions/v0.1.0/infer"),
]


class Book:
    def client(self, token: str) -> Client | None:
        return CLIENTS.get(token)


class Sink:
    """Keeps labels in memory, or fails as a store that is down."""

    def __init__(self):
        self.labels: list[Feedback] = []
        self.down = False

    def keep(self, labels: list[Feedback]) -> None:
        if self.down:
            raise EvergreenError("the store is down")
        self.labels += labels


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return image_bytes(CLASSES[0], 1)[0]


@contextmanager
def service(model, folder, sink=None, per_minute=0, per_hour=1000, settings=None) -> Iterator[httpx.Client]:
    """A client without a token."""
    rates = Rates(folder / "rates")
    metrics = Metrics(lambda: {"dropped": 3, "written": 5})
    routes = [*feedback_routes(sink or Sink(), rates, per_hour), *kserve_routes("small"), *metrics.routes()]
    guard = Middleware(Guard, tokens=Book(), rates=rates, per_minute=per_minute)
    app = create_app(OneModel(model), Kept(), settings, observer=metrics, routes=routes, middleware=[guard])
    with served(app) as client:
        yield client
    rates.close()


@pytest.fixture(scope="module")
def sink():
    return Sink()


@pytest.fixture(scope="module")
def client(model, sink, tmp_path_factory):
    with service(model, tmp_path_factory.mktemp("service"), sink, settings=Settings(max_images=8)) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


# who may come in


def test_every_route_but_health_needs_a_token(client):
    open_routes = set()
    for method, path in ROUTES:
        sent = client.request(method, path)
        if sent.status_code == 401:
            assert sent.headers["www-authenticate"].startswith("Bearer")
            assert sent.json()["reason"] == "unauthorized"
        else:
            open_routes.add(path)
    assert open_routes == OPEN
    assert client.get("/no/such/route").status_code == 401
    assert client.post("/health").status_code == 401  # open for reading only
    assert client.get("/health/").status_code == 401
    assert client.get("//health").status_code == 401


def test_a_token_opens_what_it_is_for(client):
    for method, path in ROUTES:
        needed = NEEDS.get(path, "predict")
        for token, known in CLIENTS.items():
            refused = client.request(method, path, headers=bearer(token)).status_code == 403
            assert refused == (path not in OPEN and needed not in ("any", *known.scopes)), (token, path)
    assert "it is for metrics" in client.post("/predict", headers=bearer("reader")).json()["detail"]


def test_a_token_comes_in_a_header_in_one_of_two_forms(client):
    assert client.get("/model", headers=basic("anybody:all")).status_code == 200
    for headers in (
        {"authorization": "Bearer"},
        bearer("x" * 5000),
        basic("all:"),
        {"authorization": "Digest all"},
        basic("all"),
    ):
        assert client.get("/model", headers=headers).status_code == 401
    assert client.get("/model", headers={"authorization": "Basic !!"}).status_code == 401
    assert client.get("/model?token=all").status_code == 401
    twice = [("authorization", "Bearer all"), ("authorization", "Bearer other")]
    assert client.get("/model", headers=twice).status_code == 401


def test_wrong_tokens_are_slowed_down_and_right_ones_are_not(model, tmp_path):
    with service(model, tmp_path) as client:
        codes = [client.get("/model", headers=bearer(f"guess {n}")).status_code for n in range(14)]
        assert codes == [401] * 10 + [429] * 4
        waits = client.get("/model", headers=bearer("guess")).headers["retry-after"]
        assert 50 <= int(waits) <= 62
        assert client.get("/model", headers=bearer("all")).status_code == 200


def test_a_client_that_sends_too_much_waits_and_others_do_not(model, tmp_path):
    with service(model, tmp_path, per_minute=3) as client:
        codes = [client.get("/model", headers=bearer("all")).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        refused = client.get("/model", headers=bearer("all"))
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["reason"] == "too_many_requests"
        assert client.get("/model", headers=bearer("other")).status_code == 200
        assert client.get("/health").status_code == 200


# rates


def test_a_bucket_fills_up_with_time(tmp_path):
    now = [1_000_000.0]
    rates = Rates(tmp_path / "rates", lambda: now[0])
    assert [rates.take("a", 4, 10, 60.0) for _ in range(2)] == [0.0, 0.0]
    assert rates.take("a", 4, 10, 60.0) == pytest.approx(12.0)
    assert rates.take("b", 10, 10, 60.0) == 0.0  # a bucket of its own
    now[0] += 12.0
    assert rates.take("a", 4, 10, 60.0) == 0.0
    now[0] -= 100_000.0  # the clock is set back: nobody waits for a day
    assert rates.take("a", 1, 10, 60.0) <= 60.0
    assert rates.take("a", 11, 10, 60.0) > 0


def test_processes_share_a_limit_and_a_restart_forgets_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from serving.service.rates import Rates; "
        "r = Rates(Path(sys.argv[1])); print(sum(r.take('a', 1, 50, 1e6) == 0 for _ in range(40)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rates")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(3)]
    assert sum(int(one.communicate()[0]) for one in started) == 50
    assert Rates(tmp_path / "rates").take("a", 1, 50, 1e6) > 0


def test_thousands_of_names_share_a_file_of_one_size(tmp_path):
    rates = Rates(tmp_path / "rates")
    assert all(rates.take(f"name {n}", 1, 10, 60.0) == 0 for n in range(10_000))
    assert (tmp_path / "rates").stat().st_size < 200_000


# feedback


def give(client, content, token="all"):
    return client.post("/feedback", json=content, headers=bearer(token))


def test_labels_are_kept_with_their_client(client, sink):
    sink.labels.clear()
    name = "a" * 64
    sent = give(client, [
        {"id": name, "label": CLASSES[0], "who": "ann"},
        {"key": "order 7", "label": CLASSES[1], "who": "bea", "why": "returned", "at": "2026-01-02T03:04:05+01:00"},
    ])  # fmt: skip
    assert (sent.status_code, sent.json()["kept"]) == (202, 2)
    first, second = sink.labels
    assert first == Feedback(name, CLASSES[0], "ann", "all")
    assert second[:5] == ("order 7", CLASSES[1], "bea", "all", "returned")
    assert second.at.isoformat() == "2026-01-02T02:04:05+00:00"
    assert give(client, {"key": "k", "label": CLASSES[0], "who": "ann"}).json()["kept"] == 1


@pytest.mark.parametrize(
    "content",
    [
        [], 3, [3], {}, {"id": "a" * 64}, {"id": "A" * 64, "label": CLASSES[0], "who": "a"},
        {"id": "a" * 63, "label": CLASSES[0], "who": "a"}, {"key": "k", "label": "no class", "who": "a"},
        {"key": "k", "label": [CLASSES[0]], "who": "a"}, {"key": "k", "label": None, "who": "a"},
        {"key": "k", "label": CLASSES[0]}, {"key": "k", "label": CLASSES[0], "who": " "},
        {"key": "k", "label": CLASSES[0], "who": "a\x1b[31m"}, {"key": "k" * 501, "label": CLASSES[0], "who": "a"},
        {"key": "k", "id": "a" * 64, "label": CLASSES[0], "who": "a"}, {"key": {}, "label": CLASSES[0], "who": "a"},
        {"key": "k", "label": CLASSES[0], "who": "a", "at": "yesterday"},
        {"key": "k", "label": CLASSES[0], "who": "a", "at": 5},
        {"key": "k", "label": CLASSES[0], "who": "a", "client": "other"},
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used_are_refused_all_together(client, sink, content):
    sink.labels.clear()
    good = {"key": "k", "label": CLASSES[0], "who": "ann"}
    sent = give(client, content if not isinstance(content, dict) else [good, content])
    assert (sent.status_code, sent.json()["reason"]) == (422, "bad_label"), sent.text
    assert sink.labels == []


def test_feedback_is_refused_as_a_whole_where_it_is_too_much_or_not_stored(model, tmp_path):
    sink, one = Sink(), {"key": "k", "label": CLASSES[0], "who": "ann"}
    with service(model, tmp_path, sink, per_hour=5) as client:
        assert give(client, [one] * 6).status_code == 413
        assert give(client, [one] * 4).status_code == 202
        refused = give(client, [one] * 2)
        assert refused.status_code == 429
        assert 600 < int(refused.headers["retry-after"]) <= 720
        assert give(client, one, "other").status_code == 403
        assert len(sink.labels) == 4
        sink.down = True
        refused = give(client, one)
        assert (refused.status_code, give(client, b"x".hex()).status_code) == (503, 422)
        assert "the store is down" not in refused.text, "what a store says may name places"
        big = client.post("/feedback", content=b" " * (2 << 20), headers=bearer("all"))
        assert big.status_code == 413
        assert client.post("/feedback", content=b"{", headers=bearer("all")).json()["reason"] == "bad_json"


# KServe's protocol


def infer(client, *inputs, place="", **more):
    content = {"inputs": list(inputs), **more}
    return client.post(f"/v2/models/small{place}/infer", json=content, headers=bearer("other"))


def images(*data: bytes) -> dict:
    texts = [base64.b64encode(one).decode() for one in data]
    return {"name": "image", "datatype": "BYTES", "shape": [len(texts)], "data": texts}


def outputs(sent) -> dict:
    assert sent.status_code == 200, sent.text
    return {one["name"]: one["data"] for one in sent.json()["outputs"]}


def test_the_protocol_answers_as_predict_does(client, model, photo):
    (expected,) = model.predictor.predict([photo])
    keys = {"name": "key", "datatype": "BYTES", "shape": [2], "data": ["order 1", ""]}
    sent = infer(client, images(photo, photo), keys, id="mine")
    found = outputs(sent)
    assert found["label"] == [expected.label] * 2
    assert found["confidence"] == pytest.approx([expected.confidence] * 2, abs=1e-5)
    assert np.reshape(found["probabilities"], (2, -1)) == pytest.approx(
        np.array([expected.probabilities] * 2), abs=1e-5
    )
    assert found["version"] == ["v0.1.0"] * 2
    assert found["id"] == [sha256_bytes(photo)] * 2
    assert json.loads(found["plausible"][0]) == list(expected.plausible)
    assert (sent.json()["id"], sent.json()["model_version"]) == ("mine", "v0.1.0")
    named = infer(client, images(photo), place="/versions/v0.1.0", outputs=[{"name": "label"}])
    assert outputs(named) == {"label": [expected.label]}


def test_pixels_and_encoded_bytes_come_as_uint8_too(client, model):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 40, 30, 3), np.uint8)
    from tests.support.labelled_project import png

    expected = [one.label for one in model.predictor.predict([png(one) for one in pixels])]
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 40, 30, 3]}
    assert outputs(infer(client, tensor | {"data": pixels.tolist()}))["label"] == expected
    assert outputs(infer(client, tensor | {"data": pixels.ravel().tolist()}))["label"] == expected
    one = tensor | {"shape": [40, 30, 3], "data": pixels[0].tolist()}
    assert outputs(infer(client, one))["label"] == expected[:1]
    data = png(pixels[0])
    assert outputs(infer(client, tensor | {"shape": [len(data)], "data": list(data)}))["label"] == expected[:1]


def test_metadata_names_inputs_outputs_and_versions(client, model):
    about = client.get("/v2/models/small", headers=bearer("other")).json()
    assert about["versions"] == ["v0.1.0"]
    assert about["inputs"][0] == {"name": "image", "datatype": "BYTES", "shape": [-1]}
    (probabilities,) = [one for one in about["outputs"] if one["name"] == "probabilities"]
    assert probabilities["shape"] == [-1, len(model.predictor.classes)]
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2", headers=bearer("other")).json()["name"] == "evergreen"
    for path in ("other", "small/versions/v9", "small/versions/v9/ready", "other/ready"):
        sent = client.get(f"/v2/models/{path}", headers=bearer("other"))
        assert sent.status_code == 404
        assert sent.json()["error"] == sent.json()["detail"]


@pytest.mark.parametrize(
    ("tensor", "status"),
    [
        ({}, 400), ({"name": "image"}, 400), ({"name": "image", "datatype": "FP32", "shape": [1], "data": [1]}, 400),
        ({"name": "image", "datatype": "BYTES", "shape": [2], "data": ["aa"]}, 400),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": ["?"]}, 400),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": [7]}, 400),
        ({"name": "image", "datatype": "BYTES", "shape": [9], "data": ["aaaa"] * 9}, 413),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ="]}, 415),
        ({"name": "image", "datatype": "BYTES", "shape": [-1], "data": ["aaaa"]}, 400),
        ({"name": "image", "datatype": "BYTES", "shape": [1 << 70], "data": ["aaaa"]}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [1] * 11}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [256] * 12}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [-1] * 12}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [1.5] * 12}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": ["a"] * 12}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [1] * 11 + ["a" * 200_000]}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [True] * 12}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": {"a": 1}}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [[[[[1] * 12]]]]}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": [[1], [2, 3]]}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [2, 6], "data": [1] * 12}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 4], "data": [1] * 16}, 400),
        ({"name": "image", "datatype": "UINT8", "shape": [9, 1, 1, 3], "data": [1] * 27}, 413),
        ({"name": "picture", "datatype": "BYTES", "shape": [1], "data": ["aaaa"]}, 400),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be_read_are_refused(client, tensor, status):
    sent = infer(client, tensor)
    assert sent.status_code == status, sent.text
    assert sent.json()["error"]


def test_a_request_that_is_not_one_of_the_protocol_is_refused(client, photo):
    for content in ([], 3, {"inputs": 3}, {"inputs": []}, {"inputs": [images(photo), images(photo)]}):
        sent = client.post("/v2/models/small/infer", json=content, headers=bearer("other"))
        assert sent.status_code == 400, content
    assert infer(client, images(photo), outputs=[{"name": "no"}]).status_code == 400
    assert infer(client, images(photo), outputs=3).status_code == 400
    for repeated in ([{"name": "label"}] * 2, [{"name": "probabilities"}] * 100_000, {"name": "label"}):
        assert infer(client, images(photo), outputs=repeated).status_code == 400, "else a response grows at will"
    binary = bearer("other") | {"inference-header-content-length": "2"}
    assert client.post("/v2/models/small/infer", content=b"{}x", headers=binary).status_code == 415
    assert infer(client, images(photo), id=[]).status_code == 400
    bad = infer(client, images(photo, b"\xff\xd8\xff\xe0 not a photo" * 9))
    assert bad.status_code in (415, 422)
    assert "image 1" in bad.json()["error"]


def test_numbers_that_are_not_finite_fail_the_request_and_not_the_service(model, tmp_path, photo):
    class Broken(Gate):
        def answers(self, found):
            return [replace(one, ood=float("nan")) for one in self._predictor.answers(found)]

    broken = Broken(model.predictor)
    broken.open.set()
    with service(Model(broken, "v0.1.0"), tmp_path) as client:
        sent = infer(client, images(photo))
    assert (sent.status_code, sent.json()["reason"]) == (503, "model_failed")


def test_bodies_count_as_waiting_until_they_are_answered(model, tmp_path, photo):
    gate = Gate(model.predictor)
    gate.open.set()
    settings = Settings(queue_bytes=4 * len(photo))
    with service(Model(gate, "v0.1.0"), tmp_path, settings=settings) as client:
        gate.open.clear()
        gate.asked.clear()
        first = threading.Thread(target=infer, args=(client, images(photo, photo)))
        first.start()
        assert gate.asked.wait(120)  # else this one might come first, and wait at the gate
        assert infer(client, images(photo, photo)).status_code == 429
        gate.open.set()
        first.join()
        assert infer(client, images(photo, photo)).status_code == 200


# metrics


def page(client) -> dict[str, float]:
    sent = client.get("/metrics", headers=bearer("reader"))
    assert sent.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in sent.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_count_what_happened(model, tmp_path, photo):
    with service(model, tmp_path) as client:
        for _ in range(3):
            client.post("/predict", content=photo, headers=bearer("other"))
        client.post("/predict", content=b"not an image", headers=bearer("other"))
        infer(client, images(photo))
        found = page(client)
    (expected,) = model.predictor.predict([photo])
    assert found['evergreen_requests_total{code="200",route="/predict"}'] == 3
    assert found['evergreen_requests_total{code="415",route="/predict"}'] == 1
    assert found['evergreen_requests_total{code="200",route="/v2/models/{name}/infer"}'] == 1
    assert found['evergreen_request_seconds_count{route="/predict"}'] == 4
    assert found['evergreen_refused_total{reason="unknown_format"}'] == 1
    assert found['evergreen_unusable_total{reason="unknown_format"}'] == 1
    answers = {key: value for key, value in found.items() if key.startswith("evergreen_answers_total")}
    assert sum(answers.values()) == 4
    assert answers['evergreen_answers_total{cached="yes",role="live",version="v0.1.0"}'] == 3
    assert found.get('evergreen_review_total{role="live",version="v0.1.0"}', 0) == 4 * expected.needs_review
    assert found.get('evergreen_unfamiliar_total{role="live",version="v0.1.0"}', 0) == 4 * expected.is_ood
    assert found['evergreen_batch_images_sum{role="live"}'] == 1
    assert found['evergreen_log_answers{outcome="dropped"}'] == 3
    assert found["evergreen_waiting_images"] == 0
    assert found[f'evergreen_model{{bundle="{model.predictor.digest}",role="live",version="v0.1.0"}}'] == 1


WORKER = """
import sys
from serving.service.metrics import Metrics
from serving.service.service import Service
metrics = Metrics(lambda: {"dropped": 2})
metrics.started(lambda: 4)
metrics.request("/predict", 200, 0.01)
metrics._poll()
print("up", flush=True)
sys.stdin.readline()
class Router:
    def models(self): return {}
print(metrics.page(Router()).decode(), flush=True)
"""


def test_the_numbers_of_all_processes_are_added_up_and_outlive_them(tmp_path):
    environment = os.environ | {FOLDER: str(tmp_path)}

    def start():
        command = [sys.executable, "-c", WORKER]
        return subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment, cwd=ROOT)

    first, second = start(), start()
    assert [one.stdout.readline() for one in (first, second)] == ["up\n", "up\n"]
    first.kill()
    first.wait()
    for file in tmp_path.glob(f"gauge_live*_{first.pid}.db"):  # as the supervisor does
        file.unlink()
    said, _ = second.communicate("\n")
    assert 'evergreen_requests_total{code="200",route="/predict"} 2.0' in said
    assert 'evergreen_log_answers{outcome="dropped"} 4.0' in said
    assert "evergreen_waiting_images 4.0" in said  # what waited in the killed process waits no more
    assert '_bucket{le="0.01",route="/predict"} 2.0' in said


def test_the_queue_is_looked_at_after_requests(tmp_path):
    import asyncio

    from serving.service import metrics as module

    found = Metrics()
    waiting = [7]
    found.started(lambda: waiting[0])

    async def one_request():
        found.request("/predict", 200, 0.1)
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.call_later(module.POLL_SECONDS + 0.05, done.set)
        await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(one_request()))
    thread.start()
    until(lambda: found._own.get_sample_value("evergreen_waiting_images") == 7)
    thread.join()
