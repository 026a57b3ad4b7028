"""One small training by two processes, under Ray Train and without it: do they make the same files?

Both share each batch alike, on one thread each: so their sums are the same, and their files have to be.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.scratch import ROOT, change_params, say
from flows.scale import engine
from flows.scale.stages import STAGE, run_stage_scaled
from flows.scale.training_files import OUTPUTS
from tests.support import small_project

WORLD = 2
TRAINING = {"epochs": {"frozen": 0, "last": 0, "all": 1}, "batch_size": 16, "threads": 1}


def differing(folder: Path) -> int:
    """How many outputs of stage 1 are other bytes under Ray Train; makes a project in `folder`."""
    root = small_project.copy(folder)
    change_params(root, {"scale": {"engine": "ray", "training_workers": WORLD}, STAGE: TRAINING})
    by_ray, alone = (_outputs(root, train) for train in (_by_ray, _by_processes))
    return sum(by_ray[name] != alone[name] for name in OUTPUTS)


def _outputs(root: Path, train: Callable[[Path], None]) -> dict[str, bytes]:
    """The content of each output that `train` writes under `root`."""
    for name in OUTPUTS:
        (root / name).unlink(missing_ok=True)
    train(root)
    return {name: (root / name).read_bytes() for name in OUTPUTS}


def _by_ray(root: Path) -> None:
    said: list[str] = []
    run_stage_scaled(STAGE, root, said.append)
    engine.disconnect()
    say("\n".join(said))


def _by_processes(root: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-m", "tasks.stages", STAGE], cwd=root, env=environment, check=True)
