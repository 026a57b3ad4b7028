"""What does measuring a window cost, and a whole monitor run?

    python -m benchmarks.measure_speed [--quick]

1. 20 columns of 10^4, 10^5 and 10^6 logged rows against a reference of 10,000. Ours: Kolmogorov-Smirnov distances with
   their p-values (monitoring.drift.distances, all rows, nothing sampled). Peer: Evidently's DataDriftPreset with
   num_method "ks", which computes the same. Ours must equal SciPy's ks_2samp up to rounding. Each runs in its own
   process, interleaved; seconds and memory are those of the step, without imports and data.
2. `monitor_run_s_1e5`: a production log of 100,000 rows of D = 1,280 features, as capture writes it: reading the
   window, measuring it, deciding. The calibration is cached, as in every run except a model's first.

- `measure_vs_evidently_ratio`: Evidently's seconds over ours at 10^6 rows; goal at least 20.
Expected: more than 20; about 5 minutes on 2 cores.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import evidently_peers
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from benchmarks.windows import QUARTER, START, window
from monitoring.drift import calibration, distances
from monitoring.log.schema import log_schema

COLUMNS, REFERENCE, GOAL = 20, 10_000, 20.0
FILE = 256  # rows; the same as capture.buffer_rows
K, D = 10, 1280


def columns(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([rows, seed])
    return {f"c{k}": rng.normal(0.001 * k, 1 + 0.001 * k, rows) for k in range(COLUMNS)}


def ours(now: dict[str, np.ndarray], ordered: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """(distance, p-value) by column; `ordered` is sorted, which happens once per model."""
    found = {}
    for name, values in now.items():
        finite = values[np.isfinite(values)]
        distance = distances.ks(finite, ordered[name])
        found[name] = (distance, float(distances.ks_p(distance, distances.effective(len(finite), len(ordered[name])))))
    return found


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(which: str, rows: int) -> dict:
    """One step in this process: seconds, megabytes by which its peak grew, and for ours whether SciPy agrees."""
    now, then = columns(rows, 0), columns(REFERENCE, 1)
    small = {name: values[:500] for name, values in now.items()}, {name: values[:500] for name, values in then.items()}
    if which == "evidently":
        evidently_peers.run(*small, num_method="ks")  # its imports, and whatever it does only once
        before, start = peak_mb(), time.perf_counter()
        evidently_peers.run(now, then, num_method="ks")
        return {"s": time.perf_counter() - start, "mb": peak_mb() - before}
    ordered = {name: np.sort(values) for name, values in then.items()}
    ours(*small)
    before, start = peak_mb(), time.perf_counter()
    found = ours(now, ordered)
    spent, peak = time.perf_counter() - start, peak_mb() - before
    from scipy.stats import ks_2samp

    expected = {name: ks_2samp(now[name], then[name], method="asymp").statistic for name in now}
    same = all(abs(found[name][0] - expected[name]) < 1e-12 for name in now)
    return {"s": spent, "mb": peak, "same": same}


def step(which: str, rows: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.measure_speed", "--child", which, str(rows)]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def log_rows(rows: int, rng: np.random.Generator, start: int) -> pa.Table:
    """Rows of one file in log_schema, without images."""
    probabilities = rng.dirichlet(np.full(K, 0.3), rows)
    classes = np.array([f"class {k}" for k in range(K)])
    made = {
        "id": [f"{n:064x}" for n in rng.integers(0, 2**62, rows)],
        "at": [START + QUARTER * ((start + n) / 100_000) for n in range(rows)],
        "version": ["v0.1.0"] * rows,
        "bundle": ["ab" * 32] * rows,
        "latency_ms": rng.gamma(3, 2, rows),
        "prediction": classes[probabilities.argmax(axis=1)],
        "label": classes[probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
        "probabilities": list(probabilities),
        "ood": rng.gamma(3, 0.5, rows),
        "features": list(np.abs(rng.normal(0, 1, (rows, D))).astype(np.float32)),
        "format": ["JPEG"] * rows, "mode": ["RGB"] * rows, "width": [640] * rows, "height": [480] * rows,
        "exif_orientation": [1] * rows,
        **{name: rng.gamma(9, 10, rows) for name in ("brightness", "contrast", "sharpness", "entropy")},
    }  # fmt: skip
    schema = log_schema("multiclass")
    arrays = [pa.array(made[f.name], f.type) if f.name in made else pa.nulls(rows, f.type) for f in schema]
    table = pa.table(arrays, schema=schema).append_column("label", pa.array(made["label"]))
    return table.append_column("split", pa.array(["test"] * rows))


def monitor_run(rows: int, folder: Path) -> tuple[list[float], float]:
    """Seconds of 3 whole runs over a log of `rows` rows, and of the calibration, which happens once per model."""
    from benchmarks.windows import reference_of
    from monitoring.contracts import Situation
    from monitoring.decide import decide
    from monitoring.drift.window import measure_window
    from monitoring.log.production_log import Log
    from tasks.common.params import load_params
    from tasks.storage.local import LocalStore

    params, rng = load_params(ROOT / "params.yaml"), np.random.default_rng(0)
    log = Log(LocalStore(folder / "log"), "multiclass")
    names = log_schema("multiclass").names
    for start in range(0, rows, FILE):
        log.append(log_rows(min(FILE, rows - start), rng, start).select(names))
    classes = [f"class {k}" for k in range(K)]
    about = {
        "classes": classes, "task": "multiclass", "thresholds": dict.fromkeys(classes, 0.5), "ood": {"threshold": 4.0},
    }  # fmt: skip
    reference = reference_of(log_rows(500, rng, 0), about, folder / "cache")
    began = time.perf_counter()
    calibration.calibrate(reference, params.drift.max_window, params.drift)
    calibrated, spent = time.perf_counter() - began, []
    wanted = [name for name in names if name not in ("image", "thumbnail")]
    for _ in range(3):
        began = time.perf_counter()
        end = START + QUARTER
        table, _, logged = log.window(start=START, end=end, columns=wanted, limit=params.drift.max_window)
        measures = measure_window(table, window(0, logged), reference, params.drift)
        last, before = log.last_at(end + timedelta(minutes=1)), START - QUARTER
        facts = Situation(now=end, released_at=START, last_row_at=last, last_monitor_at=before)
        decision = decide([measures], facts, params.decide)
        spent.append(time.perf_counter() - began)
        if logged != rows or not decision.sentence:
            raise RuntimeError(f"{logged} rows read, {rows} expected")
    return spent, calibrated


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rows; records nothing")
    parser.add_argument("--child", nargs=2, metavar=("WHICH", "ROWS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(args.child[0], int(args.child[1]))))
        return
    figures = []
    for rows in (2000,) if args.quick else (10**4, 10**5, 10**6):
        steps: dict[str, list[dict]] = {"ours": [], "evidently": []}
        for _ in range(1 if args.quick else 3):
            for which, found in steps.items():
                # Evidently takes seconds to import: a quick pass measures it here, and checks a child with ours
                found.append((child if args.quick and which == "evidently" else step)(which, rows))
                say(f"{rows} rows, {which}: {found[-1]}")
        if not all(one["same"] for one in steps["ours"]):
            raise RuntimeError(f"{rows} rows: our KS distances are not SciPy's")
        seconds = {which: statistics.median(one["s"] for one in found) for which, found in steps.items()}
        memory = {which: max(one["mb"] for one in found) for which, found in steps.items()}
        ratios = [b["s"] / a["s"] for a, b in zip(steps["ours"], steps["evidently"], strict=True)]
        last = rows == 10**6
        figures.append(
            Figure(
                name="measure_vs_evidently_ratio" if last else f"measure_vs_evidently_ratio_{rows}",
                value=seconds["evidently"] / seconds["ours"], unit="times", goal=GOAL if last else None,
                better="higher", peer="Evidently DataDriftPreset, KS",
                spread=f"min {min(ratios):.1f}, max {max(ratios):.1f} of {len(ratios)} rounds; "
                f"{seconds['ours']:.3f} s against {seconds['evidently']:.2f} s; "
                f"{memory['ours']:.0f} MB against {memory['evidently']:.0f} MB more at the peak",
            )
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        spent, calibrated = monitor_run(2000 if args.quick else 100_000, Path(folder))
    figures.append(
        Figure(
            name="monitor_run_s_1e5", value=statistics.median(spent), unit="s", goal=None, better="lower",
            spread=f"min {min(spent):.2f}, max {max(spent):.2f} of 3; a model's first run: {calibrated:.2f} s more",
        )
    )  # fmt: skip
    report("measure_speed", "python -m benchmarks.measure_speed", figures, args.quick)


if __name__ == "__main__":
    main()
