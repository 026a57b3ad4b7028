"""A project with published versions of real images, thumbnails and annotations, in seconds; no training."""

import functools
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from flows.project.data_commit import commit_data
from flows.publishing.publish import Publication, publish
from flows.repo.git import git
from flows.repo.ledger import claim_outs
from flows.repo.pipeline import open_repo, record_data
from tasks.common.files import read_json, sha256_bytes, sha256_file, write_json
from tasks.common.owner import owner_of
from tasks.common.params import load_params
from tasks.common.schemas import sample_schema
from tasks.dataset import shards
from tasks.labels.storing import write_annotations
from tasks.releases import reference
from tasks.releases.bundle import write_manifest
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, open_store
from tests.support.annotating import said
from tests.support.checkout import ROOT
from tests.support.labelled_project import png
from tests.support.shared import once

NAME = "classifier"
PER_BATCH = 70  # more than one row group
DVC_YAML = """stages:
  bundle:
    cmd: python -m tasks.stages bundle
    deps: [data]
    outs: [artifacts/bundle, artifacts/evaluate]
"""


def template(versions: int = 3) -> Path:
    """A project with `versions` versions, made once in a test run; see `copy`."""

    def make(folder: Path) -> None:
        root = start(folder / "project")
        for number in range(1, versions + 1):
            add_batch(root, number)
            release(root, number)

    return once(f"versions-{versions}", make) / "project"


def copy(to: Path, versions: int = 3) -> Path:
    """A project of its own at `to`."""
    return settled(shutil.copytree(template(versions), to, symlinks=True))


LEDGERS = (".dvc/cache/evergreen", ".evergreen/remote/evergreen", ".evergreen/releases/ledgers")


def settled(root: Path) -> Path:
    """`root`, a copy of a project with all of its places, whose ledgers now are its own."""
    before = read_json(root / ".evergreen/checkout.json")["id"]
    for folder in LEDGERS:
        (root / folder / before).rename(root / folder / owner_of(root).id)
    return root


def start(root: Path, **store: str) -> Path:
    """An empty project in git and DVC; `store`: keys of its params.yaml's section store."""
    root.mkdir(parents=True)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        (root / ".dvc" / name).write_text((ROOT / ".dvc" / name).read_text())
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["store"] |= store
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "tombstones.json").write_text("{}\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".gitignore").write_text("/data\n/artifacts\n/.evergreen\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Ann")
    git(root, "config", "user.email", "ann@example.org")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "a project")
    return root


def image(batch: int, row: int) -> bytes:
    """Encoded bytes of an image that no other (batch, row) has."""
    return png(np.random.default_rng([batch, row]).integers(0, 256, (12, 12, 3), dtype=np.uint8))


@functools.cache
def rows(batch: int, count: int = PER_BATCH) -> pa.Table:
    """Samples of one batch: two classes, ten sources, three splits."""
    encoded = [image(batch, row) for row in range(count)]
    columns = {
        "id": [sha256_bytes(data) for data in encoded],
        "image": [{"bytes": data, "path": None} for data in encoded],
        "label": [("cat", "dog")[row % 2] for row in range(count)],
        "source": [f"camera-{batch}-{row % 10}" for row in range(count)],
        "group": [f"object-{batch}-{row % 10}" for row in range(count)],
        "taken_at": [None] * count,
        "origin": ["import"] * count,
        "batch": [f"b-{batch:012d}"] * count,
        "slice": [[]] * count,
        "split": [("train", "train", "calibration", "test")[row % 4] for row in range(count)],
        "picked": ["representative"] * count,
    }
    columns = dict.fromkeys(sample_schema("multiclass").names, [None] * count) | columns
    return pa.table(columns, schema=sample_schema("multiclass"))


def add_batch(root: Path, number: int, count: int = PER_BATCH) -> None:
    """One more batch in data/, with an annotation of its first image; data.dvc committed."""
    data = root / "data"
    shards.create_dataset(data, "multiclass")
    table = rows(number, count)
    name = shards.write_shard(data, table, "multiclass")
    batch = f"b-{number:012d}"
    write_annotations(data, [said(table["id"][0].as_py(), "dog", annotator="bob")], batch, needs=batch)
    about = {"kind": "import", "shards": [name], "rows": count, "offered": count}
    shards.write_manifest(data, shards.BatchManifest(seq=number, batch=batch, **about))
    record_data(root)
    commit_data(root, f"batch {number}")


def make_bundle(root: Path, number: int, model: bytes | None = None) -> Path:
    """A bundle whose reference holds thumbnails of every batch's first eight images, and an evaluation page."""
    bundle = root / "artifacts/bundle"
    shutil.rmtree(root / "artifacts", ignore_errors=True)
    (root / "artifacts/evaluate/plots").mkdir(parents=True)
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(model or np.random.default_rng(number).bytes(20_000))
    write_json(
        bundle / "bundle.json", {"schema": 1, "name": NAME, "classes": ["cat", "dog"], "temperature": 1 + number / 10}
    )
    (bundle / "card.md").write_text("a card that all versions share\n")
    samples = pa.concat_tables([rows(batch).slice(0, 8) for batch in range(1, number + 1)])
    schema = reference.schema("multiclass")
    columns = {name: samples[name].combine_chunks() for name in ("id", "split", "label")}
    pixels = [np.asarray(Image.open(pa.BufferReader(row["bytes"]))) for row in samples["image"].to_pylist()]
    columns["thumbnail"] = pa.array([reference.thumbnail(block) for block in pixels], pa.binary())
    arrays = [columns.get(field.name, pa.nulls(len(samples), field.type)) for field in schema]
    table = pa.table(arrays, schema=schema)
    pq.write_table(table, bundle / "reference.parquet", compression="zstd", row_group_size=256)
    write_manifest(bundle)
    worst = [samples["id"][row].as_py() for row in (3, 7)]
    write_json(root / "artifacts/evaluate/report.json", {"mistakes": [{"id": name} for name in worst], "of": number})
    picture = Image.fromarray(np.concatenate([pixels[3], pixels[7], np.full_like(pixels[3], number)]))
    picture.save(root / "artifacts/evaluate/plots/worst.png")
    return bundle


def release(root: Path, number: int, model: bytes | None = None) -> Pointer:
    """Publish version number `number` as a run would, from the checkout itself."""
    make_bundle(root, number, model)
    repo = open_repo(root)
    try:
        with chdir(root):  # DVC resolves stages against the current folder
            claim_outs(repo, repo.stage.collect("bundle")[0].outs)
            repo.commit("bundle", force=True)
    finally:
        repo.close()
    releases = store(root)
    new = Publication(worktree=root, name=NAME, run_id=f"run-{number}", why=f"release {number}", by="ann")
    return publish(new, releases, releases.live())


def store(root: Path) -> Releases:
    return open_store(load_params(root / "params.yaml").store, root)


def tree(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file under `folder`."""
    return {str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def restored(root: Path, pointer: Pointer, to: Path) -> dict[str, str]:
    """sha256 of everything version `pointer` has, restored as a new clone would: `dvc pull` at its commit, and the
    bundle from the release store."""
    git(root, "worktree", "add", "--quiet", "--detach", str(to), pointer.git_rev)
    cache, remote = to.parent / "empty-cache", root / ".evergreen/remote"
    (to / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n['remote \"store\"']\n    url = {remote}\n")
    repo = open_repo(to)
    try:
        repo.pull(force=True)
    finally:
        repo.close()
    found = {f"data/{name}": sha for name, sha in tree(to / "data").items()}
    found |= {f"artifacts/{name}": sha for name, sha in tree(to / "artifacts").items()}
    bundle = store(root).get_bundle(pointer.bundle, to.parent / "bundle")
    found |= {f"bundle/{name}": sha for name, sha in tree(bundle).items()}
    git(root, "worktree", "remove", "--force", str(to))
    shutil.rmtree(cache)
    shutil.rmtree(bundle)
    return found
