"""A git and DVC project whose live version can be checked out completely, made in seconds: see `released`."""

import shutil
from contextlib import chdir
from pathlib import Path

import yaml

from flows.repo.pipeline import open_repo, record_data
from flows.repo.push import dvc_push
from tasks.common.files import write_json
from tasks.common.params import load_params
from tasks.releases.pointer import successor
from tasks.releases.store import open_store
from tests.support.checkout import ROOT, git
from tests.support.shared import once
from tests.support.small_project import finished_project

VERSION = "v0.1.0"
STAGES = {
    "made": ("inspect", "validate", "clean", "train_backbone", "train_head"),
    "trained": ("calibrate", "bundle"),
}


def released(folder: Path) -> Path:
    """A copy at `folder`/main of the small project, live as v0.1.0 with its outputs in DVC."""
    return Path(shutil.copytree(once("quantised-project", _make), folder, symlinks=True)) / "main"


def _make(folder: Path) -> None:
    from tasks.stages.bundle import stage

    main = folder / "main"
    shutil.copytree(finished_project(), main)
    values = yaml.safe_load((main / "params.yaml").read_text())
    values["evaluate"] |= {"corruptions": ["dark"], "corruption_images": 20, "latency_runs": 5}
    values["gate"] |= {"resamples": 200, "max_ece": 1.0}
    (main / "params.yaml").write_text(yaml.safe_dump(values))
    params = load_params(main / "params.yaml")
    shutil.rmtree(main / "artifacts/bundle")
    stage.run(main, images=params.images, bundle=params.bundle, gate=params.gate)
    (main / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore"):
        (main / name).write_bytes((ROOT / name).read_bytes())
    (main / ".gitignore").write_text("/data\n/artifacts\n/.evergreen\n")
    write_json(main / "tombstones.json", {})
    stages = {
        name: {"cmd": "true", "frozen": True, "outs": [f"artifacts/{part}" for part in parts]}
        for name, parts in STAGES.items()
    }
    (main / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    git(main, "init", "-q", "-b", "main")
    git(main, "config", "user.name", "a tester")
    git(main, "config", "user.email", "tester@localhost")
    record_data(main)
    repo = open_repo(main)
    try:
        with chdir(main):
            for name in stages:
                repo.commit(name, force=True)
    finally:
        repo.close()
    git(main, "add", "-A")
    git(main, "commit", "-qm", "a project")
    dvc_push(main)
    releases = open_store(params.store, main)
    digest = releases.put_bundle(main / "artifacts/bundle")
    rev = git(main, "rev-parse", "HEAD")
    releases.promote(successor(None, version=VERSION, run_id="r-1", git_rev=rev, bundle=digest, by="a", why="first"))
