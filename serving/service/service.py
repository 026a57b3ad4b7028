"""The service without HTTP: images in, results out; POST /predict and KServe both ask it.

service = Service(router, recorder, settings)
service.start()                                        # in the event loop
(result,) = await service.answer([Asked(photo)], request="r-1")
result.answered.prediction.label                       # or `result` is a Problem
"""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from serving.service.batcher import Batcher, predict
from serving.service.cache import AnswerCache
from serving.service.contracts import Asked, Recorder, Router
from serving.service.decoding import Decoders
from serving.service.heating import Heating
from serving.service.hooks import Observer
from serving.service.jobs import Done, Job, Result
from serving.service.limits import Admission
from serving.service.problems import Problem
from serving.service.report import Reporter
from serving.service.settings import Settings


class Service:
    """Decoders, cache and the model's thread of one process. All methods belong to the event loop."""

    def __init__(self, router: Router, recorder: Recorder, settings: Settings, observer: Observer | None = None):
        self.router, self.recorder, self.settings = router, recorder, settings
        self.observer = observer or Observer()
        self.admission = Admission(settings)
        self.heating = Heating()
        self.cache = AnswerCache(settings.cache_bytes)
        self.draining = False  # set it before the process stops: /ready says no, requests are still answered
        self._batcher: Batcher | None = None
        self._decoders: Decoders | None = None

    def start(self) -> None:
        """Compute one image with each model, then start the threads."""
        self.observer.started(lambda: self.waiting)
        for model in self.router.models().values():
            side = model.predictor.about["preprocess"]["resolution"]
            predict(model, np.zeros((1, side, side, 3), np.uint8))
        reporter = Reporter(self.recorder, self.observer)
        self._batcher = Batcher(self.settings, self.router, self.cache, reporter, self.observer)
        self._decoders = Decoders(self.settings.decoders, self.router, self.cache, self._batcher, reporter)

    def stop(self) -> None:
        """Answer what waits, then end the threads."""
        if self._decoders is not None:
            self._decoders.close()
            self._batcher.close()
            self.heating.close()
            self._decoders = self._batcher = None

    @property
    def ready(self) -> bool:
        """May new requests come?"""
        running = self._batcher is not None and self._batcher.alive
        return running and not self.draining and "live" in self.router.models()

    @property
    def waiting(self) -> int:
        """Images of requests that are being answered."""
        return self.admission.images

    async def answer(self, asked: Sequence[Asked], request: str) -> list[Result | Problem]:
        """A Result or a Problem per image, in order. Raises Problem if there is no room for all.

        A Result whose prediction has a `reason` is of bytes that are not a usable image; it is logged like an answer.
        request: the request's id.
        """
        if self._decoders is None:
            raise Problem("not_ready", "the service starts or stops: send it again", {"retry-after": "1"})
        with self.admission.room(len(asked)):
            began = time.monotonic()
            done = Done(asyncio.get_running_loop(), len(asked))
            for index, one in enumerate(asked):
                self._decoders.put(Job(one, request, began, began + self.settings.deadline_seconds, done, index))
            return await done.future if asked else []
