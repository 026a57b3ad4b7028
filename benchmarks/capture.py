"""What does capture cost the caller: one `record`, and the slowest predictions with and without it?

    python -m benchmarks.capture [--quick]

Sends one request at a time with pauses between them, like a server under moderate load; alternates runs with and
without capture.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Figure, report
from monitoring.log.capture import Capture
from serving.predictor import Predictor
from tests.support.small_project import finished_project

SIDE = 640  # pixels of a photo
PAUSE = 0.02  # seconds between requests


def photos(count: int) -> list[bytes]:
    found = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def main(quick: bool) -> None:
    bundle = finished_project() / "artifacts/bundle"
    images, predictor = photos(10), Predictor(bundle)
    requests = 50 if quick else 1500
    with tempfile.TemporaryDirectory() as folder, Capture.open(Path(folder), bundle) as capture:
        (answer,) = predictor.predict(images[:1])
        record, times = [], {"bare": [], "captured": []}
        for n in range(requests):
            began = time.perf_counter()
            capture.record(images[n % 10], answer, source="a camera")
            record.append(time.perf_counter() - began)
            for name in ("bare", "captured") if n % 2 else ("captured", "bare"):
                time.sleep(PAUSE)
                began = time.perf_counter()
                if name == "bare":
                    predictor.predict([images[n % 10]])
                else:
                    capture.predict([images[n % 10]], source="a camera")
                times[name].append(time.perf_counter() - began)
    quantiles = {name: 1e3 * np.quantile(values, [0.5, 0.99]) for name, values in times.items()}
    (bare50, bare99), (with50, with99) = quantiles["bare"], quantiles["captured"]
    peer = "Predictor.predict without capture"
    report(
        "capture",
        "python -m benchmarks.capture",
        [
            Figure(
                name="capture_record_us",
                value=1e6 * float(np.median(record)),
                unit="us",
                goal=50,
                better="lower",
                spread=f"p99 {1e6 * np.quantile(record, 0.99):.0f} us of {requests} calls",
            ),
            Figure(
                name="capture_p99_ratio",
                value=float(with99 / bare99),
                unit="x",
                goal=1.05,
                better="lower",
                peer=peer,
                spread=f"p50 {bare50:.2f} -> {with50:.2f} ms, p99 {bare99:.2f} -> {with99:.2f} ms",
            ),
        ],
        quick,
    )


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
