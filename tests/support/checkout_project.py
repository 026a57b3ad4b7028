"""A project with this checkout's code and pipeline, for tests that run whole flows."""

import shutil
from pathlib import Path

import yaml

from tests.support.checkout import ROOT, git
from tests.support.shared import networks

COPIED = ("tasks/", "flows/", "serving/", "monitoring/", ".dvc", "dvc.yaml", ".gitignore", "tombstones.json")
FAST = {  # enough for every stage to do its real work, small enough for two cores
    "images": {"resolution": 32},
    "train_backbone": {"epochs": {"frozen": 1, "last": 1, "all": 0}},
    "evaluate": {"corruptions": ["dark"], "corruption_images": 40, "latency_runs": 5},
    "gate": {"first_model": {"test.balanced_accuracy": 0.2}, "max_ece": 1.0, "resamples": 200},
    "bundle": {"reference_rows": 40},
}


def make(root: Path, *changes: dict) -> Path:
    """The project at `root`, committed; each of `changes` is {section of params.yaml: {key: value}}."""
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
        if name.startswith(COPIED):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for sections in changes:
        for section, values in sections.items():
            params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")
    networks(root)
    return root
