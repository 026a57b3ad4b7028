"""DVC's stages run in this process: same functions, same lock, no new interpreter per stage.

`bring_up_to_date` leaves exactly what `dvc repro <stage>` would: afterwards `dvc status` is clean and
`dvc repro` runs nothing, and a workspace that `dvc repro` has finished is found unchanged here.
"""

import logging
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Literal

from flows.repo.remotes import on_s3
from tasks.common.failpoints import failpoint
from tasks.stages.runner import run_stage

TRIES = 3  # of a step that another run's file, gone in the meantime, has stopped
Outcome = Literal["unchanged", "restored", "ran"]


def open_repo(root: Path):
    """The DVC repository at `root`; open it once per run, it costs half a second."""
    from dvc.repo import Repo

    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what matters is raised
    moved = on_s3(root, root / ".dvc")
    return Repo(str(root), config={"remote": moved} if moved else None)  # set later, DVC's next lock would forget it


def bring_up_to_date(repo, name: str, run: Callable[[str, Path], None] = run_stage) -> Outcome:
    """Make stage `name` current: "unchanged" by the lock, "restored" from the run cache, or "ran" now.

    Outputs are removed before the function runs: they are hardlinks into DVC's cache, and writing through
    one would corrupt an older release.
    """
    with chdir(repo.root_dir), repo.lock:  # DVC resolves stages and its run cache against the current folder
        (stage,) = repo.stage.collect(name)
        if not stage.changed():
            return "unchanged"
        if _restored(repo, stage):
            outcome: Outcome = "restored"
            failpoint("pipeline.restored")
        else:
            for out in stage.outs:
                out.remove(ignore_remove=False)
            failpoint("pipeline.removed")
            run(name, Path(repo.root_dir))
            failpoint("pipeline.ran")
            outcome = "ran"
    with chdir(repo.root_dir):
        _retried(lambda: repo.commit(name, force=True))
    failpoint("pipeline.committed")
    return outcome


def _restored(repo, stage) -> bool:
    """Were the outputs of `stage` taken from DVC's run cache?"""
    from dvc.stage.cache import RunCacheNotFoundError

    try:
        _retried(lambda: repo.stage_cache.restore(stage))
        return True
    except RunCacheNotFoundError:
        return False
    except TypeError:  # DVC stumbles over the empty folder of a run that was killed before it wrote into it
        return False


def _retried(step: Callable[[], object]) -> None:
    """Do `step` again when a file goes away under it: runs share the cache, and DVC removes and renames in it."""
    for _ in range(TRIES - 1):
        try:
            step()
            return
        except FileNotFoundError:
            continue
    step()


def restore_data(repo) -> None:
    """Check out data/ as data.dvc says, from the shared cache, else from the remote.

    Raises EvergreenError when neither has it.
    """
    from dvc.exceptions import CheckoutError, DvcException

    from tasks.common.errors import EvergreenError

    try:
        repo.checkout(targets=[str(Path(repo.root_dir) / "data.dvc")], force=True)
    except CheckoutError:
        try:
            repo.pull(targets=[str(Path(repo.root_dir) / "data.dvc")], force=True)
        except DvcException as error:
            raise EvergreenError(
                f"the data of this commit (data.dvc) is neither in the cache nor in the remote: {error}. "
                "Push it from where it was ingested with `dvc push`, or ingest it again."
            ) from error


def record_data(root: Path) -> str:
    """`dvc add data`: store data/ in the cache and write data.dvc; returns its md5."""
    repo = open_repo(root)
    try:
        (stage,) = repo.add(str(root / "data"))
        return stage.outs[0].hash_info.value
    finally:
        repo.close()
