"""`evergreen serve` behind its guards: tokens, limits, metrics of all workers, feedback that survives kill -9."""

import json
import os
import signal

import psutil
import pytest

from flows.predictor.tokens import create, revoke
from flows.production.feedback import waiting_feedback
from tests.support.live_project import make
from tests.support.served import served
from tests.support.small_project import CLASSES, image_bytes
from tests.support.waiting import until

SET = {"requests_per_minute: 0": "requests_per_minute: 8", "feedback_per_hour: 1000": "feedback_per_hour: 3"}
(IMAGE,) = image_bytes("Bag")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(make(tmp_path_factory.mktemp("guarded"), replace=SET)) as running:
        yield running


def token(service, name: str, *scopes: str) -> dict[str, str]:
    """The header with a new token, once it opens the service."""
    header = {"Authorization": f"Bearer {create(service.root, name, scopes, 'ann')}"}
    until(lambda: service.get("/ready", **header)[0] == 200)
    return header


def give(service, header: dict[str, str], *keys: str) -> tuple[int, dict]:
    labels = [{"key": key, "label": CLASSES[0], "who": "ann"} for key in keys]
    return service.get("/feedback", "POST", json.dumps(labels).encode(), **header)


def test_every_route_but_health_needs_a_token_that_is_not_revoked(service):
    assert service.get("/health", Authorization="")[0] == 200
    for path in ("/model", "/ready", "/metrics", "/v2", "/v2/models/classifier"):
        assert service.get(path, Authorization="")[0] == 401
    header = token(service, "short", "predict")
    assert service.get("/v2/models/classifier", **header)[0] == 200
    assert service.get("/metrics", **header)[0] == 403
    revoke(service.root, "short", "ann")
    until(lambda: service.get("/ready", **header)[0] == 401)


def test_a_client_may_send_what_params_yaml_says(service):
    header = token(service, "busy", "predict", "feedback")
    assert give(service, header, "a", "b")[0] == 202
    assert give(service, header, "c", "d")[0] == 429  # three an hour
    codes = [service.get("/model", **header)[0] for _ in range(8)]
    assert codes[-1] == 429  # eight a minute, whichever worker answers


def test_acknowledged_feedback_survives_kill_9_of_everything(tmp_path):
    with served(make(tmp_path)) as running:
        assert give(running, {}, *(f"order {n}" for n in range(5)))[0] == 202
        everything = [running.process.pid, *running.pids()]
        for pid in everything:
            os.kill(pid, signal.SIGKILL)
        running.process.wait()
        until(lambda: not any(psutil.pid_exists(pid) for pid in everything))
        waiting = [each.one.label for each in waiting_feedback(running.root)]
    assert [one.name for one in waiting] == [f"order {n}" for n in range(5)]
    assert {one.client for one in waiting} == {"checkout"}
