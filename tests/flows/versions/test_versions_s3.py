"""verify, gc and forget with releases and the DVC remote on a real S3 server."""

import re
import shutil
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from flows.erasure.forget import forget
from flows.repo.git import git
from flows.repo.ledger import claim_pushed
from flows.repo.outs import recorded_outs
from flows.repo.pipeline import open_repo, restore_data
from flows.versions.gc import gc
from flows.versions.verify import verify
from tasks.common.files import sha256_bytes
from tasks.ingest import erase
from tests.support import versions_project
from tests.support.s3_servers import Server, credentials, moto  # noqa: F401 (fixtures)
from tests.support.versions_project import image, store

LEDGER = re.compile("/dvc/evergreen/|/ledgers/")


@pytest.fixture
def bucket(moto: Server, credentials: None) -> str:  # noqa: F811
    return moto.bucket()


@pytest.fixture
def project(tmp_path: Path, moto: Server, bucket: str) -> Path:  # noqa: F811
    """Two versions on S3, and a bundle that was never published."""
    root = versions_project.start(tmp_path / "project", url=f"s3://{bucket}/team", endpoint_url=moto.endpoint)
    local = root / ".dvc/config.local"  # as in a run's workspace
    settings = {"url": f"s3://{bucket}/team/dvc", "endpointurl": moto.endpoint, "verify": "true"}
    local.write_text("\n".join(["['remote \"store\"']", *(f"    {key} = {value}" for key, value in settings.items())]))
    for number in (1, 2):
        versions_project.add_batch(root, number)
        versions_project.release(root, number)
    local.unlink()
    store(root).put_bundle(versions_project.make_bundle(root, 9))
    versions_project.make_bundle(root, 2)
    return root


def wrong(project: Path) -> list[str]:
    return [problem.text for line in verify(project) for problem in line.problems]


def assert_a_clone_keeps_what_it_pulled(project: Path) -> None:
    """The project gives up a batch that its clone still has: gc leaves it in the bucket until the clone does too."""

    def remote(root: Path):
        (found,) = (place for place in gc(root, yes=True, grace_hours=0).places if place.name == "DVC remote")
        return found.garbage, found.others, found.unowned

    versions_project.add_batch(project, 3, 4)
    with closing(open_repo(project)) as repo:
        claim_pushed(repo, recorded_outs(repo))
        assert repo.push() > 0
    clone = project.parent / "clone"
    git(project, "clone", "--quiet", str(project), str(clone))
    with closing(open_repo(clone)) as repo:
        restore_data(repo)
    for root in (project, clone):
        git(root, "reset", "--quiet", "--hard", "HEAD~")
        shutil.rmtree(root / "data")
    git(clone, "update-ref", "-d", "refs/remotes/origin/main")
    garbage, others, unowned = remote(project)
    assert (garbage, unowned) == (0, 0)
    assert others == 5  # of batch 3: listing, shard, annotations, a manifest of each
    assert remote(clone) == (5, 0, 0)


@pytest.mark.long
def test_versions_on_s3(project: Path, moto: Server, bucket: str):  # noqa: F811
    s3 = moto.client()

    def objects() -> dict[str, bytes]:
        entries = s3.list_objects_v2(Bucket=bucket)["Contents"]
        keys = [entry["Key"] for entry in entries if not LEDGER.search(entry["Key"])]
        return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    assert wrong(project) == []
    before = objects()
    assert any("/dvc/" in key for key in before)

    dry = {place.name: place for place in gc(project, grace_hours=0).places}
    assert dry["release store"].garbage == 4
    assert dry["DVC remote"].garbage == 0
    assert gc(project, yes=True).places[0].young == 4  # younger than a day
    assert objects() == before
    gc(project, yes=True, grace_hours=0)
    sound = objects()
    assert len(before) - len(sound) == 4
    assert wrong(project) == []

    assert_a_clone_keeps_what_it_pulled(project)
    assert objects() == sound

    harmed = sorted(key for key in sound if "/dvc/" in key or "/objects/" in key)
    for number, key in enumerate(harmed):
        if number % 2:
            s3.delete_object(Bucket=bucket, Key=key)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=sound[key][:-1])
    assert len(set(wrong(project))) >= len(harmed)
    assert all(line.ok for line in verify(project, repair=True))
    assert objects() == sound

    wanted = sha256_bytes(image(1, 3))
    assert any(erase.ids_with_pixels(pa.BufferReader(content), {wanted}) for content in sound.values())
    plan = forget(project, wanted, "asked", yes=True, shared=True)  # the clone has it too
    assert plan.versions == ["v0.1.0", "v0.2.0"]
    assert not any(erase.ids_with_pixels(pa.BufferReader(content), {wanted}) for content in objects().values())
    lines = verify(project)
    assert all(line.ok for line in lines)
    assert [line.erased > 0 for line in lines] == [False, True, True]
