"""Compute images of many requests at once, in one thread.

The thread never waits for a batch to fill. Whenever it is free, it takes all that is ready, at most `max_batch`: a lone
request is computed at once, and under load the batches grow by themselves. Images for the model that answers unseen
are computed only while no client waits.
"""

import logging
import queue
import threading
import time
from collections import deque
from dataclasses import replace

import numpy as np

from serving.live import Model
from serving.predictor import Prediction
from serving.service.cache import AnswerCache
from serving.service.contracts import Router
from serving.service.hooks import Observer
from serving.service.jobs import Job, late
from serving.service.pixels import read_pixels
from serving.service.problems import Problem
from serving.service.report import Reporter
from serving.service.settings import Settings

logger = logging.getLogger("evergreen.service")


class Batcher:
    """The model's thread. `put` a job with its pixels."""

    def __init__(self, settings: Settings, router: Router, cache: AnswerCache, reporter: Reporter, observer: Observer):
        self._settings, self._router, self._cache = settings, router, cache
        self._reporter, self._observer = reporter, observer
        self._asked: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: look again
        self._unseen: deque[Job] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="evergreen-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Decoded images that wait for the model."""
        return self._asked.qsize()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def put(self, job: Job) -> None:
        if job.role != "shadow":
            return self._asked.put(job)
        if len(self._unseen) >= self._settings.shadow_queue:
            return self._observer.shadow_left_out(job.model)
        self._unseen.append(job)
        return self._asked.put(None)

    def close(self) -> None:
        """Answer what waits, then stop the thread."""
        self._closing = True
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            groups: dict[tuple[int, str], list[Job]] = {}
            for job in jobs:
                groups.setdefault((id(job.model.predictor), job.role), []).append(job)
            for group in groups.values():
                try:
                    self._compute(group)
                except Exception:  # an error of this class must not end the thread; the requests get their deadline
                    logger.exception("a batch got no answer")
                    for job in group:
                        self._reporter.refuse(job, Problem("failed", "an error of the service; its log says more"))

    def _next(self) -> list[Job]:
        """All jobs that are ready, at most max_batch, of clients before unseen ones; none: the batcher closes."""
        while True:
            jobs: list[Job] = []
            idle = not self._unseen and not self._closing
            try:
                while len(jobs) < self._settings.max_batch:
                    job = self._asked.get(block=idle and not jobs)
                    if job is None:
                        idle = False
                    elif job.late:
                        self._reporter.refuse(job, late(job))
                    else:
                        jobs.append(job)
            except queue.Empty:
                pass
            while not jobs and self._unseen:
                jobs = [self._unseen.popleft() for _ in range(min(len(self._unseen), self._settings.max_batch))]
            if jobs or self._closing:
                return jobs

    def _compute(self, jobs: list[Job]) -> None:
        model, role = jobs[0].model, jobs[0].role
        began = time.perf_counter()
        try:
            predictions = predict(model, np.stack([job.pixels for job in jobs]))
        except Exception as error:  # of ONNX Runtime
            return self._failed(jobs, error)
        self._observer.batch(model, role, len(jobs), time.perf_counter() - began)
        for job, prediction in zip(jobs, predictions, strict=True):
            self._cache.put(job.digest, model.predictor.digest, prediction)
        return self._reporter.answer(zip(jobs, predictions, strict=True))

    def _failed(self, jobs: list[Job], error: Exception) -> None:
        """Try the images one by one; then let the live model answer for a canary, or refuse."""
        if len(jobs) > 1:
            for job in jobs:
                self._compute([job])
            return
        (job,) = jobs
        logger.warning("%s (%s) failed on an image: %s", job.model.version, job.role, error)
        self._observer.model_failed(job.model, job.role, error)
        live = self._router.models().get("live")
        if job.role != "canary" or live is None:
            return self._reporter.refuse(job, Problem("model_failed", "the model failed on this image"))
        job.model, job.role = live, "live"
        found = read_pixels(job.asked.image, live)
        if isinstance(found, Prediction):
            return self._reporter.answer([(job, found)])
        job.pixels = found
        return self._compute([job])


def predict(model: Model, pixels: np.ndarray) -> list[Prediction]:
    """One Prediction per row of `pixels` (N, S, S, 3), each with features of its own."""
    answers = model.predictor.answers(model.predictor.predict_pixels(pixels))
    if len(answers) == 1:
        return answers
    # a row is a view of the whole batch, which a kept answer would keep in memory
    return [replace(answer, features=answer.features.copy()) for answer in answers]
