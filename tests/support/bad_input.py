"""What the tests of bad input share: a small project, the real command line, and what must not change."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.checkout import ROOT, git
from tests.support.children import command

PIPELINE = "stages:\n  inspect:\n    cmd: 'true'\n    deps: [data]\n"


def make(root: Path) -> Path:
    """A git and DVC project with eight images of two classes ingested and committed; no pipeline worth running."""
    for name in ("params.yaml", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "tombstones.json").write_text("{}\n")
    (root / "tasks").mkdir()
    (root / "tasks/code.py").write_text("code = 1\n")
    (root / ".gitignore").write_text("/data\n/artifacts\n/.evergreen\n")
    commit_all(root)
    images(root.parent / "good", {"cat": 4, "dog": 4})
    done = evergreen(root, "ingest", str(root.parent / "good"))
    assert done.returncode == 0, done.stderr
    return root


def commit_all(root: Path) -> None:
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")


def images(folder: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """Class folders of small images of noise: no two are near-duplicates."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise(rng).save(folder / name / f"{number}.png")
    return folder


def noise(rng: np.random.Generator, side: int = 24) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def evergreen(root: Path, *arguments: str, env: dict | None = None, under: tuple = (), **options):
    """`evergreen ARGUMENTS` as a process of its own in `root`, with this checkout's code.

    under: a command that starts it. options: of subprocess.run.
    """
    if not under and not options:
        return command(arguments, root, environment(root, env))
    return subprocess.run(
        [*under, sys.executable, "-P", "-m", "flows.cli", *arguments],
        cwd=root,
        env=environment(root, env),
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def environment(root: Path, env: dict | None = None) -> dict:
    """A new user's environment: no Prefect server, no state folder, git knows nobody but the repository's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "EVERGREEN", "AWS"))}
    return {**kept, "PYTHONPATH": str(ROOT), "GIT_CONFIG_GLOBAL": os.devnull, "COLUMNS": "200", **(env or {})}


def says(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """Did the command end with `code` and a message holding all of `words`, and without a traceback?"""
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert done.returncode == code, said
    flat = " ".join(said.split())
    assert not [word for word in words if word not in flat], flat


def state(root: Path) -> dict:
    """What bad input must leave alone: the commit, the checkout, the data, what is live."""
    files = {path: path.read_bytes() for path in sorted((root / "data").rglob("*")) if path.is_file()}
    live = root / ".evergreen/releases/champion.json"
    return {
        "head": git(root, "rev-parse", "HEAD"),
        "status": git(root, "status", "--porcelain"),
        "releases": git(root, "for-each-ref"),
        "data": files,
        "named": (root / "data.dvc").read_bytes(),
        "live": live.read_bytes() if live.is_file() else None,
    }


def takes_more(root: Path) -> None:
    """The next proper ingest works, and its commit holds data.dvc alone."""
    more = images(root.parent / f"more-{root.name}", {"cat": 1, "dog": 1}, seed=99)
    says(evergreen(root, "ingest", str(more)), 0, "took 2 new images of 2 classes")
    assert git(root, "show", "--name-only", "--format=", "HEAD") == "data.dvc"


def hears_ctrl_c() -> None:
    """For a child, before it starts: a suite in the background of a shell ignores SIGINT, and so would the child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
