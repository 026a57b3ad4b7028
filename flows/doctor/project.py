"""Checks of the project's files: git, DVC, formats."""

import time
from pathlib import Path

import pyarrow as pa

from flows.doctor.finding import Finding, ok, problem, warning
from flows.repo.git import check_repository, git, identity_options
from flows.repo.workspace import check_code_and_state
from flows.runs.launch import check_writable
from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.common.paths import main_checkout
from tasks.dataset.annotation_files import annotation_batches
from tasks.dataset.shards import batches, read_task

OLD_LOCK = 60  # seconds; git holds a lock for milliseconds


def repository(root: Path) -> list[Finding]:
    """Whether git can commit here, and nothing of the data set waits to be committed."""
    check_repository(root)
    folder = main_checkout(root) / git(main_checkout(root), "rev-parse", "--git-dir")
    locks = [lock for lock in folder.glob("*.lock") if time.time() - lock.stat().st_mtime > OLD_LOCK]
    if locks:
        return [problem("repository", f"a killed git left {locks[0]}", f"if no git runs, `rm {locks[0]}`")]
    if git(root, "status", "--porcelain", "--", "data.dvc"):
        return [
            warning("repository", "data.dvc has changes that are not committed", "`git diff data.dvc`, then commit")
        ]
    if identity_options(root):
        cure = "`git config --global user.name NAME`, and user.email"
        return [warning("repository", "git knows no name and e-mail of yours", cure)]
    return [ok("repository", f"{git(root, 'rev-parse', '--short', 'HEAD')} in {root}")]


def dvc(root: Path) -> Finding:
    """Whether DVC's settings name a default remote, and what is stored in folders can be written."""
    check_writable(root)
    return ok("dvc", "a default remote is named, and its folder can be written")


def formats(root: Path) -> list[Finding]:
    """Whether this code can read the project's state, code and data."""
    check_code_and_state(root)
    if not (root / "data/dataset.json").is_file():
        if (root / "data.dvc").is_file():
            return [warning("formats", "data/ is not here, only its record data.dvc", "`dvc pull`, or `dvc checkout`")]
        return [ok("formats", "state and code fit; there are no data yet")]
    task, count, labels = read_task(root / "data"), len(batches(root / "data")), len(annotation_batches(root / "data"))
    images = f"{count:,} batch{'es' * (count != 1)} of images"
    return [ok("formats", f"state, code and data fit: {task}, {images}, {labels:,} of labels")]


def settings(root: Path) -> tuple[Finding, object | None]:
    """(what the check of params.yaml found, the parameters or None)."""
    from tasks.common.params import load_params

    try:
        return ok("settings", f"params.yaml of {root.name}"), load_params(root / "params.yaml")
    except (EvergreenError, OSError) as error:
        return problem("settings", str(error), "correct params.yaml; checks that need it were left out"), None


def floors(root: Path, params: Params) -> Finding:
    """Whether everything that gate.floors names exists in data/."""
    from flows.labels.class_list import class_splits
    from flows.labels.floor_places import places, unknown_floors
    from tasks.dataset.shards import live_shards, read_columns, read_tombstones
    from tasks.labels.effective import effective_samples
    from tasks.labels.taxonomy import read_taxonomy

    asked, data = params.gate.floors, root / "data"
    if not asked:
        return ok("floors", "none are set in gate.floors")
    if not (data / "dataset.json").is_file():
        return ok("floors", f"{len(asked)}, not compared with the data, which is not here")
    stones, taxonomy = read_tombstones(root), read_taxonomy(data)
    samples = effective_samples(data, taxonomy, stones, params.labels.consensus)
    classes = sorted({*(name for name, _ in class_splits(samples)), *taxonomy.classes})
    columns = ["id", "key", "split", "source", "slice"]
    rows = pa.concat_tables([read_columns(shard.path, columns) for shard in live_shards(data, stones)])
    if lines := unknown_floors(asked, places(classes, rows)):
        return problem("floors", "; ".join(lines), "correct gate.floors in params.yaml; a run would stop at this")
    return ok("floors", f"{len(asked)}, all about classes and images that exist")
