"""The HTTP service as one ASGI app.

    app = create_app(router, recorder, settings, observer=metrics, routes=[...], middleware=[...])
    uvicorn.run(app, http="httptools", loop="uvloop")

It is Starlette on uvicorn, the base of FastAPI, without FastAPI's models of requests and responses: that costs less
CPU time per image than plain FastAPI and about as little as LitServe (`python -m benchmarks.serve_stack`), which has no
place for a canary, a shadow, one bounded queue or the reason of a refusal for each image.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.service.about import About
from serving.service.contracts import Recorder, Router
from serving.service.hooks import Observer
from serving.service.predict import Predict
from serving.service.problems import CONTENT_TYPE, Problem
from serving.service.service import Service
from serving.service.settings import Settings

logger = logging.getLogger("evergreen.service")

REASONS = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def create_app(
    router: Router,
    recorder: Recorder,
    settings: Settings | None = None,
    *,
    observer: Observer | None = None,
    routes: Sequence[BaseRoute] = (),
    middleware: Sequence[Middleware] = (),
) -> Starlette:
    """The app. `app.state.service` is the Service, from which other routes get answers.

    observer: told of requests, batches and answers (hooks.py). routes: further Starlette routes, such as /metrics,
    /feedback and /v2/...; they raise Problem, which becomes its response, and reach the service as
    `request.app.state.service`, whose `answer` computes images. middleware: pure ASGI classes, outermost first,
    such as the check of tokens; they see every request, also of unknown paths, and should leave /health open. A
    middleware that raises Problem gets its response, too.
    The threads start with ASGI's lifespan and stop after the last request. `service.draining = True` makes /ready say
    no while requests are still answered.
    """
    service = Service(router, recorder, settings or Settings(), observer)
    about = About(service)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.draining = True
        service.stop()

    app = Starlette(
        routes=[
            Route("/predict", Predict(service), methods=["POST"]),
            Route("/model", about.model),
            Route("/health", about.health),
            Route("/ready", about.ready),
            *routes,
        ],
        middleware=[Middleware(Problems), *middleware],
        exception_handlers={Problem: _say_problem, HTTPException: _say_http},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class Problems:
    """Gives a Problem that a middleware raised its response, and hides what an unexpected error says."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if started:
                raise
            if not isinstance(error, Problem):
                logger.exception("%s %s failed", scope["method"], ascii(scope["path"]))
                error = Problem("failed", "an error of the service; its log says more")
            await _response(error)(scope, receive, send)
        return None


async def _say_problem(_: Request, problem: Problem) -> Response:
    return _response(problem)


async def _say_http(request: Request, error: HTTPException) -> Response:
    reason = REASONS.get(error.status_code, "bad_request")
    details = {
        404: f"{request.url.path} is not a route of this service",
        405: f"{request.method} is not a method of {request.url.path}",
    }
    return _response(Problem(reason, details.get(error.status_code, error.detail), error.headers))


def _response(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, dict(problem.headers), CONTENT_TYPE)
