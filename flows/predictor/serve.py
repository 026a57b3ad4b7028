"""The HTTP service of a project, put together: what each worker of `evergreen serve` runs."""

from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.predictor.counts import CountingMetrics
from flows.predictor.router import ProjectRouter
from flows.predictor.tokens import TokenBook
from monitoring.log.feedback import FeedbackJournal
from monitoring.log.production_log import open_log
from monitoring.log.shadow import LogRecorder, open_recorder
from serving.service.access import Guard
from serving.service.app import create_app
from serving.service.feedback import feedback_routes
from serving.service.kserve import kserve_routes
from serving.service.rates import Rates
from serving.service.service import Service
from serving.service.settings import Settings
from tasks.common.params import Params, PredictorParams
from tasks.releases.store import open_store
from tasks.releases.switches import predictor_dir

MEGABYTE = 1 << 20
ENVELOPE = 1 << 16  # bytes of a request around one image in base64


class Composed(NamedTuple):
    """An app and what it consists of."""

    app: Starlette
    service: Service
    router: ProjectRouter
    recorder: LogRecorder


def compose(root: Path, params: Params) -> Composed:
    """The service of the project at `root`, with its models loaded. Raises EvergreenError if nothing is live yet."""
    section = params.predictor
    router = ProjectRouter(root, lambda: open_store(params.store, root), section.refresh_seconds, section.threads)
    recorder = open_recorder(root, params, router.models()["live"])
    rates = Rates(predictor_dir(root) / "rates")
    guard = Middleware(Guard, tokens=TokenBook(root), rates=rates, per_minute=section.requests_per_minute)
    metrics = CountingMetrics(lambda: logged(recorder))
    metrics.counts = router.counts
    routes = [
        *feedback_routes(FeedbackJournal(open_log(root, params).store), rates, section.feedback_per_hour),
        *kserve_routes(params.bundle.name),
        *metrics.routes(),
    ]
    middleware = [Middleware(Draining), guard]
    app = create_app(router, recorder, settings(section), observer=metrics, routes=routes, middleware=middleware)
    return Composed(app, app.state.service, router, recorder)


def logged(recorder: LogRecorder) -> dict[str, float]:
    """What became of this worker's answers, those given unseen included."""
    outcomes = ("written", "waiting", "not_sampled", "over_cap", "dropped", "lost", "failed")
    return {name: sum(getattr(stats, name) for stats in recorder.stats) for name in outcomes}


def settings(section: PredictorParams) -> Settings:
    """The limits of one worker."""
    return Settings(
        decoders=section.decoders,
        max_batch=section.max_batch,
        queue=section.queue,
        deadline_seconds=section.deadline_seconds,
        max_bytes=section.max_bytes,
        max_request_bytes=max(Settings.max_request_bytes, section.max_bytes * 4 // 3 + ENVELOPE),
        max_images=section.max_images,
        cache_bytes=section.cache_mb * MEGABYTE,
    )


class Draining:
    """Asks clients to open another connection while this worker drains: another worker answers there.

    A worker that closed an idle connection could close it just as its client sends the next request.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        service = scope["app"].state.service

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and service.draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        return await self._app(scope, receive, closing)
