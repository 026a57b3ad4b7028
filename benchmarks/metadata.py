"""What do ten million images cost where no image is decoded?

    python -m benchmarks.metadata [FOLDER] [--rows 100000 1000000 10000000] [--steps NAME ...] [--quick]

Makes synthetic projects of 10^5, 10^6 and 10^7 rows (benchmarks.metadata_project says what in them is synthetic; the
shards hold no real image bytes) and measures in processes of their own: `evergreen retrain` with nothing new, reading
manifests, listing all rows twice (the first time without the columns' copies), the splits of 1,000 new images, the
search for near-duplicates, the stage inspect with all measures cached, storing data/ in DVC, DVC's look at an unchanged
stage, a run's workspace, verify and gc. FOLDER (default: a temporary one) needs 8 GB; projects and results there are
kept, so that a stopped pass goes on. What needs more memory than --memory is left out, and a line says so.

`metadata_bytes_per_image` are all bytes on disk but images, per row. On a busy machine only CPU seconds are comparable,
so they are the figures of all steps but `uptodate`; `metadata_<step>_exponent` says how they grow between the two
largest sizes, less the start of Python: 1 is linear, 0 constant. benchmarks.scale_plan takes its unit costs from
here. Expected: uptodate_1e7_s <= 2; about 40 minutes on 2 cores.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.metadata_project import FAKE, build
from benchmarks.metadata_steps import UP_TO_DATE, end_a_run
from benchmarks.processes import Usage, python
from benchmarks.record import Figure, report
from benchmarks.scratch import say
from flows.project.data_commit import commit_data
from tasks.common.files import read_json, write_json

RUN = """
import json, os, sys
from pathlib import Path
from benchmarks.metadata_steps import STEPS
print("facts", json.dumps(STEPS[sys.argv[1]](Path(sys.argv[2]))))
status = Path("/proc/self/status").read_text().split()  # cheaper than sampling: the kernel keeps the peak (Linux)
print("peak", int(status[status.index("VmHWM:") + 1]) * 1024)
"""
IN = "import os, sys; os.chdir(sys.argv[1]); "
ROUNDS = 3  # of `evergreen retrain`: the fastest counts
# In this order: record before all that asks DVC. A name ending in _again is the same step once more.
ORDER = (
    "record",
    "uptodate",
    "manifests",
    "listing",
    "listing_again",
    "split",
    "record_again",
    "stage",
    "stage_again",
    "workspace",
    "verify",
    "verify_again",
    "gc",
    "near",
    "inspect",
)
BYTES_PER_ROW = {"near": 900, "inspect": 2500}  # memory of the steps that hold all rows; others hold a few hundred


@dataclass(frozen=True)
class Measured:
    """One step at one size."""

    wall: float
    cpu: float
    peak: int  # bytes
    facts: dict

    @classmethod
    def of(cls, usage: Usage) -> "Measured":
        said = dict(line.split(" ", 1) for line in usage.output.splitlines() if line.startswith(("facts ", "peak ")))
        return cls(usage.wall, usage.cpu, int(said.get("peak", 0)), json.loads(said.get("facts", "{}")))


def measure(root: Path, rows: int, memory: float, kept: Path, steps: Sequence[str] = ORDER) -> dict[str, Measured]:
    """What each of `steps` costs in the project at `root`; `memory` in bytes bounds those that hold all rows.

    Each result is noted in the file `kept`, and what is noted there is not measured again.
    """
    found = {name: Measured(**one) for name, one in (read_json(kept) if kept.is_file() else {}).items()}
    for name in [step for step in steps if step not in found]:
        if rows * BYTES_PER_ROW.get(name, 0) > memory:
            say(f"{name}: left out at {rows:,} rows, it would need more than {memory / 1e9:.0f} GB")
            continue
        if name == "uptodate":
            end_a_run(root)
            usage = min((python(IN + UP_TO_DATE, root) for _ in range(ROUNDS)), key=lambda one: one.wall)
            if "nothing new since run benchmark" not in usage.output:
                raise AssertionError(f"`evergreen retrain` did not find the project up to date: {usage.output}")
        else:
            usage = python(RUN, name.removesuffix("_again"), root)
        found[name] = one = Measured.of(usage)
        one.facts["load"] = round(os.getloadavg()[0], 1)
        if name == "record":
            commit_data(root, "synthetic rows")
        write_json(kept, {name: vars(one) for name, one in found.items()})
        say(f"{name}: {one.wall:.2f} s, {one.cpu:.2f} s of CPU, {one.peak / 1e6:.0f} MB {one.facts}")
    return {name: found[name] for name in ORDER if name in found}


def size_on_disk(root: Path, rows: int) -> dict[str, float]:
    """Bytes per row that are not image bytes, by where they lie. Shards are counted in data/, not in DVC's cache."""
    state = root / ".evergreen"
    listing = max((file.stat().st_size for file in (root / ".dvc/cache/files/md5").glob("??/*.dir")), default=0)
    places = {
        "shards": _bytes(root / "data", "*.parquet") - rows * FAKE,
        "manifests": _bytes(root / "data/batches", "*.json") + listing,
        "measures": _bytes(state / "cache/inspect", "**/*"),
        "columns": _bytes(state / "cache/columns", "**/*"),
    }
    return {name: size / rows for name, size in places.items()}


def _bytes(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the projects are made, and kept")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--memory", type=float, default=6e9, help="bytes that one step may use")
    parser.add_argument("--steps", nargs="+", default=ORDER, choices=ORDER, help="only these")
    parser.add_argument("--quick", action="store_true", help="1,000 and 4,000 rows; checks the script")
    options = parser.parse_args(arguments)
    sizes = [1_000, 4_000] if options.quick else options.rows
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as scratch:
        folder = options.folder or Path(scratch)
        found = {rows: _of_size(folder / f"rows-{rows}", rows, options.memory, options.steps) for rows in sizes}
    if len(found) > 1:
        report("metadata", "python -m benchmarks.metadata", figures_of(found), options.quick)


def _of_size(folder: Path, rows: int, memory: float, steps: Sequence[str]) -> tuple[dict[str, Measured], dict]:
    os.environ.pop("EVERGREEN_STATE", None)
    if not (folder / "built").is_file():
        build(folder / "project", rows)
        (folder / "built").touch()
    measured = measure(folder / "project", rows, memory, folder / "measured.json", steps)
    return measured, size_on_disk(folder / "project", rows)


def figures_of(found: dict[int, tuple[dict[str, Measured], dict[str, float]]]) -> list[Figure]:
    """Seconds of each step at each size, how they grow, and memory per row; `found` has two sizes or more."""
    many = max(found)
    sizes = [on_disk for steps, on_disk in found.values() if "listing" in steps][-1]  # it makes the columns' copies
    figures = [
        _figure(
            "metadata_bytes_per_image", sum(sizes.values()), "B", ", ".join(f"{k} {v:.0f}" for k, v in sizes.items())
        )
    ]
    for rows, (steps, _) in found.items():
        for name, one in steps.items():
            if name == "uptodate":
                goal = 2.0 if rows == many else None
                figures.append(_figure(f"uptodate_{_short(rows)}_s", one.wall, "s", _busy(one), goal))
            else:
                spread = f"{one.wall:.1f} s of wall time, {one.peak / 1e6:.0f} MB at its peak"
                cpu = one.facts.get("search_cpu", one.cpu)  # without what drawing the looks took
                figures.append(_figure(f"metadata_{name}_{_short(rows)}", cpu, "CPU s", spread))
    for name in [step for step in ORDER if step != "uptodate"]:
        pair = [(rows, steps) for rows, (steps, _) in found.items() if name in steps][-2:]
        if len(pair) == 2:
            figures += _growth(name, *pair)
    return figures


def _busy(one: Measured) -> str:
    return f"{one.cpu:.2f} s of CPU; load of the machine {one.facts.get('load', 0):.0f}"


def _growth(name: str, small: tuple[int, dict], large: tuple[int, dict]) -> list[Figure]:
    """How the CPU seconds of a step grow from one size (rows, steps) to the next, and its memory per row."""
    (few, less), (many, more) = small, large
    used = [one[name].facts.get("search_cpu", one[name].cpu - less["uptodate"].cpu) for one in (less, more)]
    before, after = (max(seconds, 0.01) for seconds in used)
    spread = f"{less[name].cpu:.1f} s at {_short(few)}, {more[name].cpu:.1f} s at {_short(many)}, of CPU"
    value = math.log(after / before) / math.log(many / few)
    figures = [_figure(f"metadata_{name}_exponent", value, "", spread)]
    if name in ("split", *BYTES_PER_ROW):
        held = (more[name].peak - less[name].peak) / (many - few)
        figures.append(_figure(f"metadata_{name}_memory_per_image", held, "B", f"from {_short(few)} to {_short(many)}"))
    return figures


def _figure(name: str, value: float, unit: str, spread: str, goal: float | None = None) -> Figure:
    return Figure(name=name, value=value, unit=unit, goal=goal, better="lower", spread=spread)


def _short(rows: int) -> str:
    power = math.log10(rows)
    return f"1e{power:.0f}" if power == int(power) else f"{rows}"


if __name__ == "__main__":
    main()
