"""One image on its way through the service."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.live import Model
from serving.service.contracts import Answered, Asked, Choice
from serving.service.hooks import Role
from serving.service.problems import Problem


class Done:
    """Where the answers of one request's images go: the event loop's future of all of them."""

    __slots__ = ("future", "left", "loop", "results")

    def __init__(self, loop: asyncio.AbstractEventLoop, images: int):
        self.loop, self.left = loop, images
        self.future: asyncio.Future[list[Result | Problem]] = loop.create_future()
        self.results: list[Any] = [None] * images

    def put(self, index: int, result: "Result | Problem") -> None:
        """The result of one image; a later one is ignored. Only the event loop calls this."""
        if self.results[index] is not None:
            return
        self.results[index] = result
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(self.results)


class Result:
    """The answer to one image, and what a client is told of it."""

    __slots__ = ("answered", "cached", "id")

    def __init__(self, answered: Answered, id: str, cached: bool):
        self.answered, self.id, self.cached = answered, id, cached


class Job:
    """One image to answer, or, if `done` is None, one that a model answers unseen."""

    __slots__ = (
        "asked",
        "began",
        "choice",
        "deadline",
        "digest",
        "done",
        "index",
        "model",
        "pixels",
        "request",
        "role",
    )

    def __init__(self, asked: Asked, request: str, began: float, deadline: float, done: Done | None, index: int = 0):
        self.asked, self.request, self.began, self.deadline = asked, request, began, deadline
        self.done, self.index = done, index
        self.digest = ""
        self.choice: Choice | None = None
        self.model: Model | None = None  # that computes it
        self.role: Role = "live"
        self.pixels: np.ndarray | None = None  # (S, S, 3) uint8

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


def late(job: Job) -> Problem:
    """The refusal of an image that waited for too long."""
    waited = time.monotonic() - job.began
    return Problem(
        "deadline", f"the image waited {waited:.1f} s, longer than it may: send it again", {"retry-after": "1"}
    )


def deliver(results: list[tuple[Job, "Result | Problem"]]) -> None:
    """Hand results to the requests that wait for them, from any thread."""
    loops: dict[asyncio.AbstractEventLoop, list] = {}
    for job, result in results:
        if job.done is not None:
            loops.setdefault(job.done.loop, []).append((job.done.put, job.index, result))
    for loop, calls in loops.items():
        _call(loop, calls)


def _call(loop: asyncio.AbstractEventLoop, calls: list[tuple[Callable, int, Any]]) -> None:
    def put_all() -> None:
        for put, index, result in calls:
            put(index, result)

    try:
        loop.call_soon_threadsafe(put_all)
    except RuntimeError:  # the loop is closed: the service stopped, and its clients are gone
        return
