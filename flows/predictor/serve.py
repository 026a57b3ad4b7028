"""The HTTP service of a project, put together: what each worker of `evergreen serve` runs."""

import hmac
from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.predictor.router import ProjectRouter
from monitoring.log.shadow import LogRecorder, open_recorder
from serving.service.app import create_app
from serving.service.problems import Problem
from serving.service.service import Service
from serving.service.settings import Settings
from tasks.common.checkout import checkout
from tasks.common.params import Params, PredictorParams
from tasks.releases.store import open_store

OPEN = ("/health",)  # answered without a token
MEGABYTE = 1 << 20


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
    middleware = [Middleware(Draining), Middleware(Secret, secret=checkout(root).secret)]
    app = create_app(router, recorder, settings(section), middleware=middleware)
    return Composed(app, app.state.service, router, recorder)


def settings(section: PredictorParams) -> Settings:
    """The limits of one worker."""
    return Settings(
        decoders=section.decoders,
        max_batch=section.max_batch,
        queue=section.queue,
        deadline_seconds=section.deadline_seconds,
        max_bytes=section.max_bytes,
        max_request_bytes=max(Settings.max_request_bytes, section.max_bytes),
        max_images=section.max_images,
        cache_bytes=section.cache_mb * MEGABYTE,
    )


class Secret:
    """Asks for the checkout's secret as a bearer token on every route but OPEN."""

    def __init__(self, app: ASGIApp, secret: str):
        self._app, self._expected = app, f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = Headers(scope=scope).get("authorization", "").encode()
            if not hmac.compare_digest(given, self._expected):
                raise Problem("unauthorized", "send a token: Authorization: Bearer TOKEN")
        await self._app(scope, receive, send)


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
