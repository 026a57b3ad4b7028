"""The HTTP service on a port of its own, with a real model, for tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette

from serving.live import Model
from serving.predictor import Predictor
from serving.service.contracts import Answered, Asked, Choice
from serving.service.protocol import LimitedProtocol
from tests.support.small_project import finished_project
from tests.support.waiting import until


class OneModel:
    """A router whose model, roles and switches a test sets."""

    def __init__(self, model: Model, **choice):
        self.model, self.choice = model, choice

    def choose(self, key: str | None, digest: str) -> Choice:
        return Choice(self.model, **self.choice)

    def models(self) -> dict[str, Model]:
        found = {"live": self.model}
        return found | ({"shadow": self.choice["shadow"]} if self.choice.get("shadow") else {})


class Kept:
    """A recorder that keeps what it is given."""

    def __init__(self):
        self.records: list[tuple[Asked, Answered]] = []

    def record(self, asked: Asked, answered: Answered) -> None:
        self.records.append((asked, answered))


def small_model(version: str = "v0.1.0", task: str = "multiclass") -> Model:
    return Model(Predictor(finished_project(task) / "artifacts/bundle"), version)


@contextmanager
def served(app: Starlette, **options) -> Iterator[httpx.Client]:
    """A client of `app` under uvicorn on a free port."""
    config = uvicorn.Config(app, port=0, http=LimitedProtocol, loop="uvloop", log_level="error", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)


class Gate:
    """A predictor whose model waits until `open` is set, or raises `error`; everything else is the real one's."""

    def __init__(self, predictor: Predictor, error: Exception | None = None):
        self._predictor, self.error = predictor, error
        self.open, self.asked = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def predict_pixels(self, pixels):
        if self.error is not None:
            raise self.error
        self.asked.set()
        assert self.open.wait(120)
        self.batches.append(len(pixels))
        return self._predictor.predict_pixels(pixels)

    def __getattr__(self, name: str):
        return getattr(self._predictor, name)
