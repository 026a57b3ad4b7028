"""The scenarios of `benchmarks.kills`: small real projects, an operation to kill on each, and what readers then see.

A scenario makes its project once. `act` is the operation (the seed varies its data), `state` returns what readers see,
`again` does what the next start does without a human, `whole` checks what must hold after that. Everything can be
repeated.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from flows.publishing import held, run_records
from flows.publishing.outcomes import Ending
from flows.publishing.publish import Publication, publish, reconcile
from flows.publishing.rollback import rollback
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from flows.versions.forget import forget
from flows.versions.gc import gc
from flows.versions.verify import verify
from tasks.common.files import atomic_dir, read_json, sha256_bytes, sha256_file, write_json
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.dataset import shards
from tasks.dataset.shards import live_shards, read_columns
from tasks.ingest import batch, writing
from tasks.storage.local import LocalStore
from tests.support import versions_project
from tests.support.labelled_project import png

NAME = "classifier"


def check(held: bool, what: str) -> None:
    """Raise AssertionError, also under `python -O`."""
    if not held:
        raise AssertionError(what)


def no_leftovers(root: Path) -> None:
    """Check that no temporary file, no workspace of a dead run and no stale git worktree is left."""
    left = [path for path in root.rglob(".*.tmp") if ".git" not in path.parts]
    left += list((root / ".evergreen/releases/.tmp").glob("*"))
    left += [path for path in root.glob(".evergreen/runs/*") if not (path / "ended.json").is_file()]
    check(not left, f"left behind: {left}")
    if (root / ".git").is_dir():
        check(len(list(root.glob(".git/worktrees/*"))) == len(list(root.glob(".evergreen/runs/*"))), "git's worktrees")


def start(root: Path) -> None:
    """Do what `evergreen retrain` completes before it begins."""
    releases = versions_project.store(root)
    reconcile(root, releases, NAME)
    run_records.reconcile(root, releases)
    workspace.reconcile(root)


class Ingest:
    points = tuple(f"ingest.{p}" for p in ("after_shard", "after_annotations", "before_manifest", "after_manifest"))
    points += ("ingest.after_measures",)

    @staticmethod
    def make(root: Path) -> None:
        Ingest._folder(root / "first", 0, 6)
        Ingest._take(root, root / "first")

    @staticmethod
    def act(root: Path, seed: int) -> None:
        source = root / f"source-{seed}"
        if not source.exists():
            Ingest._folder(source, 1 + seed, 5 + seed)
        Ingest._take(root, source)

    @staticmethod
    def state(root: Path) -> object:
        found = [read_columns(s.path, ["id", "split", "label"]).to_pylist() for s in live_shards(root / "data")]
        return sorted(str(row) for rows in found for row in rows)

    @staticmethod
    def again(root: Path, seed: int) -> None:
        Ingest.act(root, seed)

    @staticmethod
    def whole(root: Path) -> None:
        named = {name for batch in shards.batches(root / "data") for name in batch.shards}
        check({f.name for f in (root / "data").glob("*.parquet")} == named, "a shard that no manifest names")
        check(not list((root / "data").rglob(".*.tmp")), "a temporary file in data/")

    @staticmethod
    def _folder(folder: Path, seed: int, count: int) -> None:
        rng = np.random.default_rng(seed)
        for label in ("cat", "dog"):
            (folder / label).mkdir(parents=True)
            for number in rng.permutation(count):
                (folder / label / f"{number}.png").write_bytes(png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)))

    @staticmethod
    def _take(root: Path, source: Path) -> None:
        writing.SHARD_ROWS = 4
        batch.ingest(root, source, data=DataParams(), images=ImagesParams(), inspect=InspectParams(workers=1))


def _bundle(root: Path, seed: int) -> str:
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
    _bundle(root, seed)
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


class Forget:
    points = tuple(f"forget.{p}" for p in ("journal", "ledger", "rewritten", "committed", "redacted", "log", "state"))
    points += ("forget.objects", "forget.redacting", "forget.reference", "forget.object")
    points += ("erase.shard", "erase.batch", "erase.removed")

    @staticmethod
    def make(root: Path) -> None:
        versions_project.copy(root, 2)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        forget(root, Forget._id(seed), "asked", yes=True)

    @staticmethod
    def state(root: Path) -> object:
        found = [read_columns(shard.path, ["id"])["id"].to_pylist() for shard in live_shards(root / "data")]
        return sorted(name for names in found for name in names)

    @staticmethod
    def again(root: Path, seed: int) -> None:
        forget(root, Forget._id(seed), "asked")  # completes what was interrupted

    @staticmethod
    def whole(root: Path) -> None:
        check(not list((root / ".evergreen/forget").glob("*.json")), "the journal")
        check(git(root, "status", "--porcelain", "--", "data.dvc", "forgotten.json") == "", "not committed")
        releases = versions_project.store(root)
        for pointer in releases.history():
            releases.audit_bundle(pointer.bundle)

    @staticmethod
    def _id(seed: int) -> str:
        return sha256_bytes(versions_project.image(1, seed))  # in a batch, a bundle's reference and a picture


class Verify:
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


DVC_YAML = """stages:
  bundle:
    cmd: python -m tasks.stages bundle
    deps: [data]
    outs: [artifacts/bundle, artifacts/other]
    metrics: [{metrics/inspect.json: {cache: false}}]
"""


def _toy(root: Path) -> None:
    """A project with one stage, one batch and no release."""
    versions_project.start(root)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "tasks").mkdir()
    (root / "tasks/code.py").write_text("code = 1\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "a stage")
    versions_project.add_batch(root, 1, 5)


def _run(root: Path, run_id: str, seed: int) -> tuple[Path, int, str]:
    """A run up to its bundle: (worktree, descriptor of its lock, how the stage was done)."""

    def stage(name: str, tree: Path) -> None:
        _bundle(tree, seed)
        write_json(tree / "artifacts/other/out.json", {"of": seed})
        write_json(tree / "metrics/inspect.json", {"rows": 5})

    tree, lock = workspace.create(root, run_id, {})
    write_json(tree.parent / "started.json", {"key": f"key-{seed}", "reason": "a test", "by": "ann"})
    repo = open_repo(tree)
    try:
        restore_data(repo)
        outcome = bring_up_to_date(repo, "bundle", stage)
        check(repo.status() == {} or outcome != "unchanged", "dvc status")
    finally:
        repo.close()
    return tree, lock, outcome


class Workspace:
    points = ("workspace.folder", "workspace.added", "workspace.configured", "workspace.died", "workspace.removed")
    points += ("pipeline.removed", "pipeline.ran", "pipeline.committed", "pipeline.restored")

    @staticmethod
    def make(root: Path) -> None:
        _toy(root)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        for number in range(2):  # the second run finds the first, which died, and restores its stage
            _, lock, _ = _run(root, f"run-{number}", seed)
            os.close(lock)
            workspace.reconcile(root)

    @staticmethod
    def state(root: Path) -> object:
        for file in (root / ".dvc/cache/files/md5").rglob("*"):
            if file.is_file() and not file.name.endswith(".dir"):
                import hashlib

                found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
                check(file.parent.name + file.name == found, f"{file} in the cache is torn")
        return [git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "branch")]

    @staticmethod
    def again(root: Path, seed: int) -> None:
        workspace.reconcile(root)
        tree, lock, outcome = _run(root, "run-9", seed)
        check(outcome in ("ran", "restored"), outcome)
        repo = open_repo(tree)
        check(repo.status() == {}, "dvc status is not clean")
        repo.close()
        os.close(lock)
        check(set(workspace.reconcile(root)) == {"run-9"}, "runs")
        check("run-9" in workspace.crashed_runs(root), "Prefect could not be told")

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        check(git(root, "worktree", "list").count("\n") == 0, "worktrees")


class Keep:
    points = ("held.uploaded", "held.pushed", "held.kept")

    @staticmethod
    def make(root: Path) -> None:
        _toy(root)

    @staticmethod
    def act(root: Path, seed: int, run_id: str = "run-1") -> None:
        tree, lock, _ = _run(root, run_id, seed)
        releases = versions_project.store(root)
        rev = run_records.preserve_held(tree, releases, NAME, run_id, "held: a test")
        run_records.record(releases, tree, run_id, Ending(outcome="held", sentence="held: a test"), rev)
        write_json(tree.parent / "ended.json", {"outcome": "held", "version": None, "sentence": "held: a test"})
        os.close(lock)

    @staticmethod
    def state(root: Path) -> object:
        return sorted(run["outcome"] for run in versions_project.store(root).runs().values())

    @staticmethod
    def again(root: Path, seed: int) -> None:
        start(root)
        if not Keep.state(root):
            Keep.act(root, seed, "run-2")

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        refs = git(root, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/evergreen/held").split()
        check(refs == list(versions_project.store(root).runs()), f"held are {refs}")


class Override:
    points = ("held.published", "held.noted", "held.released", "publish.promoted")

    @staticmethod
    def make(root: Path) -> None:
        _toy(root)
        Keep.act(root, 7)
        shutil.rmtree(root / ".evergreen/runs")  # so that its workspace is created again
        git(root, "worktree", "prune")

    @staticmethod
    def act(root: Path, seed: int) -> None:
        held.override(root, "run-1", by="bob", why=f"because {seed}")

    @staticmethod
    def state(root: Path) -> object:
        live = versions_project.store(root).live()
        return live and [live.seq, live.version, live.bundle]

    @staticmethod
    def again(root: Path, seed: int) -> None:
        start(root)
        if Override.state(root) is None:
            Override.act(root, seed)

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        run = versions_project.store(root).run("run-1")
        check((run["outcome"], run["version"], len(run["decisions"])) == ("promoted", "v0.1.0", 1), f"{run}")
        check(git(root, "for-each-ref", "refs/evergreen/held") == "", "a ref holds a published run")
        check(run_inputs.recorded_ending(root, "key-7")["outcome"] == "promoted", "its inputs")


class Files:
    """Atomic writes, and the objects of which journals and queues of production consist."""

    points = ("files.temporary", "files.placed", "files.folder", "files.aside", "files.folder_placed")
    points += ("store.temporary", "store.placed")

    @staticmethod
    def make(root: Path) -> None:
        Files._write(root, 99)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        Files._write(root, seed)

    @staticmethod
    def _write(root: Path, seed: int) -> None:
        write_json(root / "file.json", {"of": seed})
        with atomic_dir(root / "folder") as folder:
            for number in range(5):
                (folder / str(number)).write_text(f"{seed}")
        LocalStore(root / "log").create(f"windows/{seed:03d}.json", Files._content(seed))

    @staticmethod
    def _content(seed: int) -> bytes:
        return f"{seed}".encode() * 1000 * (1 + seed)

    @staticmethod
    def state(root: Path) -> object:
        """Three files, each complete or missing."""
        found = {file.read_text() for file in (root / "folder").glob("*")}
        check(len(found) <= 1 and len(list((root / "folder").glob("*"))) in (0, 5), "half a folder")
        read_json(root / "file.json")
        log = LocalStore(root / "log")
        for key in log.list("windows/"):
            check(log.read(key)[0] == Files._content(int(Path(key).stem)), f"half of {key}")
        return "whole"

    @staticmethod
    def again(root: Path, seed: int) -> None:
        from tasks.common.files import sweep

        sweep(root)
        LocalStore(root / "log").sweep()
        Files._write(root, seed)
        check(read_json(root / "file.json") == {"of": seed}, "the file")
        check({f.read_text() for f in (root / "folder").glob("*")} == {str(seed)}, "the folder")

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        check(not list((root / "log/.tmp").iterdir()), "half an object")


SCENARIOS = {
    found.__name__.lower(): found
    for found in (Ingest, Publish, Rollback, Gc, Forget, Verify, Workspace, Keep, Override, Files)
}
