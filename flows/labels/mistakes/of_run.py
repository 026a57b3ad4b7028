"""Look for the mistakes of a recorded run, and ask people about the training labels behind them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from flows.labels.class_reading import current_taxonomy
from flows.labels.mistakes import found as kept
from flows.labels.mistakes.found import Fix, Found
from flows.labels.mistakes.gather import Asked, Wrong, find_mistakes
from flows.labels.pick_data import MISTAKE, ask
from flows.labels.samples import find_samples
from flows.labels.stones import tombstones_now
from flows.labels.why import newest_run
from flows.publishing.recorded_run import RecordedRun, open_run, worktree
from monitoring.live.labels import labelled_answers, truths
from monitoring.live.periods import is_right
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import queued
from tasks.common.artifacts import classes_and_task
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, load_params
from tasks.labels.reading import names_of
from tasks.scoring.targets import encode

MOST = 9  # training images that are suggested


def look_for_mistakes(
    root: Path, run_id: str | None = None, most: int = MOST, say: Callable[[str], None] = print
) -> Found:
    """Find the mistakes of a run and what taught them, and keep that for the console. None: of the newest run.

    Raises EvergreenError for a run whose training images are not known, or whose worktree cannot be made again.
    """
    run = open_run(root, run_id or _newest(root))
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    with worktree(run) as tree:
        say(f"mistakes of run {run.run_id}: the classifier is taught again on its training images")
        asked = wrong_in_production(root, log, run, tree, params)
        found = find_mistakes(tree, load_params(tree / "params.yaml"), run.run_id, most, asked)
    kept.keep(root, found)
    return found


def _newest(root: Path) -> str:
    from flows.publishing.history import open_project

    name = newest_run(open_project(root)[1])
    if name is None:
        raise EvergreenError("no run is recorded yet: `evergreen retrain` makes the first one")
    return name


def wrong_in_production(root: Path, log: Log, run: RecordedRun, tree: Path, params: Params) -> Asked | None:
    """The labelled answers of the run's model; None if there are none, or its classes have changed since."""
    classes, task = classes_and_task(tree)
    keys, bundle = log.label_keys(), run.record.get("bundle")
    if not keys or not bundle:
        return None
    taxonomy, end = current_taxonomy(root), datetime.now(UTC)
    known = truths(log.labels(keys=keys), queued(log), taxonomy)
    table = labelled_answers(log, known, end - timedelta(days=params.capture.keep_days), end, bundle, taxonomy)
    rows = [
        row
        for row in table.to_pylist()
        if all(name in classes for value in (row["prediction"], row["label"]) for name in names_of(value))
    ]
    bad = {row["id"]: row for row in rows if not is_right(row["prediction"], row["label"])}
    start = end - timedelta(days=params.capture.keep_days)
    seen = log.find(bad, start, end, ["id", "features"], bundle).to_pylist() if bad else []
    features = {row["id"]: row["features"] for row in seen if row["features"]}
    bad = {name: row for name, row in bad.items() if name in features}
    if not rows or not bad:
        return None

    def of(column: str) -> np.ndarray:
        values = encode([row[column] for row in bad.values()], classes, task)
        return np.eye(len(classes), dtype=np.float32)[values] if values.ndim == 1 else values.astype(np.float32)

    x = np.array([features[name] for name in bad], np.float32)
    sure = np.array([row["confidence"] or 0 for row in bad.values()], float)
    return Asked(len(rows), Wrong(list(bad), ["production"] * len(bad), x, of("prediction"), of("label"), sure))


def ask_about(root: Path, found: Found) -> int:
    """Put the suggested training images into the queue of label issues; how many are new there.

    People decide: nothing is relabelled or left out by this.
    """
    table = find_samples(root / "data", [fix.id for fix in found.fixes], tombstones_now(root))
    splits = {row["id"]: row["split"] for row in table.select(["id", "split"]).to_pylist()}
    asked = 0
    for fix in found.fixes:
        if fix.id in splits:
            asked += len(ask(root, {fix.id: splits[fix.id]}, because(found, fix), MISTAKE, fix.to))
    return asked


def because(found: Found, fix: Fix) -> str:
    """Why people are asked about a training image."""
    count = sum(any(teacher.id == fix.id for teacher in one.taught) for one in found.mistakes)
    taught = f", and it taught {count} of its mistakes" if count else ""
    return f"run {found.run}: it raises the loss on other images{taught}"
