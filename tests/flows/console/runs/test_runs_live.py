"""A run's page in a real browser: it follows the run without a reload."""

import fcntl
import os

from flows.repo.progress import Progress, Step
from tasks.common.files import write_json
from tests.support import versions_project
from tests.support.console import serving

RUN = "20260105T080000000000-abcdef-7"


def test_the_page_of_a_run_follows_it(visit, tmp_path):
    root = versions_project.copy(tmp_path / "project")
    folder = root / ".evergreen/runs" / RUN
    folder.mkdir(parents=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_json(folder / "started.json", {"key": "a" * 24, "reason": "new labels", "by": "ann"})
    run = Progress(folder, [Step("data"), Step("inspect")])
    run.save()
    with serving(root) as site:
        page = visit(f"{site.url}/runs/{RUN}", user=site.user, width=390)
        assert "starting" in page.text
        assert not page.scrolls_sideways
        assert page.axe_violations == []
        with run.running("inspect"):
            page.page.wait_for_selector("text=inspect; 0 of 9 stages done", timeout=60_000)
        (folder / "log.txt").write_text("420 images, 3 leaks\n")
        page.page.wait_for_selector("text=420 images, 3 leaks", timeout=60_000)
        os.close(lock)  # the run's process was killed
        write_json(folder / "verdict.json", {})
        page.page.wait_for_selector("text=its process was killed", timeout=60_000)
        page = visit(f"{site.url}/runs", user=site.user, width=390, dark=True)
        assert not page.scrolls_sideways
        assert page.axe_violations == []
        assert page.problems == []
