"""Runs a stage: from dvc.yaml (`python -m tasks.stages NAME`), from a flow, or from a notebook.

A stage is the module tasks/stages/NAME.py or tasks/stages/NAME/stage.py with a function `run(root, *, <section>:
<SectionParams>, ...)`. The keyword names are the sections of params.yaml that the stage reads, so a test can compare
the signature with dvc.yaml's `params:`.
"""

import importlib
import inspect as _inspect
import os
import sys
from pathlib import Path

from tasks.common.artifacts import record_used
from tasks.common.errors import EvergreenError
from tasks.common.params import load_run_params

STAGES = (
    "inspect",
    "validate",
    "embed",
    "clean",
    "train_backbone",
    "train_head",
    "calibrate",
    "evaluate",
    "bundle",
)


def stage_module(name: str) -> str:
    """The module that holds stage `name`."""
    package = Path(__file__).parent / name
    return f"tasks.stages.{name}.stage" if package.is_dir() else f"tasks.stages.{name}"


def sections(name: str) -> list[str]:
    """The sections of params.yaml that stage `name` reads."""
    run = importlib.import_module(stage_module(name)).run
    return [p.name for p in _inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY]


def run_stage(name: str, root: Path) -> None:
    """Run stage `name` in the project (or worktree) at `root` with that project's params.yaml."""
    params = load_run_params(root / "params.yaml")
    run = importlib.import_module(stage_module(name)).run
    used = {section: params.section(section) for section in sections(name)}
    run(root, **used)
    if os.environ.get("RANK", "0") == "0":  # of several machines that train together, the first has the outputs
        record_used(root, name, used)


def main(name: str) -> None:
    """Run stage `name` in the current folder; an EvergreenError becomes one message, not a traceback."""
    try:
        run_stage(name, Path.cwd())
    except EvergreenError as error:
        sys.exit(f"{name}: {error}")
