"""What does the flow cost on top of its functions, and what does a run with nothing to do cost?

    python -m benchmarks.flow [--quick] [--rounds N]

- flow_overhead_ratio: wall time of `evergreen retrain` (worktree, process, Prefect, DVC, gate, publish) over that of
  the same stage functions and gate called directly in one fresh process. Both run on the default set from empty caches,
  with a Prefect server already up. Expected: at most 1.1.
- noop_retrain_s: `evergreen retrain` with nothing new, as a whole process. Expected: well under 3 s.
- up_to_date_check_s: the check inside it. Expected: under 0.3 s.

Rounds alternate between flow and bare functions; the median ratio is reported. A full round takes a few minutes on 2
cores.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from benchmarks.record import Figure, report
from flows.repo.git import git, identity_options

ROOT = Path(__file__).resolve().parent.parent

QUICK = {  # every stage does its real work, on little data; a small network exports seconds faster
    "images": {"resolution": 32},
    "train_backbone": {
        "backbone": "test_efficientnet",
        "pretrained": "none",
        "epochs": {"frozen": 0, "last": 0, "all": 1},
    },
    "evaluate": {"corruptions": ["dark"], "corruption_images": 40, "latency_runs": 5},
    "gate": {"first_model": {"test.balanced_accuracy": 0.0}, "max_ece": 1.0, "resamples": 200},
    "bundle": {"reference_rows": 40},
}

BARE = """
import sys
from pathlib import Path
from tasks.stages.runner import STAGES, run_stage
from tasks.common.params import load_params
from tasks.releases.store import open_store
from flows.publishing.judge_run import judge_run
root = Path.cwd()
for name in STAGES:
    run_stage(name, root)
params = load_params(root / "params.yaml")
print(judge_run(root, params, open_store(params.store, root), None).outcome)
"""

CHECK = """
import time
from pathlib import Path
from flows.runs.launch import run_inputs
start = time.perf_counter()
assert run_inputs.current_inputs(Path.cwd())[2] is not None
print(time.perf_counter() - start)
"""


def project(folder: Path, quick: bool) -> Path:
    """A clone of this checkout with the default set ingested; with faster parameters for a quick pass."""
    root = folder / "project"
    git(folder, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(root))
    if quick:
        values = yaml.safe_load((root / "params.yaml").read_text())
        for section, changes in QUICK.items():
            values[section] |= changes
        (root / "params.yaml").write_text(yaml.safe_dump(values))
        git(root, *identity_options(root), "commit", "--quiet", "-am", "quick parameters")
        few = pq.read_table(root / "datasets/fashion/base.parquet").to_pandas().groupby(["split", "label"]).head(8)
        few.to_parquet(folder / "few.parquet")
        run(root, "-m", "flows.cli", "ingest", str(folder / "few.parquet"), "--new")
    else:
        run(root, "-m", "flows.cli", "ingest")
    return root


def run(root: Path, *arguments: str, cwd: Path | None = None, expect: int = 0) -> tuple[float, str]:
    """(seconds, output) of a fresh Python process with the project's code."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise every process compiles all libraries, which is not our cost
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=cwd or root, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != expect:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return seconds, done.stdout


def forget(root: Path) -> None:
    """Empty every cache and the release store, so that the next run starts from scratch; keep data/ and the server."""
    for name in ("cache", "runs", "seen", "releases", "remote"):
        shutil.rmtree(root / ".evergreen" / name, ignore_errors=True)
    shutil.rmtree(root / ".dvc" / "cache" / "runs", ignore_errors=True)
    git(root, "worktree", "prune")
    for name in git(root, "for-each-ref", "--format=%(refname)", "refs/tags", "refs/heads/releases").splitlines():
        git(root, "update-ref", "-d", name)


def bare(root: Path) -> float:
    forget(root)
    for name in ("artifacts", "metrics"):
        shutil.rmtree(root / name, ignore_errors=True)
    seconds, _ = run(root, "-c", BARE)
    for name in ("artifacts", "metrics"):
        shutil.rmtree(root / name)
    return seconds


def flow(root: Path, quick: bool) -> float:
    if not quick:  # a quick pass keeps the caches of the bare run: that saves a test some seconds
        forget(root)
    return run(root, "-m", "flows.cli", "retrain")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny training; checks the script, measures nothing")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        root = project(Path(folder), options.quick)
        try:
            run(
                root,
                "-c",
                "from pathlib import Path; from flows.server.process import ensure_server; ensure_server(Path.cwd())",
            )
            ratios, times = [], []
            for number in range(rounds):
                without, with_flow = (
                    bare(root),
                    flow(root, options.quick),
                )  # the flow last: then nothing is left to do
                ratios.append(with_flow / without)
                times.append((with_flow, without))
                print(f"round {number + 1}: flow {with_flow:.1f} s, bare {without:.1f} s", flush=True)
            noop = [run(root, "-m", "flows.cli", "retrain")[0] for _ in range(1 if options.quick else 7)]
            check = [float(run(root, "-c", CHECK)[1]) for _ in range(1 if options.quick else 7)]
        finally:
            run(root, "-m", "flows.cli", "down")
    figures = [
        Figure(
            name="flow_overhead_ratio",
            value=statistics.median(ratios),
            unit="x",
            goal=1.1,
            better="lower",
            peer="the same functions bare in one process",
            spread="; ".join(f"{a:.1f} s / {b:.1f} s" for a, b in times),
        ),
        seconds("noop_retrain_s", noop, 3.0),
        seconds("up_to_date_check_s", check, 0.3),
    ]
    report("flow", "python -m benchmarks.flow", figures, options.quick)


def seconds(name: str, values: list[float], goal: float) -> Figure:
    spread = f"min {min(values):.2f}, max {max(values):.2f} of {len(values)}"
    return Figure(name=name, value=statistics.median(values), unit="s", goal=goal, better="lower", spread=spread)


if __name__ == "__main__":
    main()
