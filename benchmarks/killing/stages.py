"""Kills of each stage of the pipeline, on a tiny project with a small network."""

import shutil
import sys
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.flow import QUICK
from benchmarks.killing.checks import check, objects_are_whole
from flows.project.ingest import ingest_command
from flows.repo.pipeline import bring_up_to_date, open_repo
from tasks.stages.runner import STAGES
from tests.support import checkout_project
from tests.support.checkout import ROOT
from tests.support.shared import once

CLASSES, EACH = ("Bag", "Trouser", "Sneaker"), 24  # images of each class and split


def _subset(file: Path) -> Path:
    table = pq.read_table(ROOT / "datasets/fashion/base.parquet")
    seen: dict[tuple, int] = {}
    keep = []
    for row, (split, label) in enumerate(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True)):
        seen[split, label] = seen.get((split, label), 0) + 1
        if label in CLASSES and seen[split, label] <= EACH:
            keep.append(row)
    pq.write_table(table.take(pa.array(keep)), file)
    return file


def _before(stage: str, folder: Path) -> None:
    """The project as `stage` finds it; that of the stage before, and that stage."""
    place = STAGES.index(stage)
    if place == 0:
        checkout_project.make(folder / "project", QUICK)
        source = _subset(folder / "subset.parquet")
        ingest_command(folder / "project", source, kind="import", commit=True, new=False)
        return
    before = STAGES[place - 1]
    made = once(f"before-{before}", lambda at: _before(before, at))
    shutil.copytree(made / "project", folder / "project", symlinks=True)
    _bring(folder / "project", before)


def _bring(root: Path, stage: str) -> str:
    sys.argv = ["evergreen"]  # DVC and torch's workers look at it
    with chdir(root):
        repo = open_repo(root)
        try:
            return bring_up_to_date(repo, stage)
        finally:
            repo.close()


def scenario(stage: str) -> type:
    """Bringing `stage` up to date, as a run does."""

    class Stage:
        points = ()
        seconds = 900.0
        every = 6

        @staticmethod
        def make(root: Path) -> None:
            made = once(f"before-{stage}", lambda folder: _before(stage, folder))
            shutil.copytree(made / "project", root, symlinks=True)

        @staticmethod
        def act(root: Path, seed: int) -> None:
            _bring(root, stage)

        @staticmethod
        def state(root: Path) -> object:
            """Whether dvc.lock says that the stage was done; every object of the cache is whole."""
            objects_are_whole(root)
            lock = root / "dvc.lock"
            return lock.is_file() and stage in yaml.safe_load(lock.read_text()).get("stages", {})

        @staticmethod
        def again(root: Path, seed: int) -> None:
            _bring(root, stage)

        @staticmethod
        def whole(root: Path) -> None:
            with chdir(root):
                repo = open_repo(root)
                check(stage not in repo.status(), "dvc status is not clean")
                repo.close()

    return Stage


STAGE_SCENARIOS = {f"stage_{name}": scenario(name) for name in STAGES}
