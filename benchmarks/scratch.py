"""Temporary projects for the benchmarks: this checkout's parameters with an image set ingested."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tasks.common.files import atomic_path
from tasks.common.params import load_params
from tasks.ingest.batch import ingest
from tasks.stages.runner import run_stage

ROOT = Path(__file__).resolve().parent.parent
FASHION = ROOT / "datasets" / "fashion"


def scratch_project(folder: Path, source: Path = FASHION / "base.parquet", changes: dict | None = None) -> Path:
    """Make a project in `folder` (empty or not existing) with `source` ingested; returns `folder`.

    It has this checkout's params.yaml, with `changes` {section: {key: value}}, its dvc.yaml and no tombstones. Its
    state is `folder`/.evergreen: EVERGREEN_STATE is removed from this process's environment, because otherwise several
    projects of one process would share caches.
    """
    os.environ.pop("EVERGREEN_STATE", None)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: a scratch project starts from nothing")
    (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "tombstones.json").write_text("{}\n")
    change_params(folder, changes or {})
    params = load_params(folder / "params.yaml")
    ingest(folder, source, data=params.data, images=params.images, inspect=params.inspect)
    return folder


def change_params(project: Path, changes: dict) -> None:
    """Set keys of the project's params.yaml; `changes` is {section: {key: value}}, nested as deep as needed."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    _merge(values, changes)
    with atomic_path(project / "params.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False))


def _merge(values: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def small_set(file: Path, source: Path = FASHION / "base.parquet", divisor: int = 8, least: int = 6) -> Path:
    """Write a `divisor`-th of each class and split of `source` to `file`, at least `least` rows: for quick passes."""
    table = pq.read_table(source)
    keep: list[int] = []
    groups: dict[tuple, list[int]] = {}
    for row, place in enumerate(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True)):
        groups.setdefault(place, []).append(row)
    for rows in groups.values():
        keep += rows[: max(least, len(rows) // divisor)]
    with atomic_path(file) as temporary:
        pq.write_table(table.take(pa.array(sorted(keep))), temporary)
    return file


def run_stages(project: Path, *names: str) -> dict[str, float]:
    """Run the stages in order and return the seconds of each. Prints on stderr what runs."""
    seconds = {}
    for name in names:
        with timed(name) as clock:
            run_stage(name, project)
        seconds[name] = clock.wall
    return seconds


class Clock:
    """Seconds of a `timed` block: wall time, and CPU time of all threads of this process."""

    wall = cpu = 0.0


@contextmanager
def timed(what: str) -> Iterator[Clock]:
    """Measure the block; print on stderr that it began and how long it took."""
    say(f"{what} ...")
    clock, wall, cpu = Clock(), time.perf_counter(), time.process_time()
    yield clock
    clock.wall, clock.cpu = time.perf_counter() - wall, time.process_time() - cpu
    say(f"{what}: {clock.wall:.1f} s")


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
