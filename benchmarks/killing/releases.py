"""Kills of commands that change or repair releases: publish, rollback, gc, verify."""

import shutil
from pathlib import Path

import numpy as np

from benchmarks.killing.checks import NAME, check, no_leftovers, start
from flows.publishing.publish import Publication, publish
from flows.publishing.rollback import rollback
from flows.repo.git import git
from flows.versions.gc import gc
from flows.versions.verify import verify
from tasks.common.files import sha256_bytes, sha256_file, write_json
from tasks.dataset.shards import live_shards
from tests.support import versions_project


def make_bundle(root: Path, seed: int) -> str:
    """Make a bundle of 2 to 6 files and return its digest."""
    folder, rng = root / "artifacts/bundle", np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(2 + seed % 5):
        (folder / f"part-{number}.bin").write_bytes(rng.bytes(int(rng.integers(1, 200_000))))
    files = {f.name: {"sha256": sha256_file(f), "bytes": f.stat().st_size} for f in sorted(folder.iterdir())}
    write_json(folder / "MANIFEST.json", {"files": files})
    return sha256_file(folder / "MANIFEST.json")


def _publish(root: Path, seed: int) -> None:
    make_bundle(root, seed)
    (root / "dvc.lock").write_text(f"# {seed}\n")
    releases = versions_project.store(root)
    new = Publication(worktree=root, name=NAME, run_id=f"run-{seed}", why="a test", by="ann")
    publish(new, releases, releases.live(), push=lambda worktree: None)


class Publish:
    points = ("publish.start", "publish.uploaded", "publish.audited", "publish.committed", "publish.pushed")
    points += ("publish.registered", "publish.promoted", "publish.assigned", "store.object", "store.temporary")
    points += ("store.placed", "store.swapped")

    @staticmethod
    def make(root: Path) -> None:
        versions_project.start(root)
        _publish(root, 99)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        _publish(root, seed)

    @staticmethod
    def state(root: Path) -> object:
        releases = versions_project.store(root)
        releases.audit_bundle(releases.live().bundle)
        return [releases.live().seq, releases.live().version, releases.live().bundle]

    @staticmethod
    def again(root: Path, seed: int) -> None:
        start(root)
        _publish(root, seed)

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        history = versions_project.store(root).history()
        check([p.seq for p in history] == [1, 2], "the history")
        tags = git(root, "tag").split()
        wanted = {f"{NAME}@{p.version}" for p in history} | {f"{NAME}#prod#{p.seq}" for p in history}
        check(set(tags) == wanted, f"tags {tags}")
        check(git(root, "rev-list", "--count", "--first-parent", "releases", "^main") == "2", "commits")


class Rollback:
    every = 3
    points = ("rollback.tombstoned", "rollback.verified", "rollback.promoted", "rollback.restored")
    points += ("files.folder", "files.folder_placed")

    @staticmethod
    def make(root: Path) -> None:
        versions_project.copy(root, 2)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        rollback(root, "v0.1.0", by="ann", why=f"worse {seed}", tombstone=True, restore_to=root.parent / "back")

    @staticmethod
    def state(root: Path) -> object:
        return versions_project.store(root).live().version

    @staticmethod
    def again(root: Path, seed: int) -> None:
        start(root)
        if not (root.parent / "back").exists():
            Rollback.act(root, seed)

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        back = root.parent / "back"
        first = versions_project.store(root).history()[0]
        check(sha256_file(back / "bundle/MANIFEST.json") == first.bundle, "the bundle that was restored")
        check(len(live_shards(back / "data")) == 1, "the data that were restored")
        check(not list(root.parent.glob(".back.*")), "half a restored folder")
        check(len(versions_project.store(root).tombstones()) == 1, "the tombstone")
        check(len(git(root, "tag", "-l", "*#prod#*").split()) == 3, "stage tags")


class Gc:
    points = ("gc.retired", "gc.removed")

    @staticmethod
    def make(root: Path) -> None:
        versions_project.copy(root, 3)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        versions_project.store(root).store.create(f"objects/{sha256_bytes(bytes([seed]))}", bytes([seed]))
        gc(root, yes=True, keep=2, grace_hours=0)

    @staticmethod
    def state(root: Path) -> object:
        Gc.whole(root)  # everything that is kept can still be restored
        return sorted(versions_project.store(root).retired())

    @staticmethod
    def again(root: Path, seed: int) -> None:
        gc(root, yes=True, keep=2, grace_hours=0)

    @staticmethod
    def whole(root: Path) -> None:
        broken = [problem.text for line in verify(root, deep=True) for problem in line.problems]
        check(not broken, f"versions are not whole: {broken}")


class Verify:
    every = 3
    points = ("verify.dropped", "verify.repaired")

    @staticmethod
    def make(root: Path) -> None:
        versions_project.copy(root, 2)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        rng = np.random.default_rng(seed)
        files = sorted((root / ".evergreen/remote/files").rglob("*"))
        files = [file for file in files if file.is_file()]
        for place in sorted(rng.choice(len(files), 2, replace=False)):
            files[place].chmod(0o644)
            files[place].write_bytes(b"damaged")
        verify(root, deep=True, repair=True)

    @staticmethod
    def state(root: Path) -> object:
        rollback_can_be_done = [p.version for p in versions_project.store(root).history()]
        for pointer in versions_project.store(root).history():
            versions_project.store(root).audit_bundle(pointer.bundle)
        return rollback_can_be_done

    @staticmethod
    def again(root: Path, seed: int) -> None:
        verify(root, deep=True, repair=True)

    @staticmethod
    def whole(root: Path) -> None:
        Gc.whole(root)
