"""Capture: answers are logged, the caller never waits, and lost answers are counted."""

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from monitoring.log import capture as module
from monitoring.log.capture import Capture
from monitoring.log.production_log import Log
from serving.live import Live
from serving.predictor import Predictor
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import CaptureParams
from tasks.releases.pointer import successor
from tasks.releases.store import Releases
from tasks.storage.local import LocalStore
from tests.support.checkout import ROOT
from tests.support.small_project import CLASSES, finished_project, image_bytes

EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
BUNDLE = "artifacts/bundle"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(finished_project() / BUNDLE)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [image for name in CLASSES for image in image_bytes(name, 4)]


@pytest.fixture
def start(tmp_path, predictor):
    """A function that opens a capture with the given params; the fixture closes all of them."""
    opened = []

    def begin(store=None, **params) -> Capture:
        log = Log(store or LocalStore(tmp_path / "log"), "multiclass")
        opened.append(Capture(log, predictor, "v0.1.0", CaptureParams(**params)))
        return opened[-1]

    yield begin
    for capture in opened:
        capture.close()


def rows(capture: Capture) -> list[dict]:
    return capture.log.window(*EVER)[0].to_pylist()


def test_keys_paths_and_slices_are_logged_for_one_or_for_each(start, images):
    capture = start()
    options = {"key": ["p1", None], "path": "line/1.png", "slices": {"shift": 2, "product": "A7"}}
    answers = capture.predict(images[:2], source="cam", **options)
    capture.record(images[2], answers[0], key=7, slices={"product": None, "": "x"})
    assert capture.flush()
    own = {row["id"]: (row["key"], row["path"], row["slices"]) for row in rows(capture)}
    both = [{"name": "product", "value": "A7"}, {"name": "shift", "value": "2"}]
    assert [own[sha256_bytes(image)] for image in images[:3]] == [
        ("p1", "line/1.png", both),
        (None, "line/1.png", both),
        ("7", None, []),
    ]


def test_answers_are_logged_as_they_were_given(start, predictor, images):
    capture = start()
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    answers = capture.predict([*images, b"no image", b""], source="cam-1", at=at)
    assert capture.flush()
    logged = rows(capture)
    assert capture.stats.written == len(logged) == len(images) + 2
    by_image = {row["image"]: row for row in logged}
    for image, answer in zip(images, answers, strict=False):
        row = by_image[image]
        assert (row["prediction"], row["at"], row["source"]) == (answer.label, at, "cam-1")
        assert (row["version"], row["bundle"], row["reason"]) == ("v0.1.0", predictor.digest, None)
        assert row["probabilities"] == pytest.approx(answer.probabilities, abs=1e-7)
        assert np.array_equal(np.array(row["features"], np.float32), answer.features)
        assert row["latency_ms"] > 0
        assert (row["format"], row["width"], row["needs_review"]) == ("PNG", 28, answer.needs_review)
        assert row["thumbnail"].startswith(b"\xff\xd8")
    assert by_image[b"no image"]["reason"] == "unknown_format"
    assert by_image[b""]["reason"] == "empty_file"
    assert by_image[b""]["features"] is None


def test_record_takes_answers_made_elsewhere(start, predictor, images):
    capture = start(images="thumbnail")
    (answer,) = predictor.predict(images[:1])
    capture.record(images[0], answer, source=" cam-2 ", at=datetime(2026, 1, 1), latency_ms=7.5)
    capture.record(memoryview(images[0]), answer)
    assert capture.flush()
    first = min(rows(capture), key=lambda row: row["at"])
    assert (first["source"], first["at"], first["latency_ms"]) == ("cam-2", datetime(2026, 1, 1, tzinfo=UTC), 7.5)
    assert first["image"] is None


def test_pixels_that_the_model_saw_save_a_second_decoding(start, predictor, images, monkeypatch):
    (answer,) = predictor.predict(images[:1])
    side = predictor.about["preprocess"]["resolution"]
    red = np.full((side, side, 3), (255, 0, 0), np.uint8)
    capture = start()
    capture.record(images[0], answer, pixels=red)
    monkeypatch.setattr(module, "PIXEL_BYTES", 0)  # so much waits that pixels are left out
    capture.record(images[1], answer, pixels=red)
    capture.flush()
    seen = [Image.open(io.BytesIO(row["thumbnail"])).convert("RGB") for row in rows(capture)]
    assert sorted(np.asarray(one)[..., 1].mean() < 10 for one in seen) == [False, True]


def test_multilabel_answers(tmp_path):
    bundle = finished_project("multilabel") / BUNDLE
    with Capture.open(tmp_path / "log", bundle) as capture:
        answers = capture.predict(image_bytes("Trouser", 3))
    assert [row["prediction"] for row in rows(capture)] == [list(answer.label) for answer in answers]


def test_the_sample_is_chosen_by_image(start, predictor, images):
    capture = start(sample=0.5)
    for _ in range(3):
        capture.predict(images)
    assert capture.flush()
    kept = {name for name in (row["id"] for row in rows(capture))}
    assert all(int(name[:12], 16) < 0.5 * 16**12 for name in kept)
    assert 0 < len(kept) < len(images)
    assert capture.stats.written == 3 * len(kept)
    assert capture.stats.not_sampled == 3 * (len(images) - len(kept))


def test_a_flooding_source_is_capped_and_others_are_not(start, predictor, images):
    capture = start(max_per_source_per_hour=5)
    if time.time() % 3600 > 3590:  # the count restarts with each hour
        time.sleep(3600 - time.time() % 3600)
    capture.predict(images * 2, source="flood")
    capture.predict(images[:4], source="quiet")
    assert capture.flush()
    sources = [row["source"] for row in rows(capture)]
    assert (sources.count("flood"), sources.count("quiet")) == (5, 4)
    assert capture.stats.over_cap == 2 * len(images) - 5


class Unreliable(LocalStore):
    """A real folder behind a connection that can be down or hang."""

    def __init__(self, root):
        super().__init__(root)
        self.up, self.hanging = threading.Event(), threading.Event()
        self.up.set()

    def create(self, key, content):
        if self.hanging.is_set():
            self.up.wait()
        if not self.up.is_set():
            raise ConnectionError("no route to the store")
        super().create(key, content)


def test_a_store_that_is_down_is_written_to_later(start, tmp_path, images):
    store = Unreliable(tmp_path / "log")
    capture = start(store)
    store.up.clear()
    capture.predict(images[:3])
    assert not capture.flush()
    assert capture.stats.error == "ConnectionError: no route to the store"
    assert capture.stats.waiting == 3
    store.up.set()
    assert capture.flush()
    assert (capture.stats.written, capture.stats.waiting, len(rows(capture))) == (3, 0, 3)


def test_a_store_that_stays_down_loses_the_oldest_answers_and_warns(start, tmp_path, images, caplog, monkeypatch):
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)
    store = Unreliable(tmp_path / "log")
    capture = start(store)
    store.up.clear()
    for _ in range(module.UNSENT + 2):
        capture.predict(images[:1])
        capture.flush()
    assert (capture.stats.lost, capture.stats.waiting) == (2, module.UNSENT)
    with caplog.at_level(logging.WARNING, "evergreen.capture"):
        capture.close()
    assert "were not logged" in caplog.text
    assert "no route to the store" in caplog.text
    assert capture.stats.lost == module.UNSENT + 2
    capture.predict(images[:1])
    assert capture.stats.dropped == 1


def test_a_hanging_store_never_blocks_the_caller(start, tmp_path, predictor, images, monkeypatch):
    monkeypatch.setattr(module, "WAITING_ROWS", 50)
    store = Unreliable(tmp_path / "log")
    capture = start(store, buffer_rows=5)
    store.up.clear()
    store.hanging.set()
    (answer,) = predictor.predict(images[:1])
    slowest = 0.0
    for _ in range(500):
        began = time.perf_counter()
        capture.record(images[0], answer)
        slowest = max(slowest, time.perf_counter() - began)
    assert capture.stats.dropped >= 500 - 50 - 4096 // 8
    assert slowest < 5  # seconds; a blocked caller would hang: the store comes back only after this
    store.up.set()
    assert capture.flush()
    stats = capture.stats
    assert stats.written + stats.dropped == stats.offered == 500


def test_waiting_images_are_also_bounded_in_bytes(start, tmp_path, predictor, images, monkeypatch):
    store = Unreliable(tmp_path / "log")
    capture = start(store, buffer_rows=1)
    store.up.clear()
    store.hanging.set()
    (answer,) = predictor.predict(images[:1])
    monkeypatch.setattr(module, "WAITING_BYTES", 10 * len(images[0]))
    for _ in range(40):
        capture.record(images[0], answer)
    assert capture.stats.dropped >= 40 - 12
    store.up.set()


def test_an_answer_that_cannot_be_a_row_does_not_affect_others(start, predictor, images):
    capture = start()
    capture.record(images[0], "not a prediction")
    capture.record(None, None)
    capture.record(images[0], predictor.predict(images[:1])[0])
    assert capture.flush()
    assert capture.stats.written == 1
    assert capture.stats.failed == 1
    assert len(rows(capture)) == 1


def test_an_unfilled_buffer_is_written_after_flush_seconds(start, images):
    capture = start(flush_seconds=0.2)
    capture.predict(images[:1])
    deadline = time.monotonic() + 20
    while not rows(capture) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(rows(capture)) == 1


SERVICE = """
import os, sys, time
from monitoring.log.capture import Capture
from tests.support.small_project import image_bytes
capture = Capture.open(sys.argv[1], sys.argv[2])
images = image_bytes("Bag", 10)
"""


def service(tmp_path, body: str) -> subprocess.Popen:
    """A process of its own that serves and captures into tmp_path/log."""
    arguments = [sys.executable, "-c", SERVICE + body, str(tmp_path / "log"), str(finished_project() / BUNDLE)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def logged(tmp_path) -> int:
    _, unreadable, count = Log(LocalStore(tmp_path / "log"), "multiclass").window(*EVER)
    assert unreadable == []
    return count


def test_kill_9_loses_at_most_one_unwritten_buffer(tmp_path):
    body = """
capture.params = capture.params.model_copy(update={"buffer_rows": 16, "flush_seconds": 3600.0})
for n in range(10_000):
    capture.predict(images[:1])
    print(n + 1, flush=True)
    if n % 16 == 15:  # let the thread keep up on shared cores; otherwise the bound is the queue
        deadline = time.monotonic() + 60
        while capture.stats.written < n - 15 and time.monotonic() < deadline:
            time.sleep(0.01)
"""
    process = service(tmp_path, body)
    answered = 0
    for line in process.stdout:
        answered = int(line)
        if answered >= 100:
            os.kill(process.pid, signal.SIGKILL)
            break
    answered = max([answered, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()
    found = logged(tmp_path)
    assert found % 16 == 0
    # one buffer, and what was answered while the last one was written
    assert answered - 32 <= found <= answered + 1


def test_an_exiting_process_writes_its_buffer(tmp_path):
    process = service(tmp_path, "capture.predict(images)\n")
    assert process.wait() == 0
    assert logged(tmp_path) == 10


def test_a_forked_worker_captures_its_own_answers(tmp_path):
    body = """
capture.predict(images[:3])
child = os.fork()
if child == 0:
    capture.predict(images[:4])
    assert capture.flush()
    capture.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
capture.predict(images[:5])
"""
    process = service(tmp_path, body)
    assert process.wait() == 0
    assert logged(tmp_path) == 12


def release(releases: Releases, version: str, digest: str) -> None:
    pointer = successor(releases.live(), version=version, run_id=version, git_rev="", bundle=digest, by="a", why="b")
    releases.promote(pointer)


def test_a_new_champion_answers_without_a_restart(tmp_path, images, caplog):
    bundle = finished_project() / BUNDLE
    releases = Releases(LocalStore(tmp_path / "releases"))
    with pytest.raises(EvergreenError, match="no model is live"):
        Live(releases, tmp_path / "bundles")
    digest = releases.put_bundle(bundle)
    release(releases, "v0.1.0", digest)
    live = Live(releases, tmp_path / "bundles", every=0.0)
    log = Log(LocalStore(tmp_path / "log"), "multiclass")
    with Capture(log, *live.model, CaptureParams(), live) as capture:
        capture.predict(images[:1])
        release(releases, "v0.2.0", digest)
        deadline = time.monotonic() + 30
        while capture.model.version != "v0.2.0" and time.monotonic() < deadline:
            time.sleep(0.02)
        capture.predict(images[:1])
        release(releases, "v0.3.0", "0" * 64)  # a bundle that does not exist
        while "cannot read which model is live" not in caplog.text and time.monotonic() < deadline:
            assert capture.model.version == "v0.2.0"  # each access starts a read of the pointer
            time.sleep(0.02)
        capture.predict(images[:1])
    versions = [row["version"] for row in log.window(*EVER)[0].to_pylist()]
    assert "cannot read which model is live" in caplog.text
    assert versions == ["v0.1.0", "v0.2.0", "v0.2.0"]


def test_an_empty_folder_gives_an_error_that_says_what_to_name(tmp_path):
    with pytest.raises(EvergreenError, match="name an Evergreen project, or a log"):
        Capture.open(tmp_path)
