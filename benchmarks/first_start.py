"""How long does the first start of a project's Prefect server take, with and without a kept database?

    python -m benchmarks.first_start [--quick]

Starts servers of new projects in turns: with an empty cache (Prefect migrates its database), then with the database
that this start kept. Expected: the second takes half as long or less; two minutes in all.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.record import Figure, report
from flows.server import process

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5


def first_start(root: Path, cache: Path) -> float:
    """Seconds until the server of a new project at `root` answers, with the user's cache in `cache`."""
    root.mkdir()
    text = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("prefect_port: 4200", f"prefect_port: {process.free_port(0)}"))
    (root / "dvc.yaml").touch()
    os.environ["XDG_CACHE_HOME"] = str(cache)
    began = time.perf_counter()
    try:
        process.ensure_server(root, lambda line: None)
        return time.perf_counter() - began
    finally:
        process.stop_server(root)


def main(quick: bool) -> None:
    rounds = 1 if quick else ROUNDS
    process.START_SECONDS = 600  # a loaded machine makes both slower, and a server that is given up measures nothing
    migrated, copied = [], []
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "EVERGREEN_STATE", "EVERGREEN_DATABASE_URL"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        first_start(Path(folder) / "warm", Path(folder) / "caches-warm")  # compiles, and fills the page cache
        for number in range(rounds):
            cache = Path(folder) / f"caches-{number}"
            migrated.append(first_start(Path(folder) / f"migrated-{number}", cache))
            copied.append(first_start(Path(folder) / f"copied-{number}", cache))
    ratio = median(after / before for before, after in zip(migrated, copied, strict=True))
    spread = f"{min(copied):.1f} to {max(copied):.1f} s of {rounds}"
    peer = f"the same start with an empty cache: {median(migrated):.1f} s"
    report(
        "first_start",
        "python -m benchmarks.first_start",
        [
            Figure(name="first_start_s", value=median(copied), unit="s", goal=None, better="lower", spread=spread),
            Figure(name="first_start_ratio", value=ratio, unit="x", goal=0.6, better="lower", peer=peer),
        ],
        quick,
    )


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
