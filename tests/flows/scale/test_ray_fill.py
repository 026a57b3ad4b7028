import shutil
from pathlib import Path

from flows.scale.fill import fill_entries
from tasks.common.params import load_params
from tasks.common.paths import cache_dir
from tasks.dataset import shards
from tasks.stages.runner import run_stage
from tests.support import small_project
from tests.support.s3_servers import credentials, moto  # noqa: F401
from tests.support.shared import networks, once

SHARDS = 3


def split_project(root: Path) -> None:
    """The small project with its rows in several shards, before `inspect`; its caches are those of local stages."""
    small_project.copy(root)
    data = root / "data"
    (batch,) = shards.batches(data)
    table = shards.pq.read_table(data / batch.shards[0])
    shutil.rmtree(root / "artifacts/inspect")
    rows = table.num_rows // SHARDS
    names = [shards.write_shard(data, table.slice(part * rows, rows), "multiclass") for part in range(SHARDS)]
    (data / batch.shards[0]).unlink()
    shards.write_manifest(data, batch.model_copy(update={"shards": names, "rows": rows * SHARDS}))
    (root / "tombstones.json").write_text("{}\n")


def project(tmp_path: Path, scale: dict) -> Path:
    """A copy of the project, with nothing in its caches."""
    root = shutil.copytree(once("three-shards", split_project), tmp_path / "project")
    shutil.rmtree(root / ".evergreen", ignore_errors=True)
    networks(root)
    params = (root / "params.yaml").read_text()
    for key, value in scale.items():
        params = params.replace(f"  {key}: {'local' if key == 'engine' else 'null'}\n", f"  {key}: {value}\n")
    (root / "params.yaml").write_text(params)
    found = load_params(root / "params.yaml")
    assert {**found.scale.model_dump(), **found.store.model_dump()}.items() >= scale.items()
    return root


def entry_bytes(root: Path) -> dict[str, bytes]:
    """Every cache entry of measures, pixels and features."""
    cache = cache_dir("inspect", root).parent
    files = [file for kind in ("inspect", "pixels", "features") for file in (cache / kind).rglob("[!.]*.*")]
    return {file.relative_to(cache).as_posix(): file.read_bytes() for file in files}  # not what a killed writer left


def fill_and_run(root: Path, *stages: str) -> dict[str, int]:
    """Run the stages as a run does, each after its entries were made; how many were."""
    made = {}
    for stage in stages:
        made[stage] = fill_entries(stage, root, lambda text: None)
        before = entry_bytes(root)
        run_stage(stage, root)
        assert not made[stage] or entry_bytes(root) == before, f"{stage} made entries itself"
    return made


def outputs(root: Path) -> dict[str, bytes]:
    return {name: (root / "artifacts" / name).read_bytes() for name in ("inspect/samples.parquet", "embed/index.json")}


def local_result() -> Path:
    """The project after `inspect` and `embed` without Ray."""

    def make(folder: Path) -> None:
        assert fill_and_run(project(folder, {}), "inspect", "embed") == {"inspect": 0, "embed": 0}

    return once("three-shards-inspected", make) / "project"


def test_the_entries_and_the_results_are_those_of_local_stages(ray_cluster, tmp_path):
    root = project(tmp_path, ray_cluster.model_dump(exclude_none=True))
    assert fill_and_run(root, "inspect", "embed") == {"inspect": SHARDS, "embed": SHARDS}
    assert entry_bytes(root) == entry_bytes(local_result())
    assert outputs(root) == outputs(local_result())
    assert fill_and_run(root, "inspect", "embed") == {"inspect": 0, "embed": 0}  # nothing is missing any more


def test_entries_whose_content_is_lost_are_made_again(ray_cluster, tmp_path):
    place = {"shared": str(tmp_path / "place")}
    scale = ray_cluster.model_dump(exclude_none=True) | place
    expected = {name: data for name, data in entry_bytes(local_result()).items() if name.startswith("inspect/")}
    assert fill_entries("inspect", project(tmp_path / "one", scale), lambda text: None) == SHARDS
    gone, damaged, _ = sorted((tmp_path / "place/objects").iterdir())
    gone.unlink()
    damaged.write_bytes(b"poison")
    said, other = [], project(tmp_path / "two", scale)
    assert fill_entries("inspect", other, said.append) == SHARDS
    assert entry_bytes(other) == expected
    assert "; 2 cache entries to make" in said[0]


def test_workers_without_the_folder_fetch_shards_from_s3_and_leave_entries_there(
    ray_cluster,
    moto,  # noqa: F811
    credentials,  # noqa: F811
    tmp_path,
):
    place = {"shared": f"s3://{moto.bucket()}/team", "endpoint_url": moto.endpoint}
    root = project(tmp_path / "one", ray_cluster.model_dump(exclude_none=True) | place)
    assert fill_and_run(root, "inspect", "embed") == {"inspect": SHARDS, "embed": SHARDS}
    expected = {name: data for name, data in entry_bytes(local_result()).items() if not name.startswith("pixels/")}
    assert entry_bytes(root) == expected  # the workers keep the pixels, which only their features needed

    # another machine over the same data: the entries are there, so no cluster is asked
    other = project(tmp_path / "two", {"engine": "ray", "address": "127.0.0.1:9"} | place)
    assert fill_and_run(other, "inspect", "embed") == {"inspect": SHARDS, "embed": SHARDS}
    assert outputs(other) == outputs(local_result())
