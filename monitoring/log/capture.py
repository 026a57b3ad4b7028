"""Log what a model answers in production, without slowing or stopping production.

    from monitoring.log.capture import Capture

    with Capture.open("/srv/shoes") as capture:             # an Evergreen project: follows its live model
        answers = capture.predict([photo], source="cam-1")  # like Predictor.predict, and logged

    capture = Capture.open("s3://logs/shoes", bundle="bundle/")  # a log and a bundle, without a project
    capture.record(photo, prediction, source="cam-1")            # for answers made elsewhere

A call only puts a reference to the image into a bounded queue. A background thread hashes, samples, measures and
writes. If the thread cannot keep up or the store is down, answers are not logged; `stats` counts them and a warning is
logged once a minute. A killed process loses the rows that were not written yet: at most one unfilled buffer
(capture.buffer_rows, capture.flush_seconds) if the thread keeps up.
After a fork, the parent writes the rows it had and the child starts its own thread. A child that ends with os._exit, as
multiprocessing's do, must call `close` itself.

This is one class because its queue, buffer, counters and thread share one lock.
"""

import atexit
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from monitoring.log.production_log import Log, open_at, open_log
from monitoring.log.rows import Answer, log_row, log_table
from serving.live import Live, Model
from serving.predictor import Prediction, Predictor
from tasks.common.cells import optional_text
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import CaptureParams, StoreParams, load_params
from tasks.common.paths import cache_dir
from tasks.releases.store import open_store

WAITING_ROWS, WAITING_BYTES = 4096, 64 << 20  # answers that the thread has not taken from the queue yet
PIXEL_BYTES = WAITING_BYTES // 4  # above it no decoded pixels wait: images are more important, and can be decoded again
BUFFER_BYTES = 32 << 20  # of images in rows; a larger buffer is written before it is full
UNSENT = 4  # files kept while the store is down
SOURCES = 10_000  # counted separately; further ones share one count, because names come from outside
LOOK_SECONDS = 0.25  # between two looks at the queue, unless a buffer fills up earlier
REPORT_SECONDS = 60.0

Slices = Mapping[str, str]  # name -> value

logger = logging.getLogger("evergreen.capture")


@dataclass(frozen=True)
class Stats:
    """Answers since the start, by what became of them.

    offered = written + waiting + not_sampled + over_cap + dropped + lost + failed.
    """

    offered: int = 0
    written: int = 0
    waiting: int = 0
    not_sampled: int = 0  # capture.sample
    over_cap: int = 0  # capture.max_per_source_per_hour
    dropped: int = 0  # the queue was full, or the capture was closed
    lost: int = 0  # the store was down for too long
    failed: int = 0  # could not be turned into a row
    error: str | None = None  # the newest error


class Capture:
    """Logs the answers of `predictor` to `log`. Threads may share it."""

    def __init__(
        self,
        log: Log,
        predictor: Predictor,
        version: str,
        params: CaptureParams,
        live: Live | None = None,
        lean: bool = False,
    ):
        """live: if given, `predict` follows it instead of using `predictor`. lean: of monitoring.log.rows."""
        self.log, self.params, self._lean = log, params, lean
        self._model, self._live = Model(predictor, version), live
        self._start()
        atexit.register(self.close)

    @classmethod
    def open(
        cls, where: Path | str, bundle: Path | str | None = None, version: str | None = None, every: float = 10.0
    ) -> "Capture":
        """A capture for the project in folder `where`, or for a log at that address. Raises EvergreenError.

        A project uses its own log and its live model, read every `every` seconds, unless a `bundle` folder is given. A
        log (a folder or s3://bucket/prefix) needs a `bundle`.
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
                f"{where} contains no params.yaml: name an Evergreen project, or a log (a folder, s3://bucket/prefix) "
                "together with a bundle folder"
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
        key: str | Sequence[str | None] | None = None,
        path: str | Sequence[str | None] | None = None,
        slices: Slices | Sequence[Slices | None] | None = None,
    ) -> list[Prediction]:
        """Predictor.predict, with its answers logged. Raises what Predictor.predict raises.

        source, key, path and slices (see `record`): one for all images, or one for each.
        """
        model, began = self.model, time.perf_counter()
        answers = model.predictor.predict(images)
        spent = (time.perf_counter() - began) * 1e3
        about = [value if _is_one_each(value) else [value] * len(images) for value in (source, key, path, slices)]
        for image, answer, of, *own in zip(images, answers, *about, strict=False):
            self._offer(image, answer, model, of, at, spent, *own)
        return answers

    def record(
        self,
        image: bytes,
        prediction: Prediction,
        *,
        source: str | None = None,
        at: datetime | None = None,
        latency_ms: float | None = None,
        key: str | None = None,
        path: str | None = None,
        slices: Slices | None = None,
        model: Model | None = None,
        pixels: np.ndarray | None = None,
    ) -> None:
        """Log one answer of `model`, by default the current one. Never waits, never raises.

        at: time of the request, now by default; UTC if it has no time zone. key: your own name for the image (order
        number, part id), by which labels find it. path: where you keep it. slices: e.g. {"product": "A7"}.
        pixels: (S, S, 3) uint8, what the model saw, if at hand: then the image is not decoded for its thumbnail again.
        """
        model = model or self.model
        self._offer(image, prediction, model, source, at, latency_ms, key, path, slices, pixels)

    @property
    def stats(self) -> Stats:
        """How many answers were written, are waiting or were lost."""
        with self._lock:
            return Stats(**self._counts, waiting=len(self._waiting) + self._held, error=self._error)

    def flush(self, timeout: float = 30.0) -> bool:
        """Write what was recorded before this call; False if that takes more than `timeout` seconds."""
        done = threading.Event()
        self._flushes.append(done)
        self._wake.set()
        return done.wait(timeout) and not self._unsent

    def close(self, timeout: float = 10.0) -> None:
        """Write what is waiting and stop, after at most `timeout` seconds. Also called when Python exits."""
        if self._pid != os.getpid():  # inherited by a fork: the parent writes these rows
            return
        with self._lock:  # answers added before this are still written
            self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        atexit.unregister(self.close)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # in the caller's thread

    def _offer(
        self,
        image: bytes,
        prediction: Prediction,
        model: Model,
        source: str | None,
        at: datetime | None,
        latency_ms: float | None,
        key: str | None,
        path: str | None,
        slices: Slices | None,
        pixels: np.ndarray | None = None,
    ) -> None:
        try:
            if self._pid != os.getpid():
                self._start()
            data = image if isinstance(image, bytes) else bytes(image)  # a bytearray or memoryview may change later
            named = tuple((slices or {}).items())
            answer = Answer(data, prediction, model, source, at or datetime.now(UTC), latency_ms, key, path, named)
            with self._lock:
                self._counts["offered"] += 1
                full = len(self._waiting) >= WAITING_ROWS or self._waiting_bytes + len(data) > WAITING_BYTES
                if pixels is not None and self._waiting_bytes < PIXEL_BYTES and not self._lean:
                    answer = answer._replace(pixels=pixels)
                if full or self._closing:
                    self._counts["dropped"] += 1
                    return
                self._waiting.append(answer)
                self._waiting_bytes += _size(answer)
                much = len(self._waiting) + len(self._buffer) >= self.params.buffer_rows
                much |= self._waiting_bytes > WAITING_BYTES // 4
            if much and not self._wake.is_set():  # else it wakes by itself: waking it costs the caller most
                self._wake.set()
        except Exception as error:  # no error of logging may fail a request
            self._error = f"{type(error).__name__}: {error}"

    # in the background thread

    def _start(self) -> None:
        """Set up empty state and a thread in this process."""
        self._pid = os.getpid()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._waiting: deque[Answer] = deque()
        self._waiting_bytes = self._held = 0  # held: rows in `_buffer` and `_unsent`
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
            except Exception as error:  # an error in this class: log it and continue
                self._error = f"{type(error).__name__}: {error}"
                logger.exception("capture continues after an error")
            if closing:
                return
            self._wake.wait(min(LOOK_SECONDS, self.params.flush_seconds))

    def _step(self, closing: bool) -> None:
        self._wake.clear()
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        for _ in range(len(self._waiting)):
            with self._lock:
                answer = self._waiting.popleft()
                self._waiting_bytes -= _size(answer)
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
        """Add one answer to the buffer, or count why it is left out."""
        outcome = "failed"
        try:
            texts = {name: optional_text(getattr(answer, name)) for name in ("source", "key", "path")}
            slices = tuple(
                sorted((optional_text(n), optional_text(v)) for n, v in answer.slices if n and v is not None)
            )
            answer = answer._replace(**texts, slices=slices, at=_aware(answer.at))
            digest = sha256_bytes(answer.image)
            if int(digest[:12], 16) >= self.params.sample * 16**12:
                outcome = "not_sampled"
            elif not self._under_cap(answer.source):
                outcome = "over_cap"
            else:
                self._buffer.append(log_row(answer, self.params.images == "full", digest, self._lean))
                self._buffer_bytes += len(answer.image)
                outcome = "held"
        except Exception as error:  # one image must not stop the others
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
        """Write what could not be written earlier, then the buffer."""
        self._written_at = time.monotonic()
        if self._buffer:
            rows, self._buffer, self._buffer_bytes = self._buffer, [], 0
            self._unsent.append(log_table(rows, self.log.task))
        while self._unsent:
            try:
                self.log.append(self._unsent[0])
            except Exception as error:  # the store is down: keep it for the next try, while there is room
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
                "%d answers were not logged since the last report (totals: queue full %d, store down %d, unusable %d); "
                "newest error: %s",
                missed - self._reported,
                stats.dropped,
                stats.lost,
                stats.failed,
                stats.error,
            )
            self._reported, self._reported_at = missed, time.monotonic()


def _is_one_each(value) -> bool:
    return not (value is None or isinstance(value, str | Mapping))


def _size(answer: Answer) -> int:
    """Bytes that it holds in memory."""
    return len(answer.image) + (0 if answer.pixels is None else answer.pixels.nbytes)


def _aware(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
