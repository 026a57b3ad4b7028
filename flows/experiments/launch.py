"""`evergreen experiment`: make the planned experiments one after another.

Each has a workspace and a process of its own, as a run has.

An experiment that the table has is not made again: same inputs at HEAD, same changes, same champion. So a command that
was killed goes on where it was when it is given again. Every experiment is judged against the champion that was live
when the command began.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flows.experiments.plan import experiment_key, name_of, spoken
from flows.experiments.settings import with_settings
from flows.publishing.experiment_table import Row, rows
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.runs.launch import complete_killed_runs
from flows.server.environment import environment
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import load_params, load_run_params, parse_params, parse_text
from tasks.common.paths import main_checkout
from tasks.common.person import person
from tasks.releases.pointer import Pointer
from tasks.releases.store import open_store

INTERRUPTED = 130


@dataclass
class Made:
    """What one command made: rows of the table (known ones, too), and the experiments that failed with why."""

    rows: list[Row] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    out_of_time: bool = False


@dataclass(frozen=True)
class Setup:
    """What all experiments of one command share."""

    root: Path
    key: str  # the input key of HEAD
    tombstones: dict
    text: str  # params.yaml
    champion: Pointer | None
    by: str


def prepare(root: Path) -> Setup:
    """Check that experiments can be made at HEAD. Raises EvergreenError where a run would."""
    run_inputs.refuse_dirty(root)
    workspace.check_code_and_state(root)
    load_run_params(root / "params.yaml")
    key, tombstones, _ = run_inputs.current_inputs(root)
    champion = open_store(load_params(root / "params.yaml").store, root).live()
    text = (root / "params.yaml").read_text(encoding="utf-8")
    return Setup(root, key, tombstones, text, champion, person(root))


def make_all(
    setup: Setup, planned: Iterable[dict[str, Any]], minutes: float | None = None, say=print, out: TextIO | None = None
) -> Made:
    """Make each of `planned` (changes) that the table lacks, until the time is over.

    minutes: no experiment starts that would end later, if it takes as long as the slowest so far. The first one always
    starts. out: where their processes print; None: standard output. Raises KeyboardInterrupt after Ctrl-C, and
    EvergreenError for settings that params.yaml cannot have.
    """
    made, began, slowest = Made(), time.monotonic(), 0.0
    tried: list[Any] = []
    complete_killed_runs(setup.root, say)
    for changes in planned:
        text = with_settings(setup.text, changes)
        params = parse_params(parse_text(text))
        if params in tried:
            continue  # another way to say the same settings
        tried.append(params)
        key = experiment_key(setup.key, changes, setup.champion.bundle if setup.champion else None)
        if known := find(setup.root, key):
            say(f"{known.name}: {spoken(changes)}: made before, on commit {known.baseline[:8]}")
            made.rows.append(known)
            continue
        spent = time.monotonic() - began
        if not fits(spent, slowest, minutes):
            made.out_of_time = True
            break
        name, start = name_of(changes, key), time.monotonic()
        say(f"{name}: {spoken(changes)}")
        with run_inputs.lock_inputs(setup.root, key, say) as flight:
            found = find(setup.root, key) or _make(setup, name, changes, key, text, flight, out)
        slowest = max(slowest, time.monotonic() - start)
        if isinstance(found, Row):
            made.rows.append(found)
            say(f"  {found.sentence}")
        else:
            made.failed.append((name, found))
            say(f"  failed: {found}")
    return made


def fits(spent: float, slowest: float, minutes: float | None) -> bool:
    """Whether one more experiment ends in time, if it takes as long as the slowest so far (seconds; 0.0: none yet)."""
    return minutes is None or not slowest or spent + slowest <= 60 * minutes


def check_settings(setup: Setup, planned: Iterable[dict[str, Any]]) -> None:
    """Raise ParamsError or EvergreenError for the first of `planned` that a training would refuse, before any training.

    Raises EvergreenError if all of them are what params.yaml says.
    """
    from tasks.backbones.timm_models import check_known
    from tasks.stages.train_backbone.checks import check_settings as check_stage

    today = parse_params(parse_text(setup.text))
    wanted = [parse_params(parse_text(with_settings(setup.text, changes))) for changes in planned]
    if all(params == today for params in wanted):
        raise EvergreenError("nothing to try: params.yaml has these settings already")
    for params in wanted:
        stage = params.train_backbone
        if stage.start != "pretrained":  # not pinned yet: whether a soup has a common start is seen in the stage
            stage = stage.model_copy(update={"combine": "best"})
        check_stage(stage, params.data.task)
        check_known(params.train_backbone.backbone)


def find(root: Path, key: str) -> Row | None:
    """The row of the experiment with this key, on whatever commit it was made."""
    return next((row for row in reversed(rows(root)) if row.key == key), None)


def _make(setup: Setup, name: str, changes: dict, key: str, text: str, flight: int, out: TextIO | None) -> Row | str:
    """The row of a new experiment, or why it failed."""
    root = setup.root
    tree, lock = workspace.create(root, workspace.new_run_id(key), setup.tombstones)
    folder = tree.parent
    process = None
    try:
        (tree / "params.yaml").write_text(text, encoding="utf-8")
        about = {"name": name, "changes": changes, "key": key, "inputs": setup.key, "by": setup.by}
        champion = setup.champion.model_dump(mode="json", by_alias=True) if setup.champion else None
        write_json(folder / "asked.json", {"about": about, "champion": champion})
        reason = f"experiment {name}: {spoken(changes)}"
        write_json(folder / "started.json", {"key": key, "reason": reason, "by": setup.by})
        env = environment(root) | {
            "PYTHONPATH": str(tree),  # the code of its commit
            "PYTHONUNBUFFERED": "1",
            "EVERGREEN_STATE": str(workspace.state_dir(root)),
        }
        command = [sys.executable, "-m", "flows.experiments.process", folder.name]
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child unblocks it once it can end cleanly
        try:
            process = subprocess.Popen(command, cwd=tree, env=env, stdout=out, pass_fds=[lock, flight])
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = _wait(process)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        made = read_json(folder / "made.json") if (folder / "made.json").is_file() else {}
        if "row" in made:
            return Row.model_validate(made["row"])
        return made.get("error") or f"its process ended with exit code {code}"
    finally:
        os.close(lock)
        if process is None or process.poll() is not None:
            shutil.rmtree(folder, ignore_errors=True)
            git(main_checkout(root), "worktree", "prune")


def _wait(process: subprocess.Popen) -> int:
    """The child's exit code. Ctrl-C reaches the child too (same terminal), so keep waiting for it."""
    while True:
        try:
            code = process.wait()
            return 128 - code if code < 0 else code
        except KeyboardInterrupt:
            continue


def comparable(setup: Setup) -> list[Row]:
    """The experiments over the inputs of HEAD that were judged against the champion of `setup`, oldest first."""
    version = setup.champion.version if setup.champion else None
    found = [row for row in rows(setup.root) if row.kind == "experiment" and row.inputs == setup.key]
    return [row for row in found if row.champion == version]


def apply(root: Path, row: Row) -> list[str]:
    """Write the changes of `row` into params.yaml; returns a line for each. Raises EvergreenError."""
    file = root / "params.yaml"
    text = file.read_text(encoding="utf-8")
    changed = with_settings(text, row.changes)
    if changed != text:
        with atomic_path(file, tracked=True) as temporary:
            temporary.write_text(changed, encoding="utf-8")
    return [f"{setting}: {value}" for setting, value in row.changes.items()]
