"""What does Ray cost on one machine, what survives a killed worker, and how far would more workers go?

    python -m benchmarks.ray_scale [--photos N] [--rounds N] [--quick]

- ray_result_differs: cache entries and outputs of inspect and embed, files of the log of `evergreen score`, and outputs
  of one small training by two processes, that are other bytes with Ray than without it.
- ray_kill_recoveries: share of rounds in which a worker gets SIGKILL in the middle of the work and all entries are made
  all the same, with the same bytes.
- ray_overhead_ratio: seconds to make the entries of inspect and embed and to answer all photos by clusters of this
  machine, with their starts and ends, over those without Ray. Both begin with empty caches, but for the exported
  network. Answers are those of the small model of the tests' project.
- ray_sim_efficiency_64: a simulation of 64 workers that embed 10^6 photos, with the costs of units and of the driver
  measured here: the work of all units, over 64 times the simulated seconds.

Expected with 20,000 photos: 15 to 25 minutes on two cores that do nothing else.
"""

import argparse
import heapq
import io
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import ray_training
from benchmarks.record import Figure, report
from benchmarks.scratch import change_params, say, scratch_project
from benchmarks.serving import projects
from flows.production import answering_by_ray
from flows.production import score as scoring
from flows.scale import engine, entries
from flows.scale.fill import PER_CPU, fill_entries
from flows.scale.map import ray_map
from monitoring.log.production_log import open_log
from tasks.common.params import ScaleParams, load_params
from tasks.common.paths import cache_dir
from tasks.ingest import writing
from tasks.stages.runner import run_stage

SIDE = 320  # pixels of a photo
STAGES = ("inspect", "embed")
KINDS = ("inspect", "pixels", "features")
SHARD_PHOTOS = 1000  # as many photos of 64 KB fill a shard; here they are smaller
PHOTOS = 1_000_000
AT = datetime(2026, 1, 1, tzinfo=UTC)  # of all answers, so that two logs are alike


def photos(file: Path, count: int) -> Path:
    """`count` different JPEGs of SIDE x SIDE pixels in two classes, as Parquet."""
    rows = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": f"class {number % 2}"})
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def entry_bytes(root: Path) -> dict[str, bytes]:
    """All cache entries and outputs of inspect and embed."""
    cache = cache_dir("inspect", root).parent
    found = (file for kind in KINDS for file in (cache / kind).rglob("*.*"))
    files = [
        (cache, file) for file in found if not file.name.startswith(".")
    ]  # those a killed writer left are no entries
    files += [(root, root / "artifacts/inspect/samples.parquet"), (root, root / "artifacts/embed/index.json")]
    return {file.relative_to(base).as_posix(): file.read_bytes() for base, file in files}


def prepare(root: Path, name: str) -> None:
    """Set `scale.engine`, and empty the caches of `root` but for the exported network."""
    change_params(root, {"scale": {"engine": name}})
    for kind in KINDS:
        shutil.rmtree(cache_dir(kind, root))


def run(root: Path, name: str) -> float:
    """Seconds of inspect and embed with an engine, from empty caches to their outputs."""
    prepare(root, name)
    began = time.perf_counter()
    for stage in STAGES:
        fill_entries(stage, root, say)
        run_stage(stage, root)
    engine.disconnect()
    return time.perf_counter() - began


def answered(root: Path, source: Path, name: str) -> tuple[float, list[str]]:
    """Seconds of `evergreen score` with an engine, and the files of the new log, which are named by their content."""
    log = root.parent / "log"
    shutil.rmtree(log, ignore_errors=True)
    change_params(root, {"scale": {"engine": name}, "capture": {"url": str(log), "images": "thumbnail"}})
    began = time.perf_counter()
    scoring.score(root, str(source), at=AT)
    engine.disconnect()
    seconds = time.perf_counter() - began
    return seconds, sorted(open_log(root, load_params(root / "params.yaml")).store.list(""))


def killed_round(root: Path, after: float) -> int:
    """Run with Ray, and kill a worker at work once, `after` seconds or more after the start; how many were killed."""
    killed, ended = [], threading.Event()

    def kill() -> None:
        ended.wait(after)
        while not ended.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, ProcessLookupError):  # it has just ended
                    if process.name().startswith("ray::_call"):  # Ray renames a worker while it has a task
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        run(root, "ray")
    finally:
        ended.set()
        thread.join()
    return len(killed)


def unit_costs(root: Path) -> list[float]:
    """Seconds per photo of making the features of each shard in one process with one thread."""
    prepare(root, "local")
    run_stage("inspect", root)
    found = []
    for unit in entries.missing("embed", root, load_params(root / "params.yaml")):
        rows = pq.read_metadata(root / "data" / unit.shard).num_rows
        began = time.perf_counter()
        entries.make(unit, root)
        found.append((time.perf_counter() - began) / rows)
    return found


def driver_cost(calls: int) -> float:
    """Seconds of the driver for each unit: to submit it, to hear of its end, to yield it."""
    engine.connect(ScaleParams(engine="ray"))
    list(ray_map(abs, range(20), in_flight=4))  # workers are started
    began = time.perf_counter()
    list(ray_map(abs, range(calls), in_flight=PER_CPU * os.cpu_count()))
    seconds = time.perf_counter() - began
    engine.disconnect()
    return seconds / calls


@dataclass(frozen=True)
class Simulated:
    """What a simulation found."""

    seconds: float
    efficiency: float


def simulate(costs: Sequence[float], workers: int, serial: float) -> Simulated:
    """`ray_map` over units of `costs` seconds with a driver that needs `serial` seconds for each.

    As in flows.scale.map: PER_CPU units per worker are in flight, results are yielded in order, and a unit that waits
    for an earlier one to be yielded keeps its place.
    """
    window = PER_CPU * workers
    free = [0.0] * workers  # when each worker ends what it has
    ends: list[float] = []
    yielded: list[float] = []
    driver = 0.0  # when the driver is free
    for number, cost in enumerate(costs):
        if number >= window:
            driver = max(driver, yielded[number - window])
        driver += serial
        start = max(driver, heapq.heappop(free))
        ends.append(start + cost)
        heapq.heappush(free, start + cost)
        yielded.append(max(ends[-1], yielded[-1] if yielded else 0.0))
    return Simulated(yielded[-1], sum(costs) / (workers * yielded[-1]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    count, rounds = (120, 1) if given.quick else (given.photos, given.rounds)
    if given.quick:
        writing.SHARD_ROWS, scoring.BATCH, answering_by_ray.FEW = 30, 8, 1
    else:
        writing.SHARD_ROWS = SHARD_PHOTOS
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as folder:
        source = photos(Path(folder) / "photos.parquet", count)
        root = scratch_project(Path(folder) / "project", source)
        live = projects.make(Path(folder) / "live", projects.SMALL)
        run(root, "local")  # exports the network
        answered(live, source, "local")  # takes the bundle into the cache
        expected, ratios = entry_bytes(root), []
        differs = trained = ray_training.differing(Path(folder) / "training")
        recovered = kills = 0
        for number in range(rounds):
            order = ("local", "ray") if number % 2 else ("ray", "local")
            seconds = {name: run(root, name) for name in order}
            answers = {name: answered(live, source, name) for name in order}
            differs += len(set(answers["ray"][1]) ^ set(answers["local"][1]))
            took = {name: seconds[name] + answers[name][0] for name in order}
            ratios.append(took["ray"] / took["local"])
            for name in order:
                say(f"{name}: {seconds[name]:.1f} s to inspect and embed, {answers[name][0]:.1f} s to answer")
            after = 0.0 if given.quick else seconds["ray"] * np.random.default_rng(number).uniform(0.3, 0.8)
            kills += (killed := killed_round(root, after))
            found = entry_bytes(root)
            wrong = sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())
            differs, recovered = differs + wrong, recovered + (killed == 1 and wrong == 0)
        costs, serial = unit_costs(root), driver_cost(20 if given.quick else 500)
        rng = np.random.default_rng(0)
        units = SHARD_PHOTOS * rng.choice(costs, PHOTOS // SHARD_PHOTOS)
        found = {workers: simulate(list(units), workers, serial) for workers in (8, 64, 256)}
    spread = f"min {min(ratios):.2f}, max {max(ratios):.2f} of {rounds} rounds"
    others = ", ".join(f"{workers} workers: {one.efficiency:.2f}" for workers, one in found.items())
    costs_said = f"{1e3 * np.median(costs):.1f} ms a photo, {1e3 * serial:.1f} ms of the driver a shard"
    report(
        "ray_scale",
        f"python -m benchmarks.ray_scale --photos {count}",
        [
            Figure(
                name="ray_result_differs",
                value=differs,
                unit="files",
                goal=0,
                better="lower",
                peer="local",
                spread=f"{trained} of them of a training by {ray_training.WORLD} processes, Ray Train against torchrun",
            ),
            Figure(
                name="ray_kill_recoveries",
                value=recovered / rounds,
                unit="of rounds",
                goal=1,
                better="higher",
                spread=f"{kills} workers killed in {rounds} rounds",
            ),
            Figure(
                name="ray_overhead_ratio",
                value=float(np.median(ratios)),
                unit="x",
                goal=1.25,
                better="lower",
                peer=f"inspect, embed and score of {count} photos without Ray",
                spread=spread,
            ),
            Figure(
                name="ray_sim_efficiency_64",
                value=found[64].efficiency,
                unit="of ideal",
                goal=0.8,
                better="higher",
                peer=f"{PHOTOS:,} photos in shards of {SHARD_PHOTOS}; {costs_said}",
                spread=others,
            ),
        ],
        given.quick,
    )


if __name__ == "__main__":
    main()
