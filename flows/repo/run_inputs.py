"""What decides a run's result: the input key, its lock, how earlier runs over it ended.

    .evergreen/seen/<input key>.json    how the run over these inputs ended: the up-to-date check
    .evergreen/seen/<input key>.lock    flock held by the process of the one run over these inputs

The kernel frees a flock when its process ends, so a killed process never blocks another run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flows.repo.git import check_repository, git
from flows.repo.tombstones import in_force
from tasks.common.errors import EvergreenError
from tasks.common.files import locked, parse_yaml, write_json
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.releases.store import open_store

INPUTS = ("data.dvc", "params.yaml", "dvc.yaml", "tombstones.json")  # they decide a run's result, together with code
# Code that decides a verdict and that no stage of dvc.yaml uses: the rest of the import closure of judge_run. A test
# compares them.
JUDGING = ("flows/publishing/judge_run.py", "tasks/common/floors.py", "tasks/gate/", "tasks/labels/owner_names.py")
CODE = ("tasks", "flows", "serving", "monitoring")  # a run imports all of it from its commit
RUN_SECONDS = 24 * 3600.0  # longest wait for another run; a single step is ended after 12 hours


def input_key(root: Path, tombstones: dict) -> str:
    """Hash everything that a run's result depends on: committed data, params, code of stages and gate, tombstones.

    Raises EvergreenError if HEAD lacks one of them (no data ingested yet, say).
    """
    try:
        pipeline = git(root, "show", "HEAD:./dvc.yaml")
    except EvergreenError:
        check_repository(root)  # only after a failure: its two git calls would double the time
        pipeline = ""  # reported as missing below
    try:
        needed = stage_dependencies(parse_yaml(pipeline) or {})
    except Exception as error:  # a user may write anything there: YAML errors, and lists where DVC expects mappings
        raise EvergreenError(f"dvc.yaml at HEAD is not a pipeline that DVC can read: {error}") from error
    listing = git(root, "ls-tree", "HEAD", "--", *INPUTS, *needed, *JUDGING)
    found = {line.split("\t")[1] for line in listing.splitlines()}
    if "data.dvc" not in found:
        raise EvergreenError("HEAD has no data.dvc: run `evergreen ingest FOLDER` first (it commits data.dvc)")
    if missing := set(INPUTS) - found:
        raise EvergreenError(f"HEAD lacks {', '.join(sorted(missing))}: commit them first")
    return hashlib.sha256(f"{listing}\n{sorted(tombstones)}".encode()).hexdigest()[:24]


def stage_dependencies(pipeline: dict) -> list[str]:
    """Files and folders of the project that the stages of a parsed dvc.yaml read but do not make, sorted."""
    stages = pipeline.get("stages", {}).values()
    outs = {path for stage in stages for kind in ("outs", "metrics", "plots") for path in _paths(stage, kind)}
    deps = {path for stage in stages for path in _paths(stage, "deps")}
    made = {path for path in deps if not outs.isdisjoint([path, *(str(parent) for parent in Path(path).parents)])}
    return sorted(path for path in deps - made if "://" not in path and not path.startswith(("/", "../")))


def _paths(stage: dict, kind: str) -> Iterator[str]:
    """An entry is a path, or {path: options}."""
    for entry in stage.get(kind) or []:
        yield from [entry] if isinstance(entry, str) else entry


def refuse_dirty(root: Path) -> None:
    """Raise EvergreenError if files that decide a run's result differ from HEAD: a run uses HEAD only."""
    status = git(root, "status", "--porcelain", "--untracked-files=normal", "--", *INPUTS, *CODE)
    if status:
        shown = "\n  ".join(status.splitlines()[:10])
        raise EvergreenError(
            f"these files differ from HEAD, and a run uses HEAD only:\n  {shown}\nCommit them "
            '(`git commit -am "why"` takes all changed files, `git add FILE` first a new one), then start again.'
        )


def recorded_ending(root: Path, key: str) -> dict | None:
    """How the run over the inputs `key` ended in this checkout; None if none has ended."""
    file = state_dir(root) / "seen" / f"{key}.json"
    return read_rebuildable(file, accept_ending, "the release store or a new run tells it again")


def accept_ending(about: dict) -> dict:
    """`about` if it tells how a run ended. Raises TypeError or KeyError."""
    for name in ("outcome", "sentence"):
        expect(about[name], str)
    expect(about.get("version"), str | None)
    return about


def record_ending(root: Path, key: str, ending: dict) -> None:
    """Record how the run over the inputs `key` ended, for the up-to-date check."""
    write_json(state_dir(root) / "seen" / f"{key}.json", ending)


def current_inputs(root: Path) -> tuple[str, dict, dict | None]:
    """(input key of HEAD, tombstones in force, how the run over these inputs ended or None)."""
    params = load_params(root / "params.yaml")
    tombstones = in_force(open_store(params.store, root).tombstones(), params)
    key = input_key(root, tombstones)
    return key, tombstones, recorded_ending(root, key)


@contextmanager
def lock_inputs(root: Path, key: str, say=print) -> Iterator[int]:
    """Wait until no run over the inputs `key` is alive, then hold their lock; yields its descriptor.

    The run's process inherits the descriptor. So the lock outlives the process that started the run, and is freed
    however the run ends.
    """
    file = state_dir(root) / "seen" / f"{key}.lock"
    make_folder(file.parent)
    waits = partial(say, "a run over the same inputs is in progress: waiting until it ends")
    with locked(file, RUN_SECONDS, "these inputs", on_wait=waits) as lock:
        yield lock
