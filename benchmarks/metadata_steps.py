"""What benchmarks.metadata measures: each step reads or writes metadata of a project as the product does.

python -m benchmarks.metadata_steps STEP PROJECT       # one step in a process of its own; prints its facts as JSON
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from flows.repo import run_inputs
from flows.repo.git import git
from flows.repo.odb import remembered_hashes
from flows.repo.outs import recorded_outs_of
from flows.repo.pipeline import bring_up_to_date, open_repo, record_data, restore_data
from tasks.common.params import load_params
from tasks.dataset import column_copies

NEW = 1_000  # images that an ingest brings
column_copies.LEAST = 0  # shards of real photos have 64 MB: the synthetic ones are to be read as these are
UP_TO_DATE = "import sys; sys.argv = ['evergreen', 'retrain']; from flows.cli.main import entry; entry()"


def manifests(root: Path) -> dict:
    """Read every batch manifest, and look whether each shard is there."""
    from tasks.dataset import shards

    listed = shards.listed_files(root / "data")
    return {"files": len(listed), "shards": len(shards.live_shards(root / "data"))}


def listing(root: Path) -> dict:
    """Read what inspect lists of each row, without its measures, one shard after the other."""
    from tasks.dataset import shards
    from tasks.stages.inspect import GIVEN

    rows = 0
    for shard in shards.live_shards(root / "data"):
        rows += len(shards.read_columns(shard.path, GIVEN))
        shards.shard_groups(shard.path)
    return {"rows": rows}


def split(root: Path) -> dict:
    """Decide the splits of NEW images: what an ingest reads of the data set, and its look-alikes there."""
    from benchmarks.metadata_project import Looks
    from tasks.ingest.existing import ExistingSamples
    from tasks.ingest.splits import Lookalikes, NewRow, assign_splits

    params, rng = load_params(root / "params.yaml"), np.random.default_rng(1)
    existing = ExistingSamples(root)
    phash, thumbs = Looks(1)(rng, NEW)
    near = existing.neighbour_splits(phash, thumbs, params.images, params.inspect)
    rows = [NewRow(f"{number:064x}", labels=("class-1",), source="camera-1") for number in range(NEW)]
    alike = Lookalikes(np.arange(NEW), np.empty((0, 2), np.int64), near)
    data = params.data
    found = assign_splits(rows, existing.recorded_splits([]), alike, seed=0, fractions=data.split)
    return {"rows": len(existing.samples), "assigned": sum(isinstance(one, str) for one in found)}


def near(root: Path) -> dict:
    """Search near-duplicates among as many drawn looks as the project has rows."""
    from benchmarks.metadata_project import ROWS, Looks
    from tasks.dataset import shards
    from tasks.inspection.near_duplicates import near_pairs

    count = sum(batch.rows for batch in shards.batches(root / "data"))
    drawn = Looks(2)
    parts = [drawn(np.random.default_rng([2, at]), min(ROWS, count - at)) for at in range(0, count, ROWS)]
    phash, thumbs = np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts])
    del parts
    inspect, start = load_params(root / "params.yaml").inspect, time.process_time()
    pairs = near_pairs(phash, thumbs, inspect.near_duplicate_bits, inspect.near_duplicate_difference)
    return {"pairs": len(pairs), "search_cpu": time.process_time() - start}


def inspect(root: Path) -> dict:
    """Run the stage inspect with all measures cached."""
    from tasks.stages.runner import run_stage

    run_stage("inspect", root)
    return {"bytes": (root / "artifacts/inspect/samples.parquet").stat().st_size}


def record(root: Path) -> dict:
    """Store data/ in DVC and write data.dvc, as an ingest does at its end."""
    return {"md5": record_data(root)}


def stage(root: Path) -> dict:
    """Bring the stage inspect up to date; its outputs are there, or else empty ones take their place."""

    def made(name: str, at: Path) -> None:
        for folder in ("artifacts/inspect", "metrics"):
            (at / folder).mkdir(parents=True, exist_ok=True)
        (at / "artifacts/inspect/samples.parquet").write_bytes(b"not made here")
        (at / "metrics/inspect.json").write_text("{}\n")

    with closing(open_repo(root)) as repo:
        return {"outcome": bring_up_to_date(repo, "inspect", made)}


def workspace(root: Path) -> dict:
    """Make a run's workspace: a worktree of HEAD whose data/ is linked from DVC's cache."""
    tree = root / ".evergreen" / "measured-tree"
    git(root, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
    try:
        settings = f"[cache]\n    dir = {root / '.dvc/cache'}\n    type = hardlink\n"
        (tree / ".dvc/config.local").write_text(settings)
        with closing(open_repo(tree)) as repo:
            restore_data(repo)
        return {"files": sum(len(files) for _, _, files in os.walk(tree / "data"))}
    finally:
        shutil.rmtree(tree)
        git(root, "worktree", "prune")


def verify(root: Path) -> dict:
    """Check HEAD as `evergreen verify` checks a version, with what it remembers of files that have not changed."""
    from flows.versions.checker import VersionChecker
    from flows.versions.retained import Version
    from tasks.releases.store import open_store

    rev = git(root, "rev-parse", "HEAD")
    releases = open_store(load_params(root / "params.yaml").store, root)
    with closing(open_repo(root)) as repo, remembered_hashes(root) as remembered:
        outs = [out.model_copy(update={"push": False}) for out in recorded_outs_of(repo, [rev])[rev]]
        checked = VersionChecker(root, repo, releases, remembered).check(Version(name="v1", rev=rev, bundle=None), outs)
    return {"objects": checked.objects, "problems": len(checked.problems)}


def gc(root: Path) -> dict:
    """`evergreen gc`, which says what it would delete."""
    from flows.versions.gc import gc as collect

    places = collect(root).places
    return {"kept": sum(place.kept for place in places), "garbage": sum(place.garbage for place in places)}


def end_a_run(root: Path) -> None:
    """Record that a run over these inputs has ended, so that `evergreen retrain` finds nothing new."""
    key, _, _ = run_inputs.current_inputs(root)
    ending = {"run_id": "benchmark", "outcome": "rejected", "version": None, "sentence": "not better"}
    run_inputs.record_ending(root, key, ending)


STEPS: dict[str, Callable[[Path], dict]] = {
    one.__name__: one for one in (manifests, listing, split, near, inspect, record, stage, workspace, verify, gc)
}


if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](Path(sys.argv[2]))))
