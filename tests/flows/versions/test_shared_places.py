"""Two projects in one DVC cache, remote or release store: gc of one never removes what the other needs."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.erasure.forget import forget
from flows.repo.git import git
from flows.repo.ledger import BesideObjects, claim_objects
from flows.repo.objects import ObjectLost, Objects
from flows.repo.odb import list_oids
from flows.repo.pipeline import open_repo
from flows.repo.remotes import object_databases
from flows.versions.gc import gc, shared_sentences
from flows.versions.verify import verify
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.owner import owner_of
from tasks.dataset import shards
from tasks.ingest import erase
from tasks.ingest.erasures import erased_objects
from tasks.storage.ledgers import claim, read_ledgers
from tests.support import versions_project
from tests.support.children import killed_at
from tests.support.versions_project import image

FEW = 4  # images of a batch


def sharing(root: Path, places: Path) -> Path:
    """A project whose DVC cache and remote are in `places`, as user-wide or committed DVC settings say."""
    versions_project.start(root)
    local = f"[cache]\n    dir = {places / 'cache'}\n    type = symlink\n"
    (root / ".dvc/config.local").write_text(local + f"['remote \"store\"']\n    url = {places / 'remote'}\n")
    return root


def oids(root: Path) -> list[set[str]]:
    """What the cache and the remote hold."""
    with closing(open_repo(root)) as repo:
        return [set(list_oids(odb)) for odb in object_databases(repo, None)]


def collected(root: Path, **options) -> dict[str, tuple[int, int, int]]:
    """Place -> objects removed, kept for others, without an owner."""
    found = gc(root, yes=True, grace_hours=0, **options)
    return {place.name: (place.garbage, place.others, place.unowned) for place in found.places if place.name != "cache"}


def give_up(root: Path) -> None:
    """Undo the last batch and release, as if they had never been."""
    git(root, "reset", "--quiet", "--hard", "HEAD~")
    for tag in git(root, "tag").split():
        git(root, "tag", "--delete", tag)
    git(root, "branch", "--quiet", "-D", "releases")
    (root / "dvc.lock").unlink()
    for folder in ("data", "artifacts", ".evergreen/releases"):
        shutil.rmtree(root / folder)


def test_two_projects_share_a_cache_and_a_remote(tmp_path: Path):
    first, second = (sharing(tmp_path / name, tmp_path / "places") for name in ("first", "second"))
    versions_project.add_batch(first, 1, FEW)
    versions_project.release(first, 1)
    alone = oids(first)
    versions_project.add_batch(second, 1, FEW)  # the same images
    versions_project.release(second, 1, model=b"another model")
    both = oids(second)
    give_up(first)
    found = collected(first)
    for place in ("DVC cache", "DVC remote"):
        garbage, others, unowned = found[place]
        assert garbage > 0, place  # its own bundle
        assert others >= 4, place  # the listing of data, a shard, its annotations, its manifest
        assert unowned == 0, place
    assert all(line.ok for line in verify(second, deep=True))
    assert all(file.stat().st_size for file in (second / "data").rglob("*.parquet"))  # links into the cache
    for now, before, own in zip(oids(second), both, alone, strict=True):
        assert now < before
        assert now & own  # what both had

    give_up(second)
    assert collected(first)["DVC cache"][0] == 0  # the second still names everything
    assert collected(second)["DVC cache"][1:] == (0, 0)
    assert oids(second) == [set(), set()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return versions_project.copy(tmp_path / "project")


def add_unneeded(root: Path, odb, content: bytes) -> str:
    """An object that no version needs."""
    oid = content.hex().ljust(32, "0")
    odb.add_bytes(oid, content)
    return oid


def test_where_an_unknown_user_stores_nothing_is_removed(project: Path):
    with closing(open_repo(project)) as repo:
        odb = repo.cache.local
        claim_objects(project, odb, ["0a".ljust(32, "0")])
        add_unneeded(project, odb, b"\x0a")
        assert collected(project)["DVC cache"] == (1, 0, 0)
        add_unneeded(project, odb, b"\x0a")
        claim_objects(project, odb, ["0a".ljust(32, "0")])
        add_unneeded(project, odb, b"\x0b")  # plain DVC, or an older Evergreen
        before = oids(project)
    found = gc(project, yes=True, grace_hours=0)
    (sentence,) = shared_sentences(found.places)
    assert "DVC cache" in sentence
    assert "1 object(s) are in no ledger" in sentence
    assert "evergreen gc --claim" in sentence
    assert oids(project) == before
    assert collected(project, claim_all=True)["DVC cache"] == (2, 0, 0)


def test_objects_of_the_time_before_ledgers_stay_until_they_are_claimed(project: Path):
    for folder in versions_project.LEDGERS:
        shutil.rmtree(project / folder)
    before = oids(project)
    assert collected(project) == collected(project)
    assert oids(project) == before
    assert all(line.ok for line in verify(project))
    with closing(open_repo(project)) as repo:  # its versions are named from now on
        named = read_ledgers(BesideObjects(repo.cache.local))[owner_of(project).id].names
    assert before[0] & named
    collected(project, claim_all=True)
    assert all(line.ok for line in verify(project))
    assert all(unowned == 0 for _, _, unowned in collected(project).values())


def test_a_checkout_that_is_gone_is_named_and_can_be_retired(project: Path, tmp_path: Path):
    other = versions_project.start(tmp_path / "other")
    cache = project / ".dvc/cache"
    (other / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    versions_project.add_batch(other, 9, FEW)
    checkout = owner_of(other).id
    with pytest.raises(EvergreenError, match=f"no other checkout '{checkout[:3]}' has a ledger here.*other on"):
        gc(project, retire_checkout=checkout[:3])
    with pytest.raises(EvergreenError, match="no other checkout"):
        gc(project, retire_checkout=owner_of(project).id)
    outside = tmp_path / "outside"
    shutil.move(cache, outside)
    (project / ".dvc/config.local").write_text(f"[cache]\n    dir = {outside}\n")
    with pytest.raises(EvergreenError, match=r"other on .* may still use"):
        gc(project, yes=True, retire_checkout=checkout)
    shutil.rmtree(other)
    before = oids(project)
    found = gc(project, yes=True, grace_hours=0)
    assert any(f"--retire-checkout {checkout}" in line for line in shared_sentences(found.places))
    assert oids(project) == before
    assert collected(project, retire_checkout=checkout)["DVC cache"] == (5, 0, 0)
    assert all(line.ok for line in verify(project))
    assert shared_sentences(gc(project, grace_hours=0).places) == []


def test_a_killed_gc_holds_up_no_one_and_the_next_completes_it(project: Path, tmp_path: Path):
    other = versions_project.start(tmp_path / "other")
    with closing(open_repo(project)) as repo:
        files = BesideObjects(repo.cache.local)
        for number in range(3):
            oid = bytes([number]).hex().ljust(32, "0")
            claim_objects(project, repo.cache.local, [oid])
            add_unneeded(project, repo.cache.local, bytes([number]))
        assert killed_at("gc.removed:2", gc, project, yes=True, grace_hours=0)
        assert [name for name in files.list() if name.endswith("gc.json")] != []
        claim(files, owner_of(other), ["aa"], wait=0)  # raises if it had to wait
        assert collected(project)["DVC cache"] == (1, 0, 0)
        assert killed_at("ledgers.claimed", versions_project.add_batch, project, 9, FEW)
        assert killed_at("ledgers.replaced", gc, project, yes=True, grace_hours=0)
        assert collected(project)["DVC cache"] == (0, 0, 0)
        versions_project.add_batch(project, 9, FEW)
    assert all(line.ok for line in verify(project))


def test_dvc_gc_leaves_the_ledgers(project: Path):
    def ledgers() -> dict[str, str]:
        return {folder: str(versions_project.tree(project / folder)) for folder in versions_project.LEDGERS}

    before = ledgers()
    with closing(open_repo(project)) as repo:
        repo.gc(workspace=True, cloud=True, force=True)
    assert before == ledgers()


def test_forget_leaves_an_object_of_another_project_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from flows.cli.main import app

    first, second = (sharing(tmp_path / name, tmp_path / "places") for name in ("first", "second"))
    for root in (first, second):
        versions_project.add_batch(root, 1, FEW)
    versions_project.add_batch(second, 2, FEW)
    both, name = oids(second)[0], sha256_bytes(image(1, 0))
    monkeypatch.chdir(first)
    said = CliRunner().invoke(app, ["forget", name, "--why", "asked", "--yes"]).output
    assert f"2 object(s) that show or name them stay in {tmp_path / 'places/cache'}: {second} on" in said
    assert both <= oids(second)[0]
    assert len(list((second / "data").rglob("*.parquet"))) == len(both & shown(second))
    assert name not in ids(first)
    assert name in ids(second)
    assert all(line.ok for line in verify(first, deep=True))
    assert not shown(first) & named(first)  # its own gc does not keep it
    with pytest.raises(EvergreenError, match="no image with id, key, path, source or group 'camera-2-1'"):
        forget(first, "camera-2-1", "asked")  # of the other project only
    with closing(open_repo(first)) as repo, pytest.raises(ObjectLost, match="erased on request"):
        Objects(repo).read(next(iter(shown(first) & both & erased_objects(first))))

    forget(second, sha256_bytes(image(2, 1)), "asked", yes=True)
    assert forget(second, name, "asked", yes=True).shared == {}  # the first has given up the name
    assert not {name, sha256_bytes(image(2, 1))} & set(ids(second))
    assert not any(erase.ids_with_pixels(file, {name}) for file in (tmp_path / "places").rglob("files/md5/*/*"))


def test_forget_with_shared_deletes_it_for_everyone(tmp_path: Path):
    first, second = (sharing(tmp_path / name, tmp_path / "places") for name in ("first", "second"))
    for root in (first, second):
        versions_project.add_batch(root, 1, FEW)
    name = sha256_bytes(image(1, 0))
    plan = forget(first, name, "asked", yes=True, shared=True)
    assert [len(users) for users in plan.shared.values()] == [1, 1]  # a shard, and an annotation
    assert not any(erase.ids_with_pixels(file, {name}) for file in (tmp_path / "places").rglob("files/md5/*/*"))


def ids(root: Path) -> list[str]:
    found = [shards.read_columns(shard.path, ["id"])["id"].to_pylist() for shard in shards.live_shards(root / "data")]
    return [name for names in found for name in names]


def shown(root: Path) -> set[str]:
    """Objects of the cache that hold samples or annotations."""
    with closing(open_repo(root)) as repo:
        odb = repo.cache.local
        return {oid for oid in list_oids(odb) if Path(odb.oid_to_path(oid)).read_bytes()[:4] == erase.MAGIC}


def named(root: Path) -> set[str]:
    with closing(open_repo(root)) as repo:
        return read_ledgers(BesideObjects(repo.cache.local))[owner_of(root).id].names & erased_objects(root)
