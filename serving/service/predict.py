"""POST /predict: answers to the images of a request."""

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from serving.service.about_image import FIELDS
from serving.service.answer import answer_fields, owner_fields, to_json
from serving.service.body import LARGE, ClientGone, parse_json_body, read_body, reserve
from serving.service.contracts import Asked
from serving.service.jobs import Result
from serving.service.problems import CONTENT_TYPE, Problem
from serving.service.reading import Read, is_json, is_raw, media_type, read_images
from serving.service.service import Service

TOP = 5  # classes listed if the client does not say
REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,100}")
_PROCESS, _numbers = secrets.token_hex(8), itertools.count(1)  # an id from the system's randomness costs 0.1 ms each
PARAMETERS = (*FIELDS, "top", "heat")


class Predict:
    """The ASGI endpoint. It does without the framework's request and response objects: it is the hot path."""

    def __init__(self, service: Service):
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        headers = Headers(scope=scope)
        request = request_id(headers)
        try:
            status, content = await self._answer(scope, headers, receive, request)
            body, kind, more = to_json(content), b"application/json", {}
        except Problem as problem:
            self._service.observer.refused("/predict", problem.reason)
            status, body, kind, more = problem.status, problem.body(request), CONTENT_TYPE.encode(), problem.headers
        except ClientGone:
            return
        await respond(send, status, body, kind, request, more)
        self._service.observer.request("/predict", status, time.monotonic() - began)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, request: str) -> tuple[int, Any]:
        settings, admission = self._service.settings, self._service.admission
        parameters = read_parameters(scope["query_string"])
        top, heat = _top(parameters), _heat(parameters)
        limit = settings.max_bytes if is_raw(media_type(headers)) else settings.max_request_bytes
        with reserve(headers, admission, limit):
            body = await read_body(receive, limit, settings)
            read = await self._read(body, headers, parameters)
            del body
            if heat and read.many:
                raise Problem("bad_request", "heat is for one image in a request, this one has a list")
            results = await self._results(read, request)
        if not read.many:
            content = single(results[0], read.images[0], top)
            if heat:
                content["heat"] = await self._service.heating.picture(read.images[0], results[0])
            return 200, {"request": request, **content}
        answers = [self._one_of_many(*pair, top) for pair in zip(results, read.images, strict=True)]
        return 200, {"request": request, "answers": answers}

    async def _read(self, body: bytes, headers: Headers, parameters: Mapping[str, str]) -> Read:
        def read() -> Read:
            return read_images(body, headers, parameters, self._service.settings)

        kind = media_type(headers)
        if is_json(kind, body):
            return await parse_json_body(body, self._service.admission, read)
        return read() if is_raw(kind) or len(body) <= LARGE else await asyncio.to_thread(read)

    async def _results(self, read: Read, request: str) -> list[Result | Problem]:
        """A Result or Problem for each image; those that could not be read from the body stay what they are."""
        if not read.many and isinstance(read.images[0], Problem):
            raise read.images[0]
        found = iter(await self._service.answer([one for one in read.images if isinstance(one, Asked)], request))
        return [next(found) if isinstance(one, Asked) else one for one in read.images]

    def _one_of_many(self, result: Result | Problem, asked: Asked | Problem, top: int) -> dict[str, Any]:
        try:
            return single(result, asked, top)
        except Problem as problem:
            self._service.observer.refused("/predict", problem.reason)
            return problem.fields() | (owner_fields(asked) if isinstance(asked, Asked) else {})


def single(result: Result | Problem, asked: Asked | Problem, top: int) -> dict[str, Any]:
    """The members of one answer. Raises Problem if there is none."""
    if isinstance(result, Problem):
        raise result
    prediction = result.answered.prediction
    if prediction.reason is not None:
        raise Problem(prediction.reason, prediction.detail)
    return answer_fields(result, asked, top)


def read_parameters(query: bytes) -> Mapping[str, str]:
    """The parameters behind "?". Raises Problem for unknown or repeated ones."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise Problem("bad_request", f"the parameters cannot be read: {error}") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem("bad_request", "a parameter comes twice")
    if unknown := sorted(set(found) - set(PARAMETERS)):
        raise Problem("bad_request", f"unknown parameters {unknown[:10]}: expected some of {list(PARAMETERS)}")
    return found


def request_id(headers: Headers) -> str:
    """The client's own id from X-Request-Id if it is a plain one, else a new one."""
    sent = headers.get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else f"{_PROCESS}-{next(_numbers):x}"


async def respond(
    send: Send, status: int, body: bytes, kind: bytes, request: str, more: Mapping[str, str] | None = None
) -> None:
    """Send one response."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"x-request-id", request.encode())]
    headers += [(name.encode(), value.encode()) for name, value in (more or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _top(parameters: Mapping[str, str]) -> int:
    text = parameters.get("top", str(TOP))
    if not text.isascii() or not text.isdecimal() or len(text) > 5:
        raise Problem("bad_request", f"top = {text[:40]!r}: expected a number of classes")
    return int(text)


def _heat(parameters: Mapping[str, str]) -> bool:
    text = parameters.get("heat", "0")
    if text not in ("0", "1"):
        raise Problem("bad_request", f"heat = {text[:40]!r}: expected 0 or 1")
    return text == "1"
