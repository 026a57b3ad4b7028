"""What routes besides /predict share: errors as JSON, the request's id, reading JSON within limits."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.service.about_image import parse_json
from serving.service.answer import to_json
from serving.service.body import ClientGone, parse_json_body, read_body, reserve
from serving.service.predict import request_id
from serving.service.problems import CONTENT_TYPE, Problem
from serving.service.service import Service

Handler = Callable[[Request, str], Awaitable[Response]]  # of a request and its id


def route(
    path: str, handle: Handler, method: str, extra: Callable[[Problem], Mapping[str, Any]] = lambda _: {}
) -> Route:
    """A route whose Problems become responses. extra: further members of their bodies."""

    async def endpoint(request: Request) -> Response:
        began, name = time.monotonic(), request_id(request.headers)
        observer = service_of(request).observer
        try:
            response = await handle(request, name)
        except Problem as problem:
            observer.refused(path, problem.reason)
            body = to_json(problem.fields(name) | extra(problem))
            response = Response(body, problem.status, dict(problem.headers), CONTENT_TYPE)
        except ClientGone:
            response = Response(status_code=400)  # nobody reads it
        response.headers["x-request-id"] = name
        observer.request(path, response.status_code, time.monotonic() - began)
        return response

    return Route(path, endpoint, methods=[method])


def service_of(request: Request) -> Service:
    """The service of this process."""
    return request.app.state.service


@asynccontextmanager
async def sent(request: Request, limit: int, make: Callable[[Any], Any]) -> AsyncIterator[Any]:
    """`make` of the request's JSON. Its body counts as waiting until the block ends. Raises Problem, ClientGone."""
    service = service_of(request)
    with reserve(request.headers, service.admission, limit):
        body = await read_body(request.receive, limit, service.settings)
        yield await parse_json_body(body, service.admission, lambda: make(parse_json(body, "the body")))


def json_response(content: Any, status: int = 200) -> Response:
    """`content` as JSON."""
    return Response(to_json(content), status, media_type="application/json")
