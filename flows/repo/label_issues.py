"""Keeps each run's label issues, for when the run's workspace is gone.

.evergreen/label-issues/<run id>.csv    artifacts/clean/queue.csv of that run; the newest ones stay
.evergreen/label-issues/split.csv       images that wait for their part of a divided class, with their folder split/
.evergreen/label-issues/<run id>.json   {"seq": the newest batch of labels it knew, "clusters": near-duplicates that had
                                        different labels, each a list of ids}
"""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from tasks.common.files import atomic_path, write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.dataset.shards import next_seq

KEEP = 20  # queues of runs that stay
SPLIT_QUEUE = ".evergreen/label-issues/split.csv"  # of a class that is divided: a person's, not a run's


class KeptIssues(NamedTuple):
    """What one run found about the labels."""

    table: Path  # columns id, given, predicted, confidence, quality, split, reason
    seq: int | None  # of the newest batch that the run knew; None: not known
    clusters: list[list[str]]  # ids of near-duplicates that had different labels


def queue_file(root: Path, run_id: str) -> Path:
    """Where the queue of run `run_id` is kept."""
    return state_dir(root) / "label-issues" / f"{run_id}.csv"


def keep_queue(root: Path, run_id: str) -> Path:
    """Copy the issues of the run in worktree `root`, and delete the oldest ones; returns the copy of the queue."""
    file = queue_file(root, run_id)
    make_folder(file.parent)
    about = {"seq": next_seq(root / "data") - 1, "clusters": _disputed(root)}
    write_json(file.with_suffix(".json"), about)
    with atomic_path(file) as temporary:
        shutil.copyfile(root / "artifacts/clean/queue.csv", temporary)
    for old in _of_runs(root)[:-KEEP]:
        old.unlink(missing_ok=True)
        old.with_suffix(".json").unlink(missing_ok=True)
    return file


def newest_issues(root: Path) -> KeptIssues | None:
    """The issues of the newest run on this machine, else those in `root`/artifacts; None if there are neither."""
    if files := _of_runs(root):
        found = read_rebuildable(files[-1].with_suffix(".json"), _accept, "its queue is shown without groups")
        return KeptIssues(files[-1], *(found or (None, [])))
    table = root / "artifacts/clean/queue.csv"
    return KeptIssues(table, None, _disputed(root)) if table.is_file() else None


def _of_runs(root: Path) -> list[Path]:
    """The queues of runs, the oldest first: run ids sort by time."""
    kept = sorted((state_dir(root) / "label-issues").glob("*.csv"))
    return [file for file in kept if file.name != Path(SPLIT_QUEUE).name]


def _accept(about: dict) -> tuple[int, list[list[str]]]:
    clusters = [[expect(name, str) for name in expect(cluster, list)] for cluster in expect(about["clusters"], list)]
    return expect(about["seq"], int), clusters


def _disputed(root: Path) -> list[list[str]]:
    """Clusters of near-duplicates among the accepted samples whose labels differ, in a run's workspace."""
    accepted, inspected = root / "artifacts/validate/accepted.parquet", root / "artifacts/inspect/samples.parquet"
    if not accepted.is_file() or not inspected.is_file():
        return []
    cluster = dict(zip(*pq.read_table(inspected, columns=["id", "cluster"]).to_pydict().values(), strict=True))
    members, labels = defaultdict(list), defaultdict(set)
    for name, label in zip(*pq.read_table(accepted, columns=["id", "label"]).to_pydict().values(), strict=True):
        if label is not None:
            members[cluster.get(name) or name].append(name)
            labels[cluster.get(name) or name].add(label if isinstance(label, str) else tuple(sorted(label)))
    return [sorted(members[name]) for name in sorted(members) if len(labels[name]) > 1]
