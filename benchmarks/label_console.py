"""Can a person label 200 images by keyboard without waiting, and is no acknowledged answer lost?

    python -m benchmarks.label_console [--quick]

A real Chromium labels production images on the console, one key each, five images a second. It is killed with SIGKILL
at the 137th, and a new one goes on; then three answers are undone and given again, and the sitting is finished.
Expected: label_next_p95_ms <= 100 (from the keydown to the decoded paint of the next image), label_lost_answers 0
(acknowledged, and not in the journal after the kill), label_undone_wrong 0 (answers that undo left or restored
wrongly), label_commits 1. A quick pass labels 12 images and kills at the 7th.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from benchmarks.record import Figure, report
from benchmarks.scratch import say
from flows.console.jobs.store import newest_job
from flows.labels import journal
from flows.production.score import score
from flows.repo.git import git
from monitoring.log.production_log import open_log
from monitoring.review.queue import enqueue, waiting
from tasks.common.access import basic
from tasks.common.params import load_params
from tests.support import label_queues
from tests.support.browser import installed
from tests.support.console import ServedConsole, serving
from tests.support.label_queues import EVER
from tests.support.live_project import make, traffic
from tests.support.waiting import until

KEYS = ("1", "2", "3", "w", "Enter")  # of answers
PACE = 0.2  # seconds between two keys: five images a second, faster than any person
SLOT = "labels"


def project(folder: Path, count: int) -> Path:
    """A project in which at least `count` production images wait."""
    sources = {"max_source_share: 0.25": "max_source_share: 1.0"}
    root = make(folder, replace={"budget: 100": f"budget: {count}"} | sources)
    score(root, str(traffic(folder / "traffic.parquet", 2, 2 * count)))
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    enqueue(log, params.review, *EVER, "benchmark")
    assert len(waiting(log)) == count, f"{len(waiting(log))} wait"
    return root


class Sitting:
    """A Chromium on the labelling page, and what it heard."""

    def __init__(self, context: Any, site: ServedConsole):
        self.acknowledged: dict[str, None] = {}
        self.page = context.new_page()
        self.page.on("response", self._heard)
        self.page.goto(f"{site.url}/label/production")
        self.page.wait_for_selector("#label-desk[data-ready]")

    def _heard(self, response: Any) -> None:
        if response.url.endswith("/answer") and response.status == 200:
            sent = parse_qs(response.request.post_data)["entry"]
            self.acknowledged |= dict.fromkeys(parse_qs(entry)["id"][0] for entry in sent)

    def press(self, key: str) -> float:
        """Press a key and wait for the next image; returns the milliseconds that the page measured."""
        time.sleep(PACE)
        before = self.page.evaluate("performance.getEntriesByName('label-next').length")
        self.page.keyboard.press(key)
        last = "!document.getElementById('label-end').hidden"
        self.until(f"performance.getEntriesByName('label-next').length > {before} || {last}")
        if self.page.evaluate(last):
            return 0.0  # no image is left
        return self.page.evaluate("performance.getEntriesByName('label-next').at(-1).duration")

    def settle(self) -> None:
        """Wait until nothing is unsaved."""
        self.until("!document.getElementById('label-count').textContent.includes('unsaved')")

    def until(self, what: str) -> None:
        """Wait until `what`, in JavaScript, is true: the page's own policy forbids playwright's way."""
        deadline = time.monotonic() + 30
        while not self.page.evaluate(what):
            assert time.monotonic() < deadline, what
            time.sleep(0.005)


@contextmanager
def chromium(profile: Path, site: ServedConsole) -> Iterator[tuple[Sitting, Callable[[], None]]]:
    """A sitting in a browser with its own process, and a function that kills this process."""
    import psutil
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=installed(),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            extra_http_headers={"Authorization": basic(site.auth)},
            viewport={"width": 1280, "height": 900},
        )
        mine = [one for one in psutil.Process().children(recursive=True) if one.pid not in before]
        mine = [one.pid for one in mine if "chrom" in one.name()]

        def kill() -> None:
            for pid in mine:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

        yield Sitting(context, site), kill
        with suppress(Error):  # it was killed
            context.close()


def sit(root: Path, folder: Path, count: int, kill_at: int) -> dict[str, float]:
    """Label `count` images; returns what was measured."""
    rng, times = random.Random(0), []
    before = git(root, "rev-parse", "HEAD")
    with serving(root) as site:
        with chromium(folder / "profile", site) as (sitting, kill):
            times += [sitting.press(rng.choice(KEYS)) for _ in range(kill_at)]
            heard = list(sitting.acknowledged)
            kill()
        kept = {one.id for one in journal.pending(root)}
        lost = len(set(heard) - kept)
        say(f"killed: {len(heard)} of {kill_at} answers were acknowledged, {len(kept)} are in the journal")
        with chromium(folder / "profile", site) as (sitting, _):
            sitting.settle()  # what the killed one had kept is sent again
            left = count - len({one.id for one in journal.pending(root)})
            times += [sitting.press(rng.choice(KEYS)) for _ in range(left - 1)]
            sitting.settle()
            given = [(one.id, one.label) for one in journal.pending(root)]
            for _ in range(3):
                sitting.page.keyboard.press("u")
                sitting.settle()
            undone = [(one.id, one.label) for one in journal.pending(root)]
            wrong = int(undone != given[:-3])
            for _ in range(4):
                sitting.press("w")
            sitting.settle()
            again = [one.id for one in journal.pending(root)]
            wrong += int(sorted(again[:-1]) != sorted(name for name, _ in given)) + int(len(again) != count)
            sitting.page.goto(f"{site.url}/label")
            sitting.page.get_by_role("button", name="Finish").click()
            until(lambda: (job := newest_job(root, SLOT)) and not job.runs, 300)
    labels = open_log(root, load_params(root / "params.yaml")).labels()
    assert len(labels) == count, f"{len(labels)} labels in the log"
    commits = int(git(root, "rev-list", "--count", f"{before}..HEAD"))
    shown = np.array([value for value in times if value > 0])
    return {
        "p95": float(np.quantile(shown, 0.95)),
        "median": float(np.median(shown)),
        "most": float(shown.max()),
        "lost": lost,
        "wrong": wrong,
        "commits": commits,
    }


def main(quick: bool = False) -> dict[str, float]:
    """Measure and report."""
    count, kill_at = (12, 7) if quick else (200, 137)
    with tempfile.TemporaryDirectory() as folder:
        root = label_queues.project(Path(folder) / "main") if quick else project(Path(folder), count)
        found = sit(root, Path(folder), count, kill_at)
    spread = f"median {found['median']:.0f}, longest {found['most']:.0f} of {count} labels"
    figures = [
        Figure(name="label_next_p95_ms", value=found["p95"], unit="ms", goal=100, better="lower", spread=spread),
        Figure(name="label_lost_answers", value=found["lost"], unit="answers", goal=0, better="lower"),
        Figure(name="label_undone_wrong", value=found["wrong"], unit="undos", goal=0, better="lower"),
        Figure(name="label_commits", value=found["commits"], unit="commits", goal=1, better="lower"),
    ]
    report("label_console", "python -m benchmarks.label_console", figures, quick)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args().quick)
