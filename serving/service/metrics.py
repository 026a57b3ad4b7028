"""GET /metrics: what the service does, for Prometheus, over all its processes.

    app = create_app(..., observer=metrics, routes=[*metrics.routes(), ...])

Each process counts in files of its own in the folder that FOLDER names; the process that is asked adds them up.
`flows/predictor/run.py` empties the folder first, and removes what waits in processes that have ended; their counters
stay. No label has values that come from outside: routes, reasons and versions are few.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serving.live import Model
from serving.service.contracts import Answered, Router
from serving.service.endpoint import route, service_of
from serving.service.hooks import Observer, Role

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
POLL_SECONDS = 1.0  # after a request: then the queue and the log are looked at


class Metrics(Observer):
    """The numbers of one process. logged: outcomes of the production log so far, such as {"dropped": 3}."""

    def __init__(self, logged: Callable[[], Mapping[str, float]] = dict):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._logged, self._polling = logged, False
        self._queue: Callable[[], int] = lambda: 0
        own = self._own = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Any:
            return _children(Counter(f"evergreen_{name}", what, labels, registry=own))

        self._requests = counter("requests", "Requests by route and status.", "route", "code")
        self._refused = counter("refused", "Requests or images without an answer, by reason.", "reason")
        self._answers = counter("answers", "Answered images.", "version", "role", "cached")
        self._unfamiliar = counter("unfamiliar", "Answered images that are out of distribution.", "version", "role")
        self._review = counter("review", "Answered images that a person should look at.", "version", "role")
        self._unusable = counter("unusable", "Images that cannot be used, by reason.", "reason")
        self._failures = counter("model_failures", "Images on which a model raised an error.", "version", "role")
        self._left_out = counter("shadow_left_out", "Images not shown to the model that answers unseen.", "version")
        self._latency = _children(
            Histogram("evergreen_request_seconds", "Time of a request.", ("route",), registry=own, buckets=SECONDS)
        )
        self._batches = _children(
            Histogram(
                "evergreen_batch_images", "Images in one call of a model.", ("role",), registry=own, buckets=IMAGES
            )
        )
        self._computing = counter("model_seconds", "Time in which models computed.", "version", "role")
        self._waiting = Gauge(
            "evergreen_waiting_images", "Images of requests being answered.", registry=own, multiprocess_mode="livesum"
        )
        self._log = Gauge(
            "evergreen_log_answers",
            "Answers by what became of them in the production log; dropped, lost and failed are missing from it.",
            ("outcome",),
            registry=own,
            multiprocess_mode="sum",
        )

    # what the service tells

    def started(self, waiting: Callable[[], int]) -> None:
        self._queue = waiting

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests(route, str(status)).inc()
        self._latency(route).observe(seconds)
        if not self._polling:
            try:
                asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)
            except RuntimeError:
                return
            self._polling = True

    def refused(self, route: str, reason: str) -> None:
        self._refused(reason).inc()

    def batch(self, model: Model, role: Role, images: int, seconds: float) -> None:
        self._batches(role).observe(images)
        self._computing(model.version, role).inc(seconds)

    def answered(self, answer: Answered, cached: bool) -> None:
        prediction, names = answer.prediction, (answer.model.version, answer.role)
        if prediction.reason is not None:
            self._unusable(prediction.reason).inc()
            return
        self._answers(*names, "yes" if cached else "no").inc()
        if prediction.is_ood:
            self._unfamiliar(*names).inc()
        if prediction.needs_review:
            self._review(*names).inc()

    def model_failed(self, model: Model, role: Role, error: Exception) -> None:
        self._failures(model.version, role).inc()

    def shadow_left_out(self, model: Model) -> None:
        self._left_out(model.version).inc()

    # what Prometheus reads

    def routes(self) -> list[BaseRoute]:
        """The route /metrics."""

        async def metrics(request: Request, _: str) -> Response:
            from prometheus_client import CONTENT_TYPE_LATEST

            self._poll()
            text = await run_in_threadpool(self.page, service_of(request).router)
            return Response(text, media_type=CONTENT_TYPE_LATEST)

        return [route("/metrics", metrics, "GET")]

    def page(self, router: Router) -> bytes:
        """Everything in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import GaugeMetricFamily
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._own
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        models = CollectorRegistry()

        class Models:
            def collect(self):
                found = GaugeMetricFamily(
                    "evergreen_model", "Models in use by role.", labels=["version", "bundle", "role"]
                )
                for role, model in router.models().items():
                    found.add_metric([model.version, model.predictor.digest, role], 1)
                yield found

        models.register(Models())
        return generate_latest(registry) + generate_latest(models)

    def _poll(self) -> None:
        self._polling = False
        self._waiting.set(self._queue())
        for outcome, count in self._logged().items():
            self._log.labels(outcome).set(count)


def _children(metric: Any) -> Callable[..., Any]:
    """`metric.labels` for few values, without its lock and checks: this is the hot path."""
    known: dict[tuple[str, ...], Any] = {}

    def child(*values: str) -> Any:
        found = known.get(values)
        if found is None:
            found = known[values] = metric.labels(*values)
        return found

    return child
