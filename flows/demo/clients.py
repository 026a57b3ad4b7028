"""The demo's production: a few clients that send their photos to `evergreen serve` over HTTP."""

import queue
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pyarrow.parquet as pq

from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json
from tasks.releases.switches import predictor_dir

CLIENTS = 4
START_SECONDS = 120


def address(project: Path, version: str) -> str:
    """Where the service answers, once all of its workers do with `version`."""
    file, deadline = predictor_dir(project) / "service.json", time.monotonic() + START_SECONDS
    while True:
        about = read_json(file) if file.is_file() else {"workers": []}
        workers = about["workers"]
        if workers and all(one["ready"] and one["models"] == {"live": version} for one in workers):
            return about["url"]
        if time.monotonic() > deadline:
            raise EvergreenError(
                f"the demo expected every worker of `evergreen serve` to answer with {version}, {file} says {about}"
            )
        time.sleep(0.2)


def send(project: Path, version: str, file: Path) -> list[dict]:
    """Send every image of `file` with its source; returns the answers in order. All must come from `version`."""
    url, headers = address(project, version), {"Authorization": f"Bearer {checkout(project).secret}"}
    table = pq.read_table(file, columns=["image", "source"])
    images = table["image"].combine_chunks().field("bytes").to_pylist()
    waiting: queue.SimpleQueue[tuple[int, bytes, str | None]] = queue.SimpleQueue()
    for row in zip(range(len(images)), images, table["source"].to_pylist(), strict=True):
        waiting.put(row)
    answers: list[dict | None] = [None] * len(images)

    def client() -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
            while True:
                try:
                    number, image, source = waiting.get_nowait()
                except queue.Empty:
                    return
                asked = urlencode({"source": source} if source else {})
                answers[number] = http.post(f"/predict?{asked}", content=image).raise_for_status().json()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if missing := answers.count(None):
        raise EvergreenError(f"the demo expected {len(images)} answers from {url}, {missing} did not come")
    if others := {answer["version"] for answer in answers} - {version}:
        raise EvergreenError(f"the demo expected answers of {version}, some are of {', '.join(sorted(others))}")
    return answers
