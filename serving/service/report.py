"""Make an answer out of a prediction: tell the recorder, the observer and the request."""

import time
from collections.abc import Iterable
from dataclasses import replace

from serving.predictor import Prediction
from serving.service.contracts import Answered, Recorder
from serving.service.hooks import Observer
from serving.service.jobs import Job, Result, deliver
from serving.service.problems import Problem


class Reporter:
    """Threads may share it."""

    def __init__(self, recorder: Recorder, observer: Observer):
        self.recorder, self.observer = recorder, observer

    def answer(self, found: Iterable[tuple[Job, Prediction]], cached: bool = False) -> None:
        """Answer the requests first, then log: nobody waits for the log."""
        results = [(job, self._result(job, prediction, cached)) for job, prediction in found]
        deliver(results)
        for job, result in results:
            self.recorder.record(job.asked, result.answered)
            self.observer.answered(result.answered, cached)

    def refuse(self, job: Job, problem: Problem) -> None:
        """The image gets no answer. The handler of the request tells the observer."""
        deliver([(job, problem)])

    def _result(self, job: Job, prediction: Prediction, cached: bool) -> Result:
        if job.choice.humans_only and prediction.reason is None and not prediction.needs_review:
            prediction = replace(prediction, needs_review=True)
        spent = (time.monotonic() - job.began) * 1e3
        answered = Answered(prediction, job.model, job.role, spent, job.request, pixels=job.pixels)
        return Result(answered, job.digest, cached)
