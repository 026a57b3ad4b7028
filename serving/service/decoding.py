"""A bounded pool of threads that hash, look up and decode images for the model's thread.

Pillow and hashlib release Python's lock, so threads decode in parallel. A decoder's threads are few: each may hold the
largest image that the limits allow, decoded.
"""

import logging
import queue
import threading
import time

from serving.predictor import Prediction
from serving.service.batcher import Batcher
from serving.service.cache import AnswerCache
from serving.service.contracts import Router
from serving.service.jobs import Job, late
from serving.service.pixels import read_pixels, spec_of
from serving.service.problems import Problem
from serving.service.report import Reporter
from tasks.common.files import sha256_bytes

logger = logging.getLogger("evergreen.service")


class Decoders:
    """`put` a job: it ends as an answer from the cache, a refusal, or pixels that wait for the model."""

    def __init__(self, threads: int, router: Router, cache: AnswerCache, batcher: Batcher, reporter: Reporter):
        self._router, self._cache, self._batcher, self._reporter = router, cache, batcher, reporter
        self._observer = reporter.observer
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"evergreen-decode-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Finish what waits, then stop the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._take(job)
            except Exception:  # of the router or of this class: without it the request would wait forever
                logger.exception("an image got no answer")
                self._reporter.refuse(job, Problem("failed", "an error of the service; its log says more"))

    def _take(self, job: Job) -> None:
        if job.late:
            return self._reporter.refuse(job, late(job))
        job.digest = sha256_bytes(job.asked.image)
        job.choice = self._router.choose(job.asked.key, job.digest)
        job.model, job.role = job.choice.model, job.choice.role
        ready = self._prepare(job)
        if job.choice.shadow is not None:
            try:
                self._show_unseen(job, ready)
            except Exception as error:  # costs the client no answer
                self._observer.model_failed(job.choice.shadow, "shadow", error)
        return None

    def _prepare(self, job: Job) -> bool:
        """Answer `job` from the cache or as a bad image, or give it to the model: True."""
        if (known := self._cache.get(job.digest, job.model.predictor.digest)) is not None:
            self._reporter.answer([(job, known)], cached=True)
            return False
        if job.pixels is None:
            found = read_pixels(job.asked.image, job.model)
            if isinstance(found, Prediction):
                self._reporter.answer([(job, found)])
                return False
            job.pixels = found
        self._batcher.put(job)
        return True

    def _show_unseen(self, job: Job, ready: bool) -> None:
        unseen = Job(job.asked, job.request, time.monotonic(), job.deadline, None)
        unseen.digest, unseen.choice = job.digest, job.choice
        unseen.model, unseen.role = job.choice.shadow, "shadow"
        if ready and spec_of(unseen.model) == spec_of(job.model):
            unseen.pixels = job.pixels
        self._prepare(unseen)
