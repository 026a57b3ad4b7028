"""Counts answers and failures of each arm of a rollout, for the checks `errors` and `starts`."""

import threading
import uuid

from serving.live import Model
from serving.service.contracts import Answered
from serving.service.hooks import Role
from serving.service.metrics import Metrics
from tasks.releases.arm_failures import Failures, count_failures
from tasks.releases.rollout import Rollout
from tasks.releases.store import Releases


class ArmCounts:
    """Totals of this process since the rollout began. Threads may share it.

    They stay in memory, so what the store did not take once is in the next hand-over.
    """

    def __init__(self) -> None:
        # the store keeps one total for each name: a restarted process must not replace its predecessor's
        self.worker = uuid.uuid4().hex
        self._id: str | None = None  # of the rollout that the totals are about
        self._rollout: Rollout | None = None  # that goes on
        self._totals: dict[Role, Failures] = {}
        self._loaded: bool | None = None  # can this process compute with the challenger
        self._why = ""  # it cannot
        self._handed: tuple = ()
        self._lock, self._handing = threading.Lock(), threading.Lock()

    def follow(self, rollout: Rollout | None, loaded: bool | None = None, why: str = "") -> None:
        """Count for `rollout` from now on; None pauses. Totals restart only for another rollout than before.

        loaded: whether this process can compute with its challenger, None where it does not know yet. why: it cannot.
        """
        with self._lock:
            self._rollout = rollout
            if rollout is not None:
                self._loaded, self._why = loaded, why
                if rollout.id != self._id:
                    self._id, self._totals, self._handed = rollout.id, {}, ()

    def count(self, model: Model, role: Role, failed: bool) -> None:
        """One image was shown to `model`. Pinned models and those of another rollout do not count."""
        with self._lock:
            if self._rollout is None:
                return
            expected = self._rollout.champion if role == "live" else self._rollout.version
            if model.version == expected:
                before = self._totals.get(role, Failures())
                self._totals[role] = Failures(asked=before.asked + 1, failed=before.failed + failed)

    def hand_over(self, releases: Releases) -> None:
        """Write the totals to the release store if they changed. Raises what the store raises."""
        with self._handing:
            with self._lock:
                rollout_id, handed = self._id, self._handed
                new = (dict(self._totals), self._loaded, self._why)
            if rollout_id is None or new == handed or new == ({}, None, ""):
                return
            count_failures(releases, rollout_id, self.worker, *new)
            with self._lock:
                if rollout_id == self._id:
                    self._handed = new


class CountingMetrics(Metrics):
    """The service's metrics; `counts`, set by the caller, is told of answers and failures, too."""

    counts: ArmCounts

    def answered(self, answer: Answered, cached: bool) -> None:
        super().answered(answer, cached)
        if not cached:  # the model did not compute it, so it could not fail
            self.counts.count(answer.model, answer.role, failed=False)

    def model_failed(self, model: Model, role: Role, error: Exception) -> None:
        super().model_failed(model, role, error)
        self.counts.count(model, role, failed=True)
