"""A git and DVC project whose live model is `small_project`'s real bundle, made in seconds."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.repo.pipeline import record_data
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, read_columns
from tasks.releases import bundle
from tasks.releases.pointer import successor
from tasks.releases.store import open_store
from tests.support.checkout import ROOT, git
from tests.support.small_project import finished_project

VERSION = "v0.1.0"


def make(folder: Path, task: str = "multiclass", replace: dict[str, str] | None = None) -> Path:
    """The project at `folder`/main, with lines of params.yaml replaced ({"images: full": "images: thumbnail"})."""
    main = folder / "main"
    made = finished_project(task)
    shutil.copytree(made, main)
    text = (main / "params.yaml").read_text()
    for old, new in (replace or {}).items():
        assert f"  {old}\n" in text
        text = text.replace(f"  {old}\n", f"  {new}\n")
    (main / "params.yaml").write_text(text)
    (main / "dvc.yaml").write_text("stages: {}\n")
    commit_project(main)
    releases = open_store(load_params(main / "params.yaml").store, main)
    digest = releases.put_bundle(main / "artifacts/bundle")
    rev = git(main, "rev-parse", "HEAD")
    releases.promote(successor(None, version=VERSION, run_id="r-1", git_rev=rev, bundle=digest, by="a", why="first"))
    return main


def commit_project(root: Path) -> None:
    """Make `root` a repository of git and DVC, with everything committed and its data recorded."""
    (root / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        (root / name).write_text((ROOT / name).read_text())
    (root / ".gitignore").write_text("/data\n/artifacts\n/metrics\n/.evergreen\n/source\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    record_data(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")


def traffic(path: Path, number: int, rows: int, **columns) -> Path:
    """The first `rows` images of production batch `number` as Parquet at `path`, with `columns` replaced."""
    table = pq.read_table(ROOT / f"datasets/fashion/production-{number}.parquet").slice(0, rows)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table, path)
    return path


def swapped_bundle(root: Path, folder: Path) -> Path:
    """A copy of the project's bundle at `folder` that calls its first two classes by each other's name."""
    shutil.copytree(root / "artifacts/bundle", folder)
    about = json.loads((folder / "bundle.json").read_text())
    about["classes"][:2] = about["classes"][1::-1]
    (folder / "bundle.json").write_text(json.dumps(about))
    (folder / bundle.MANIFEST).unlink()
    bundle.write_manifest(folder)
    return folder


def samples(root: Path) -> list[tuple[str, str]]:
    """(id, label) of the images of the data set's first shard."""
    (shard, *_) = live_shards(root / "data")
    return list(zip(*read_columns(shard.path, ["id", "label"]).to_pydict().values(), strict=True))
