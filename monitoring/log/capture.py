"""Log what a model answers in production, at no risk for production.

    from monitoring.log.capture import Capture

    with Capture.open("/srv/shoes") as capture:             # an Evergreen project: follows its live model
        answers = capture.predict([photo], source="cam-1")  # as Predictor.predict, and into the log

    capture = Capture.open("s3://logs/shoes", bundle="bundle/")  # a log and a bundle, without the project
    capture.record(photo, prediction, source="cam-1")            # answers made elsewhere

A call puts a reference to the image into a bounded queue, and nothing else. A thread of its own hashes, samples,
measures and writes. When it cannot keep up, or the store is down, answers are not logged; they are counted in `stats`
and a warning is logged once a minute. What a kill takes is what had not been written: an unfilled buffer at most
(capture.buffer_rows, capture.flush_seconds) where the thread keeps up. A fork leaves the parent's rows to the parent
and starts a thread of its own in the child; a child that ends with os._exit (as multiprocessing's do) must call
`close` itself.
"""

import atexit
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from monitoring.log.production_log import Log, open_at, open_log
from monitoring.log.rows import Answer, row, table
from serving.live import Live, Model
from serving.predictor import Prediction, Predictor
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import CaptureParams, StoreParams, load_params
from tasks.common.paths import cache_dir
from tasks.common.text import text
from tasks.releases.store import open_store

WAITING_ROWS, WAITING_BYTES = 4096, 64 << 20  # of images not yet looked at by the thread
BUFFER_BYTES = 32 << 20  # of images in rows: a buffer this big is written though it is not full
UNSENT = 4  # files held for a store that is down
SOURCES = 10_000  # counted one by one; those beyond share a count: names come from outside
LOOK_SECONDS = 0.25  # an answer waits this long for the thread, unless a buffer is full before
REPORT_SECONDS = 60.0

logger = logging.getLogger("evergreen.capture")


@dataclass(frozen=True)
class Stats:
    """Answers since the start. offered = written + waiting + not_sampled + over_cap + dropped + lost + failed."""

    offered: int = 0
    written: int = 0
    waiting: int = 0
    not_sampled: int = 0  # capture.sample
    over_cap: int = 0  # capture.max_per_source_per_hour
    dropped: int = 0  # the queue was full, or the capture closed
    lost: int = 0  # the store was down for too long
    failed: int = 0  # could not be made into a row
    error: str | None = None  # the newest


class Capture:
    """Answers of `predictor` into `log`. Threads may share it."""

    def __init__(self, log: Log, predictor: Predictor, version: str, params: CaptureParams, live: Live | None = None):
        """live: followed by `predict` instead of `predictor`, where given."""
        self.log, self.params = log, params
        self._model, self._live = Model(predictor, version), live
        self._start()
        atexit.register(self.close)

    @classmethod
    def open(
        cls, where: Path | str, bundle: Path | str | None = None, version: str | None = None, every: float = 10.0
    ) -> "Capture":
        """For the project in folder `where`: its log, and its live model (looked for every `every` seconds) unless a
        `bundle` folder is given. For a log's address (s3://bucket/prefix): `bundle` is needed. Raises EvergreenError.
        """
        if "://" not in str(where) and (Path(where) / "params.yaml").is_file():
            root = Path(where).resolve()
            params = load_params(root / "params.yaml")
            log = open_log(root, params)
            if bundle is None:
                live = Live(open_store(params.store, root), cache_dir("bundles", root), every)
                return cls(log, *live.model, params.capture, live)
            return cls(log, Predictor(bundle), version or "unreleased", params.capture)
        if bundle is None:
            raise EvergreenError(
                f"{where} holds no params.yaml: name an Evergreen project, or a log (a folder, s3://bucket/prefix) "
                "together with the bundle folder that answers"
            )
        predictor = Predictor(bundle)
        log = open_at(str(where), Path.cwd(), StoreParams(), predictor.about["task"])
        return cls(log, predictor, version or "unreleased", CaptureParams(url=str(where)))

    @property
    def model(self) -> Model:
        """The model that answers now, and its version."""
        return self._live.model if self._live is not None else self._model

    def predict(
        self,
        images: Sequence[bytes],
        *,
        source: str | Sequence[str | None] | None = None,
        at: datetime | None = None,
    ) -> list[Prediction]:
        """Predictor.predict, logged. source: of all images, or one each. Raises what Predictor.predict raises."""
        model, began = self.model, time.perf_counter()
        answers = model.predictor.predict(images)
        spent = (time.perf_counter() - began) * 1e3
        sources = [source] * len(images) if source is None or isinstance(source, str) else source
        for image, answer, of in zip(images, answers, sources, strict=False):
            self._offer(image, answer, model, of, at, spent)
        return answers

    def record(
        self,
        image: bytes,
        prediction: Prediction,
        *,
        source: str | None = None,
        at: datetime | None = None,
        latency_ms: float | None = None,
    ) -> None:
        """Log one answer of the current model. at: of the request, now unless given (UTC where it has no zone).
        Never waits, never raises."""
        self._offer(image, prediction, self._model if self._live is None else self._live.model, source, at, latency_ms)

    @property
    def stats(self) -> Stats:
        with self._lock:
            return Stats(**self._counts, waiting=len(self._waiting) + self._held, error=self._error)

    def flush(self, timeout: float = 30.0) -> bool:
        """Write what was recorded before this call; False if that has not happened in `timeout` seconds."""
        done = threading.Event()
        self._flushes.append(done)
        self._wake.set()
        return done.wait(timeout) and not self._unsent

    def close(self, timeout: float = 10.0) -> None:
        """Write what is waiting and end, after `timeout` seconds in any case. Happens by itself when Python ends."""
        if self._pid != os.getpid():  # inherited by a fork: the rows are the parent's
            return
        with self._lock:  # whoever holds it has put their answer where the thread will still find it
            self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        atexit.unregister(self.close)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # the caller's side

    def _offer(
        self,
        image: bytes,
        prediction: Prediction,
        model: Model,
        source: str | None,
        at: datetime | None,
        latency_ms: float | None,
    ) -> None:
        try:
            if self._pid != os.getpid():
                self._start()
            data = image if isinstance(image, bytes) else bytes(image)  # others may change under our hands
            answer = Answer(data, prediction, model, source, at or datetime.now(UTC), latency_ms)
            with self._lock:
                self._counts["offered"] += 1
                full = len(self._waiting) >= WAITING_ROWS or self._waiting_bytes + len(data) > WAITING_BYTES
                if full or self._closing:
                    self._counts["dropped"] += 1
                    return
                self._waiting.append(answer)
                self._waiting_bytes += len(data)
                much = len(self._waiting) + len(self._buffer) >= self.params.buffer_rows
                much |= self._waiting_bytes > WAITING_BYTES // 4
            if much and not self._wake.is_set():  # else it looks by itself: waking it costs the caller the most
                self._wake.set()
        except Exception as error:  # whatever it is, it is not worth a failed request
            self._error = f"{type(error).__name__}: {error}"

    # the thread's side

    def _start(self) -> None:
        """Fresh state and a thread, in this process."""
        self._pid = os.getpid()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._waiting: deque[Answer] = deque()
        self._waiting_bytes = self._held = 0  # held: rows in buffer and unsent
        self._flushes: deque[threading.Event] = deque()
        self._buffer: list[dict] = []
        self._buffer_bytes = 0
        self._unsent: deque = deque()  # tables
        self._counts: Counter[str] = Counter()  # see Stats
        self._error, self._closing = None, False
        self._hour, self._per_source = None, Counter()
        self._reported, self._reported_at = 0, time.monotonic()
        self._written_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="evergreen-capture", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            closing = self._closing
            try:
                self._step(closing)
            except Exception as error:  # of ours: logged, and the thread goes on
                self._error = f"{type(error).__name__}: {error}"
                logger.exception("capture goes on after an error")
            if closing:
                return
            self._wake.wait(min(LOOK_SECONDS, self.params.flush_seconds))

    def _step(self, closing: bool) -> None:
        self._wake.clear()
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        for _ in range(len(self._waiting)):
            with self._lock:
                answer = self._waiting.popleft()
                self._waiting_bytes -= len(answer.image)
            self._take(answer)
            if len(self._buffer) >= self.params.buffer_rows or self._buffer_bytes >= BUFFER_BYTES:
                self._write()
        due = time.monotonic() - self._written_at >= self.params.flush_seconds
        if due or closing or flushes:
            self._write()
        for done in flushes:
            done.set()
        if closing and self._unsent:
            with self._lock:
                self._counts["lost"] += self._held
                self._held = 0
        self._report(closing)

    def _take(self, answer: Answer) -> None:
        """One answer into the buffer, or counted where it does not belong there."""
        outcome = "failed"
        try:
            answer = answer._replace(source=text(answer.source), at=_aware(answer.at))
            name = sha256_bytes(answer.image)
            if int(name[:12], 16) >= self.params.sample * 16**12:
                outcome = "not_sampled"
            elif not self._under_cap(answer.source):
                outcome = "over_cap"
            else:
                self._buffer.append(row(answer, self.params.images == "full", name))
                self._buffer_bytes += len(answer.image)
                outcome = "held"
        except Exception as error:  # one image must not cost the others
            self._error = f"{type(error).__name__}: {error}"
        with self._lock:
            if outcome == "held":
                self._held += 1
            else:
                self._counts[outcome] += 1

    def _under_cap(self, source: str | None) -> bool:
        hour = int(time.time() // 3600)
        if hour != self._hour:
            self._hour, self._per_source = hour, Counter()
        name = source if source in self._per_source or len(self._per_source) < SOURCES else ""
        self._per_source[name] += 1
        return self._per_source[name] <= self.params.max_per_source_per_hour

    def _write(self) -> None:
        """The buffer, and before it what could not be written earlier."""
        self._written_at = time.monotonic()
        if self._buffer:
            rows, self._buffer, self._buffer_bytes = self._buffer, [], 0
            self._unsent.append(table(rows, self.log.task))
        while self._unsent:
            try:
                self.log.append(self._unsent[0])
            except Exception as error:  # the store is down: kept for the next time, as long as there is room
                self._error = f"{type(error).__name__}: {error}"
                break
            self._settle("written")
        while len(self._unsent) > UNSENT:
            self._settle("lost")

    def _settle(self, outcome: str) -> None:
        rows = len(self._unsent.popleft())
        with self._lock:
            self._counts[outcome] += rows
            self._held -= rows

    def _report(self, closing: bool) -> None:
        stats = self.stats
        missed = stats.dropped + stats.lost + stats.failed
        if missed > self._reported and (closing or time.monotonic() - self._reported_at >= REPORT_SECONDS):
            logger.warning(
                "%d answers were not logged since the last report (queue full %d, store down %d, unusable %d in all); "
                "newest error: %s",
                missed - self._reported,
                stats.dropped,
                stats.lost,
                stats.failed,
                stats.error,
            )
            self._reported, self._reported_at = missed, time.monotonic()


def _aware(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
