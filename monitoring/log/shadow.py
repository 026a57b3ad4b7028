"""The shadow log: what a challenger answered unseen, apart from the answers that were given.

    <capture.url>/shadow/2026-11-21/14/<hash>-<bytes>.parquet    like the production log, see log_schema

Its rows hold no image, thumbnail, measures or features: the production log has them for the same image. No reader of
the production log sees these rows, so drift, live accuracy and the review queue are about given answers only.
"""

from pathlib import Path

from monitoring.log.capture import Capture, Stats
from monitoring.log.production_log import Log, open_at, open_log
from serving.live import Model
from serving.service.contracts import Answered, Asked
from tasks.common.params import Params

FOLDER = "shadow"


def open_shadow_log(root: Path, params: Params) -> Log:
    """The shadow log of the project in `root`."""
    return open_at(f"{params.capture.url.rstrip('/')}/{FOLDER}", root, params.store, params.data.task)


class LogRecorder:
    """Records answers of the HTTP service: given ones in the production log, unseen ones in the shadow log.

    Both logs sample by image (capture.sample), so the two answers to one image are kept or left out together.
    """

    def __init__(self, given: Capture, unseen: Capture):
        """unseen: a lean capture of the shadow log."""
        self._given, self._unseen = given, unseen

    def record(self, asked: Asked, answered: Answered) -> None:
        """Keep one answer. Never waits, never raises."""
        capture = self._unseen if answered.role == "shadow" else self._given
        capture.record(
            asked.image,
            answered.prediction,
            source=asked.source,
            at=answered.at,
            latency_ms=answered.latency_ms,
            key=asked.key,
            path=asked.path,
            slices=asked.slices,
            model=answered.model,
            pixels=answered.pixels,
        )

    @property
    def stats(self) -> tuple[Stats, Stats]:
        """What became of the given answers, and of the unseen ones."""
        return self._given.stats, self._unseen.stats

    def flush(self, timeout: float = 30.0) -> bool:
        """Write what was recorded before this call; False if a log takes more than `timeout` seconds."""
        return all([self._given.flush(timeout), self._unseen.flush(timeout)])

    def close(self, timeout: float = 10.0) -> None:
        """Write what is waiting and stop."""
        self._given.close(timeout)
        self._unseen.close(timeout)


def open_recorder(root: Path, params: Params, model: Model) -> LogRecorder:
    """The recorder of the project in `root`; `model` stands for the answers of callers that name none."""
    return LogRecorder(
        Capture(open_log(root, params), *model, params.capture),
        Capture(open_shadow_log(root, params), *model, params.capture, lean=True),
    )
