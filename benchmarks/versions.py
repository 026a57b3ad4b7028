"""Projects with versions for the benchmarks: git, DVC, shards, bundles and a release store, without training."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scratch import FASHION, ROOT
from flows.project.data_commit import commit_data
from flows.publishing.publish import Publication, publish
from flows.repo.git import git
from flows.repo.pipeline import open_repo, record_data
from tasks.common.files import sha256_bytes, sha256_file, write_json
from tasks.common.params import load_params
from tasks.common.schemas import sample_schema
from tasks.dataset import shards
from tasks.releases.bundle import write_manifest
from tasks.releases.pointer import Pointer
from tasks.releases.store import open_store

TASK = "multiclass"


def start(root: Path) -> Path:
    """An empty project in git and DVC with this checkout's parameters; its remote is under .evergreen."""
    (root / ".dvc").mkdir(parents=True)
    for name in ("params.yaml", ".dvc/config", ".dvc/.gitignore"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "tombstones.json").write_text("{}\n")
    (root / ".gitignore").write_text("/data\n/artifacts\n/images\n/.evergreen\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    for key, value in {"user.name": "benchmark", "user.email": "benchmark@localhost"}.items():
        git(root, "config", key, value)
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "a project")
    return root


def fashion_rows(parts: int) -> Iterator[list[tuple[bytes, str, str]]]:
    """(encoded image, label, split) of the default set's images, in `parts` parts."""
    table = pq.read_table(FASHION / "base.parquet", columns=["image", "label", "split"])
    rows = [(row["image"]["bytes"], row["label"], row["split"]) for row in table.to_pylist()]
    for part in np.array_split(np.arange(len(rows)), parts):
        yield [rows[row] for row in part]


def add_batch(root: Path, number: int, rows: list[list[tuple[bytes, str, str]]]) -> None:
    """Write batch `number` into data/: one shard for each list of (encoded image, label, split)."""
    data, batch = root / "data", f"b-{number:012d}"
    shards.create_dataset(data, TASK)
    names = [shards.write_shard(data, _table(part, batch), TASK) for part in rows]
    count = sum(map(len, rows))
    about = {"kind": "import", "shards": names, "rows": count, "offered": count}
    shards.write_manifest(data, shards.BatchManifest(seq=number, batch=batch, **about))


def _table(rows: list[tuple[bytes, str, str]], batch: str) -> pa.Table:
    count = len(rows)
    columns = {
        "id": [sha256_bytes(encoded) for encoded, _, _ in rows],
        "image": [{"bytes": encoded, "path": None} for encoded, _, _ in rows],
        "label": [label for _, label, _ in rows],
        "source": [None] * count,
        "group": [None] * count,
        "taken_at": [None] * count,
        "origin": ["import"] * count,
        "batch": [batch] * count,
        "slice": [[]] * count,
        "split": [split for _, _, split in rows],
        "picked": ["representative"] * count,
    }
    columns = dict.fromkeys(sample_schema(TASK).names, [None] * count) | columns
    return pa.table(columns, schema=sample_schema(TASK))


def release(root: Path, number: int, megabytes: float = 17) -> Pointer:
    """Record data/, then publish a new bundle (model, calibration, description) as one version."""
    record_data(root)
    commit_data(root, f"batch {number}")
    bundle, rng = root / "artifacts/bundle", np.random.default_rng(number)
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(rng.bytes(int(megabytes * 1e6)))
    (bundle / "ood.safetensors").write_bytes(rng.bytes(400_000))
    about = {"temperature": 1 + number / 100, "thresholds": rng.uniform(size=10).tolist()}
    write_json(bundle / "bundle.json", {"schema": 1, "name": "classifier"} | about)
    write_manifest(bundle)
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    why, by = f"version {number}", "benchmark"
    new = Publication(worktree=root, name=params.bundle.name, run_id=f"run-{number}", why=why, by=by)
    return publish(new, releases, releases.live())


def hashes(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file under `folder`."""
    return {str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}


@contextmanager
def opened(root: Path) -> Iterator:
    """The DVC repository at `root`."""
    repo = open_repo(root)
    try:
        yield repo
    finally:
        repo.close()
