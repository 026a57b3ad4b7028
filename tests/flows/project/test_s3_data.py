"""A project with releases and data in S3: runs push there, damage there is repaired, and sources come from there.

The tests use two real servers.
"""

import csv
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.project.ingest import on_disk
from flows.repo import workspace
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from flows.repo.push import audit_remote, dvc_push
from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import sha256_file
from tasks.common.params import Params, load_params
from tasks.ingest.batch import IngestReport, ingest
from tasks.sources import s3_spool
from tasks.sources.records import Columns
from tasks.storage.blobs import DiskFull
from tests.support.checkout import ROOT, git
from tests.support.s3_proxy import proxied
from tests.support.s3_servers import Server, credentials, moto, rclone  # noqa: F401  (fixtures)
from tests.support.small_project import image_bytes

pytestmark = pytest.mark.usefixtures("credentials")


@pytest.fixture(params=["moto", "rclone"])
def server(request) -> Server:
    return request.getfixturevalue(request.param)


def use_s3(project: Path, url: str, endpoint: str) -> None:
    """The one setting, committed."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["store"] = {"url": url, "endpoint_url": endpoint, "single_writer": True}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    git(project, "commit", "-qam", "releases in S3")


def a_run(project: Path) -> Path:
    """The workspace of a run that has finished its one stage."""
    tree, _ = workspace.create(project, "a-run", {})
    repo = open_repo(tree)
    restore_data(repo)
    bring_up_to_date(repo, "inspect", lambda _, root: subprocess.run(["sh", "stage.sh"], cwd=root, check=True))
    repo.close()
    return tree


def objects(server: Server, bucket: str, prefix: str) -> dict[str, bytes]:
    client = server.client()
    names = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]
    return {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}


# DVC's remote


def test_one_setting_moves_the_dvc_remote_and_damage_there_is_repaired(toy: Path, server: Server):
    bucket = server.bucket()
    use_s3(toy, f"s3://{bucket}/team", server.endpoint)
    tree = a_run(toy)
    dvc_push(tree)
    before = objects(server, bucket, "team/dvc/files/md5/")
    assert len(before) == 3  # two data files and their listing; the stage's output is a copy of one
    ledgers = objects(server, bucket, "team/dvc/evergreen/")
    assert ledgers
    assert objects(server, bucket, "") == before | ledgers
    assert not (toy / ".evergreen/remote").exists()

    for change in (lambda data: None, lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]):
        for name, data in before.items():
            if (damaged := change(data)) is None:
                server.client().delete_object(Bucket=bucket, Key=name)
            else:
                server.client().put_object(Bucket=bucket, Key=name, Body=damaged)
        repo = open_repo(tree)
        assert len(audit_remote(repo)) == 3
        repo.close()
        dvc_push(tree)
        assert objects(server, bucket, "team/dvc/files/md5/") == before


def test_dvc_push_trusts_its_index_of_deleted_objects_the_audit_does_not(toy: Path, moto: Server):  # noqa: F811
    bucket = moto.bucket()
    use_s3(toy, f"s3://{bucket}/team", moto.endpoint)
    tree = a_run(toy)
    dvc_push(tree)
    (victim, *_) = (name for name in objects(moto, bucket, "team/dvc/files/md5/") if not name.endswith(".dir"))
    moto.client().delete_object(Bucket=bucket, Key=victim)
    repo = open_repo(tree)
    assert repo.push() == 0  # "in sync": DVC's index says that it is there
    assert [text.rpartition("/")[2] for text in audit_remote(repo).values()] == [
        f"{victim.rpartition('/')[2]} is missing"
    ]
    repo.close()


def test_an_audit_fetches_nothing_twice(toy: Path, moto: Server):  # noqa: F811
    with proxied(moto.endpoint) as proxy:
        bucket = moto.bucket()
        use_s3(toy, f"s3://{bucket}/team", proxy.endpoint)
        tree = a_run(toy)
        dvc_push(tree)
        proxy.seen.clear()
        dvc_push(tree)
        fetched = {r.path.partition("?")[0] for r in proxy.seen if r.method == "GET" and "/files/md5/" in r.path}
        assert {path for path in fetched if not path.endswith(".dir")} == set()  # the listing itself is read


def test_an_object_lost_in_cache_and_remote_stops_publication(toy: Path, moto: Server):  # noqa: F811
    bucket = moto.bucket()
    use_s3(toy, f"s3://{bucket}/team", moto.endpoint)
    tree = a_run(toy)
    dvc_push(tree)
    (victim, *_) = (name for name in objects(moto, bucket, "team/dvc/files/md5/") if not name.endswith(".dir"))
    moto.client().delete_object(Bucket=bucket, Key=victim)
    (toy / ".dvc/cache/files/md5" / "/".join(victim.split("/")[-2:])).unlink()
    with pytest.raises(EvergreenError, match=r"did not arrive undamaged .*\n.* is missing"):
        dvc_push(tree)


def test_a_clone_restores_its_data_from_s3(toy: Path, moto: Server, tmp_path: Path):  # noqa: F811
    use_s3(toy, f"s3://{moto.bucket()}/team", moto.endpoint)
    dvc_push(a_run(toy))
    git(tmp_path, "clone", "-q", str(toy), "clone")
    repo = open_repo(tmp_path / "clone")
    restore_data(repo)
    repo.close()
    assert (tmp_path / "clone/data/a").read_text() == "1\n"


def test_a_remote_of_the_users_own_stays(toy: Path, moto: Server, tmp_path: Path):  # noqa: F811
    (toy / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {tmp_path}/elsewhere\n")
    use_s3(toy, f"s3://{moto.bucket()}/team", moto.endpoint)
    dvc_push(a_run(toy))
    assert len(list((tmp_path / "elsewhere").rglob("*.dir"))) == 1


def test_a_push_that_cannot_reach_its_bucket_says_why(toy: Path, moto: Server, monkeypatch):  # noqa: F811
    use_s3(toy, "s3://no-such-bucket/team", moto.endpoint)
    tree = a_run(toy)
    with pytest.raises(EvergreenError, match="there is no bucket 'no-such-bucket'"):
        dvc_push(tree)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(EvergreenError, match="no usable credentials"):
        dvc_push(tree)


# sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Three sources of the same 12 images: class folders, a CSV next to its images, Parquet."""
    root = tmp_path_factory.mktemp("sources")
    images = [(label, data) for label in ("Bag", "Trouser") for data in image_bytes(label, 6)]
    (root / "manifest/images").mkdir(parents=True)
    with open(root / "manifest/labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "camera"])
        for number, (label, data) in enumerate(images):
            folder = root / "folders" / label / "one day"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number} a.png").write_bytes(data)
            (root / "manifest/images" / f"{number}.png").write_bytes(data)
            table.writerow([f"images/{number}.png", label, f"camera {number % 4}"])
        table.writerow(["images/gone.png", "Bag", "camera 1"])
        table.writerow(["../../folders/Bag/one day/0 a.png", "Bag", "camera 1"])
    (root / "folders/Bag/broken.png").write_bytes(b"no image")
    (root / "folders/Bag/empty.png").write_bytes(b"")
    (root / "folders/.hidden").write_bytes(b"x")
    rows = [{"image": {"bytes": data, "path": None}, "label": label} for label, data in images]
    pq.write_table(pa.Table.from_pylist(rows), root / "set.parquet")
    return root


def upload(server: Server, folder: Path, bucket: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            server.client().put_object(Bucket=bucket, Key=file.relative_to(folder).as_posix(), Body=file.read_bytes())


def project(folder: Path, endpoint: str) -> tuple[Path, Params]:
    folder.mkdir()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["store"] |= {"endpoint_url": endpoint}
    values["data"]["classes"] = None
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "tombstones.json").write_text("{}\n")
    return folder, load_params(folder / "params.yaml")


def take(root: Path, params: Params, source: str, layout: str | None = None) -> IngestReport:
    sections = {"data": params.data, "images": params.images, "inspect": params.inspect}
    with on_disk(root, source, params, Columns()) as path:
        return ingest(root, path, columns=Columns(), layout=layout, **sections)


def shards(root: Path) -> dict[str, str]:
    files = (file for file in (root / "data").rglob("*.parquet") if file.is_file())
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in files}


@pytest.mark.parametrize("source", ["folders", "manifest", "manifest/labels.csv", "set.parquet"])
def test_a_source_in_s3_gives_what_it_gives_on_disk(sources: Path, moto: Server, tmp_path: Path, source: str):  # noqa: F811
    bucket = moto.bucket()
    upload(moto, sources, bucket)
    here, params = project(tmp_path / "here", moto.endpoint)
    there, _ = project(tmp_path / "there", moto.endpoint)
    local, remote = take(here, params, str(sources / source)), take(there, params, f"s3://{bucket}/{source}")
    assert remote == local
    assert remote.taken == 12
    assert shards(there) == shards(here)
    assert [path.name for path in (there / ".evergreen/spool").iterdir()] == ["lock"]
    assert take(there, params, f"s3://{bucket}/{source}").taken == 0


def test_a_layout_reads_the_paths_after_the_prefix(sources: Path, moto: Server, tmp_path: Path):  # noqa: F811
    bucket = moto.bucket()
    upload(moto, sources, bucket)
    root, params = project(tmp_path / "project", moto.endpoint)
    report = take(root, params, f"s3://{bucket}/folders", "{class}/{session}/{name}")
    assert (report.taken, [refused.reason for refused in report.quarantined]) == (12, ["bad_path"] * 2)
    (shard,) = (root / "data").rglob("*.parquet")
    assert pq.read_table(shard)["slice"].to_pylist() == [[{"name": "session", "value": "one day"}]] * 12


def test_signed_requests_fetch_a_source_too(sources: Path, rclone: Server, tmp_path: Path):  # noqa: F811
    bucket = rclone.bucket()
    upload(rclone, sources, bucket)
    root, params = project(tmp_path / "project", rclone.endpoint)
    assert take(root, params, f"s3://{bucket}/folders/").taken == 12


def test_invalid_sources_are_refused_and_leave_nothing(moto: Server, tmp_path: Path, monkeypatch):  # noqa: F811
    bucket = moto.bucket()
    root, params = project(tmp_path / "project", moto.endpoint)
    put = moto.client().put_object
    put(Bucket=bucket, Key="text/a.txt", Body=b"x")
    put(Bucket=bucket, Key="up/../../x.png", Body=b"x")
    put(Bucket=bucket, Key="both/a", Body=b"x")
    put(Bucket=bucket, Key="both/a/b.png", Body=b"x")
    for source, message in {
        "nothing": r"nothing was found under s3://.*/nothing/",
        "text": rf"s3://{bucket}/text holds no images",
        "up": r"object '../../x\.png' cannot be a file",
        "both": r"is both an object and a folder",
        "text/labels.csv": r"nothing was found under",
    }.items():
        with pytest.raises(DataError, match=message):
            take(root, params, f"s3://{bucket}/{source}")
    put(Bucket=bucket, Key="one/a.png", Body=b"x")
    with on_disk(root, f"s3://{bucket}/one", params), pytest.raises(DataError, match="another process is ingesting"):
        take(root, params, f"s3://{bucket}/one")
    (root / ".evergreen/spool/left-by-a-kill").mkdir()
    monkeypatch.setattr(s3_spool, "RESERVE", 1 << 60)
    with pytest.raises(DiskFull, match=r"disk_full.*Nothing was downloaded"):
        take(root, params, f"s3://{bucket}/text")
    assert [path.name for path in (root / ".evergreen/spool").iterdir()] == ["lock"]
    assert not (root / "data").exists()
