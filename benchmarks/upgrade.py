"""Upgrade a real project of the old, flat layout: trained before, upgraded, trained again, rolled back, reverted.

    python -m benchmarks.upgrade

The project is made by Evergreen 0.1 itself (commit OLD, so this needs a clone with history) from images of the default
set. Every step is a real command in a process of its own: the old ones run the old code, the new ones the new code.
Expected: "upgrade: every step as expected", within two to four minutes on 2 cores.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from flows.repo.git import git, identity_options

ROOT = Path(__file__).resolve().parent.parent
OLD = "673fc4da88db"  # the last commit before the modules moved into rooms
CLASSES, IMAGES = ("Ankle boot", "Bag", "Trouser"), 70  # images per class
OLD_COMMAND = ["-c", "from flows.cli import main; main()"]
NEW_COMMAND = ["-P", "-m", "flows.cli"]  # -P: not the code in the current folder
SMALL = {  # params.yaml: every stage does its real work, on little
    "  size: 64": "  size: 32  # small, for a quick look",
    "  epochs: {frozen: 5, last: 8, all: 10}": "  epochs: {frozen: 1, last: 1, all: 0}",
    "  corruptions: [dark, blur, noise, jpeg]": "  corruptions: [dark]",
    "  first_model: {test.balanced_accuracy: 0.5}": "  first_model: {test.balanced_accuracy: 0.2}",
    "  max_ece: 0.1": "  max_ece: 1.0",
}


def run(code: Path, command: list[str], folder: Path, *arguments: str, fails: bool = False) -> str:
    """Output of `evergreen ARGUMENTS` in `folder`, by the code in `code`."""
    env = os.environ | {"PYTHONPATH": str(code)}
    env.pop("EVERGREEN_STATE", None)
    start = time.monotonic()
    done = subprocess.run([sys.executable, *command, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    print(f"{time.monotonic() - start:6.1f} s  {'old' if command is OLD_COMMAND else 'new'} evergreen {arguments[0]}")
    if (done.returncode != 0) != fails:
        raise SystemExit(f"evergreen {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def expect(found: str, *parts: str) -> None:
    for part in parts:
        if part not in found:
            raise SystemExit(f"expected {part!r} in:\n{found}")


def images(to: Path) -> Path:
    """Class folders with real images of the default set."""
    count: Counter = Counter()
    for row in pq.read_table(ROOT / "datasets/fashion/base.parquet", columns=["image", "label"]).to_pylist():
        if row["label"] in CLASSES and count[row["label"]] < IMAGES:
            (to / row["label"]).mkdir(parents=True, exist_ok=True)
            (to / row["label"] / f"{count[row['label']]}.png").write_bytes(row["image"]["bytes"])
            count[row["label"]] += 1
    return to


def old_project(work: Path) -> Path:
    """A project that Evergreen 0.1 made, with one released version."""
    old, project = work / "old", work / "project"
    git(work, "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(old))
    git(old, "checkout", "--quiet", OLD)
    source = images(work / "images")
    run(old, OLD_COMMAND, work, "init", str(project), "--data", str(source))
    text = (project / "params.yaml").read_text()
    for before, after in SMALL.items():
        text = text.replace(before, after)
    (project / "params.yaml").write_text(text)
    git(project, *identity_options(project), "commit", "--quiet", "--all", "-m", "Small settings")
    run(project, OLD_COMMAND, project, "ingest", str(source))
    expect(run(project, OLD_COMMAND, project, "retrain"), "promoted v0.1.0")
    return project


def check(work: Path) -> None:
    project = old_project(work)
    before = git(project, "rev-parse", "HEAD^{tree}")
    expect(
        run(ROOT, NEW_COMMAND, project, "retrain", "--force", fails=True), "Evergreen before 0.2", "evergreen upgrade"
    )

    seen = run(ROOT, NEW_COMMAND, project, "upgrade")
    expect(seen, "Evergreen 0.1.0 -> ", "images.size is now images.resolution", "train_backbone", "Nothing was changed")
    assert git(project, "rev-parse", "HEAD^{tree}") == before
    run(ROOT, NEW_COMMAND, project, "upgrade", "--yes")
    upgrade = git(project, "rev-parse", "HEAD")
    assert "  resolution: 32  # small, for a quick look" in (project / "params.yaml").read_text()

    first = run(project, NEW_COMMAND, project, "retrain")
    if "promoted" not in first:
        expect(first, "held", "evergreen approve ")
        run(project, NEW_COMMAND, project, "approve", first.split("evergreen approve ")[1].split("`")[0])
    live = json.loads(run(project, NEW_COMMAND, project, "releases", "--json"))
    assert [release["version"] for release in live["releases"]] == ["v0.1.0", "v0.2.0"]
    assert live["evergreen"].keys() == {"v0.2.0"}  # Evergreen 0.1 did not record it
    expect(run(project, NEW_COMMAND, project, "diff"), "v0.1.0", "v0.2.0")
    run(project, NEW_COMMAND, project, "verify", "--deep")
    expect(run(project, NEW_COMMAND, project, "rollback", "v0.1.0"), "v0.1.0 is live")
    expect(run(project, NEW_COMMAND, project, "status"), "live:        v0.1.0")
    expect(run(project, NEW_COMMAND, project, "retrain"), "nothing new", "rolled v0.2.0 back")
    expect(run(ROOT, NEW_COMMAND, project, "upgrade"), "already: nothing to do")

    git(project, *identity_options(project), "revert", "--no-edit", upgrade)
    assert git(project, "rev-parse", "HEAD^{tree}") == before
    expect(run(project, OLD_COMMAND, project, "status"), "live:        v0.1.0")
    expect(run(project, OLD_COMMAND, project, "releases"), "v0.1.0", "v0.2.0")
    expect(run(project, OLD_COMMAND, project, "retrain"), "nothing new")
    expect(run(project, OLD_COMMAND, project, "retrain", "--force"), "v0.1.0 again")


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="evergreen-upgrade-"))
    try:
        check(work)
        print("upgrade: every step as expected")
    finally:
        if (work / "project").is_dir():
            command = [sys.executable, *OLD_COMMAND, "down"]
            env = os.environ | {"PYTHONPATH": str(work / "old")}
            subprocess.run(command, cwd=work / "project", env=env, capture_output=True)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
