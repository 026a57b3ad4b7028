"""A project in which images wait for people in all three queues, made once in a test run."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from flows.labels.queues import Entry, Queues
from flows.production.score import score
from flows.repo import label_issues
from flows.repo.pipeline import record_data
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import enqueue, enqueue_audit
from tasks.common.params import ReviewParams, load_params
from tasks.labels.storing import write_annotations
from tasks.releases.store import open_store
from tests.support.annotating import said
from tests.support.checkout import git
from tests.support.live_project import make, samples, traffic
from tests.support.shared import once

EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
CHANGES = {"budget: 100": "budget: 12", "second_look: 0.02": "second_look: 0.0"}
DISPUTED, SUSPECT = 3, 3  # label issues of each kind


def project(to: Path) -> Path:
    """A project of one's own at `to`: 12 production samples, some audit samples and six label issues wait."""
    shutil.copytree(once("label-queues", _make) / "main", to, symlinks=True)
    return to


def the_log(root: Path) -> Log:
    """Its production log."""
    return open_log(root, load_params(root / "params.yaml"))


def waiting_in(root: Path, queue: str) -> list[Entry]:
    """What waits in `queue`."""
    return Queues(root).entries(queue, load_params(root / "params.yaml"), the_log(root))


def other(label: str) -> str:
    """A class that `label` is not."""
    return "Bag" if label != "Bag" else "Trouser"


def _make(folder: Path) -> None:
    root = make(folder, replace=CHANGES)
    score(root, str(traffic(folder / "traffic.parquet", 2, 60)))
    params = load_params(root / "params.yaml")
    (pointer,) = open_store(params.store, root).history()
    log = open_log(root, params)
    enqueue_audit(log, ReviewParams(audit_per_day=12, audit_per_source=0), *EVER, pointer.bundle, "window 1")
    enqueue(log, params.review, *EVER, "window 1: the images changed")
    add_issues(root)


def add_issues(root: Path) -> None:
    """Three images on which annotators disagree, and three whose label looks wrong."""
    rows = samples(root)
    disputed, suspect = rows[:DISPUTED], rows[DISPUTED : DISPUTED + SUSPECT]
    words = [said(name, other(label), 2, annotator="cleo", role="annotator") for name, label in disputed]
    write_annotations(root / "data", words)
    record_data(root)
    git(root, "commit", "-qm", "cleo's labels", "--", "data.dvc")
    file = root / "artifacts/clean/queue.csv"
    file.parent.mkdir(exist_ok=True)
    lines = [f"{name},{label},{other(label)},0.9,0.1,train,low_quality," for name, label in suspect]
    file.write_text("\n".join(["id,given,predicted,confidence,quality,split,reason,path", *lines, ""]))
    label_issues.keep_queue(root, "run-1")
