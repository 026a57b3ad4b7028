"""Kills of commands that change the data set: ingest, forget and the hard set."""

from pathlib import Path

import numpy as np

from benchmarks.killing.checks import check
from flows.erasure.forget import forget
from flows.hard_set.candidates import production_mistakes, training_counts
from flows.hard_set.content import read_hard_set
from flows.hard_set.plan import plan_add
from flows.hard_set.take import take_plan
from flows.repo.git import git
from tasks.common.files import sha256_bytes
from tasks.common.params import DataParams, ImagesParams, InspectParams
from tasks.dataset import shards
from tasks.dataset.shards import live_shards, read_columns
from tasks.ingest import batch, writing
from tests.support import label_queues, versions_project, wrong_answers
from tests.support.labelled_project import png


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


class Forget:
    every = 3
    points = tuple(f"forget.{p}" for p in ("journal", "ledger", "rewritten", "committed", "redacted", "log", "state"))
    points += ("forget.records", "forget.exports", "forget.prefect", "forget.objects", "forget.proof")
    points += ("forget.redacting", "forget.reference", "forget.object")
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
        if list((root / ".evergreen/forget").glob("*.json")):
            forget(root, Forget._id(seed), "asked")  # completes what was interrupted
        elif Forget._id(seed) in Forget.state(root):
            Forget.act(root, seed)

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


class HardSet:
    """Mistakes of production into the hard set: a change and a batch, one commit."""

    every = 3
    points = ("hard.written", "hard.ingested", "hard.recorded")

    @staticmethod
    def make(root: Path) -> None:
        label_queues.project(root)
        wrong_answers.add(root)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        plan = plan_add(root, production_mistakes(root), counts=training_counts(root))
        take_plan(root, plan, f"wrong {seed}", origin="production")

    @staticmethod
    def state(root: Path) -> object:
        """How many commits changed the hard set."""
        return sum(line.startswith("hard set") for line in git(root, "log", "--format=%s").splitlines())

    @staticmethod
    def again(root: Path, seed: int) -> None:
        HardSet.act(root, seed)

    @staticmethod
    def whole(root: Path) -> None:
        models = [one.model for one in read_hard_set(root).members]
        check(models == ["v0.1.0"] * 4, f"images of the hard set, by the model that was wrong: {models}")
        check("data" not in git(root, "status", "--porcelain"), "data.dvc is not committed")
