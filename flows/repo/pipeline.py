"""Run DVC's stages in this process: the same functions and lock as `dvc repro`.

`bring_up_to_date` leaves exactly what `dvc repro <stage>` leaves: afterwards `dvc status` is clean and `dvc repro` runs
nothing. In a workspace that `dvc repro` has finished, it finds every stage unchanged.
"""

import logging
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Literal

from flows.repo.damage import drop_damaged_listing, outputs_whole, repair_records
from flows.repo.ledger import claim_folder, claim_outs, claim_pulled, claim_recorded
from flows.repo.outs import recorded_outs
from flows.repo.remotes import on_s3, private_config
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.private import make_folder
from tasks.stages.runner import run_stage

TRIES = 3  # of a step that fails because another run has just moved or deleted a file
Outcome = Literal["unchanged", "restored", "ran"]


def open_repo(root: Path):
    """Open the DVC repository at `root`. It takes half a second, so open it once per run."""
    from dvc.repo import Repo

    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.ERROR)  # errors that matter are raised
    moved = on_s3(root, root / ".dvc")
    config = private_config(root) | ({"remote": moved} if moved else {})
    return Repo(str(root), config=config or None)  # DVC's next lock drops what is set later


def bring_up_to_date(
    repo,
    name: str,
    run: Callable[[str, Path], None] = run_stage,
    before: Callable[[str, Path], object] | None = None,
) -> Outcome:
    """Make stage `name` current: "unchanged" by dvc.lock, "restored" from DVC's run cache, or "ran" now.

    before: called with name and root, only if the stage is about to run. The outputs are hashed afterwards. Damaged
    files are replaced; if no undamaged copy is left, the stage runs again.
    """
    for _ in range(TRIES):
        outcome = _bring_up_to_date(repo, name, run, before)
        if outputs_whole(repo, name):
            return outcome
    raise EvergreenError(
        f"the outputs of {name} in {repo.root_dir} are damaged each time they are made: check the disk that holds "
        f"{repo.cache.local.path}"
    )


def _bring_up_to_date(repo, name: str, run: Callable, before: Callable | None) -> Outcome:
    """As `bring_up_to_date`, without a look at the outputs.

    Outputs are removed before they are restored or made: they are hard links into DVC's cache, and writing through one
    would corrupt an older release.
    """
    with chdir(repo.root_dir), repo.lock:  # DVC resolves stages and its run cache against the current folder
        (stage,) = repo.stage.collect(name)
        if not stage.changed():
            return "unchanged"
        for out in stage.outs:  # also before a restore: DVC refuses to replace an altered file
            out.remove(ignore_remove=False)
        failpoint("pipeline.removed")
        if _restored(repo, stage):
            outcome: Outcome = "restored"
            failpoint("pipeline.restored")
        else:
            if before is not None:
                before(name, Path(repo.root_dir))
            run(name, Path(repo.root_dir))
            failpoint("pipeline.ran")
            outcome = "ran"
    with chdir(repo.root_dir):
        claim_outs(repo, stage.outs)
        _retried(repo, lambda: repo.commit(name, force=True))
    failpoint("pipeline.committed")
    return outcome


def is_known(root: Path, name: str) -> bool:
    """Whether stage `name` of the workspace `root` would be unchanged or restored. Changes nothing."""
    repo = open_repo(root)  # of its own: the hashes that it saves would make the stage look up to date
    try:
        with chdir(repo.root_dir), repo.lock:
            (stage,) = repo.stage.collect(name)
            if not stage.changed():
                return True
            stage.save_deps()
            found = repo.stage_cache._load(stage)
            return bool(found) and repo.stage_cache._create_stage(found, wdir=stage.wdir).outs_cached()
    except TypeError:  # as in `_restored`
        return False
    finally:
        repo.close()


def _restored(repo, stage) -> bool:
    """Restore the outputs of `stage` from DVC's run cache; False if it has none for these inputs."""
    from dvc.stage.cache import RunCacheNotFoundError

    try:
        _retried(repo, lambda: repo.stage_cache.restore(stage))
        return True
    except RunCacheNotFoundError:
        return False
    except TypeError:  # DVC fails on the empty run-cache folder of a run that was killed before writing to it
        return False


def _retried(repo, step: Callable[[], object]) -> None:
    """Call `step`, and retry if a file disappears: runs share the cache, and DVC deletes and renames in it.

    An entry of DVC's run cache that is not UTF-8 is deleted first; DVC itself deletes one that is not YAML.
    """
    from dvc.utils.serialize import EncodingError

    for _ in range(TRIES - 1):
        try:
            step()
            return
        except FileNotFoundError:
            continue
        except EncodingError as damaged:
            file = Path(damaged.path).resolve()  # relative to the current folder
            if not file.is_relative_to(Path(repo.stage_cache.cache_dir).resolve()):
                raise
            file.unlink()
    step()


def restore_data(repo) -> None:
    """Check out data/ as data.dvc records it, from the shared cache, else from the remote.

    Its manifests are hashed, its shards are when they are read. Raises EvergreenError if neither place has an
    undamaged copy.
    """
    from dvc.exceptions import CheckoutError, DvcException

    make_folder(Path(repo.root_dir) / "data")  # DVC would make it as the umask says
    data = [out for out in recorded_outs(repo) if out.path == "data"]
    claim_recorded(repo, data)
    for out in data:
        drop_damaged_listing(repo, out)
    try:
        repo.checkout(targets=[str(Path(repo.root_dir) / "data.dvc")], force=True)
    except CheckoutError:
        try:
            claim_pulled(repo, data)
            repo.pull(targets=[str(Path(repo.root_dir) / "data.dvc")], force=True)
        except DvcException as error:
            raise EvergreenError(
                f"the data of this commit (data.dvc) is neither in the cache nor in the remote: {error}. "
                "Run `dvc push` where it was ingested, or ingest it again; `evergreen connect` says what a clone lacks."
            ) from error
    repair_records(repo)


def record_data(root: Path) -> str:
    """Store data/ in DVC's cache and write data.dvc, as `dvc add data` does; returns its md5."""
    repo = open_repo(root)
    try:
        claim_folder(repo, root / "data")
        (stage,) = repo.add(str(root / "data"))
        return stage.outs[0].hash_info.value
    finally:
        repo.close()
