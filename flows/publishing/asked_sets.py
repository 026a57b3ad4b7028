"""The sets that a challenger is judged on: looks at them, and images unfair to the champion.

An image of the hard set is unfair in a comparison with the live model if that model was trained on it (it moved there
since), or if people picked it because that model was wrong about it. Bounds and floors count it all the same.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.publishing.registry import has_commit
from flows.repo.objects import ObjectLost, open_objects, outs_at
from tasks.common.errors import EvergreenError
from tasks.common.paths import main_checkout
from tasks.dataset.hard_set import change_of, membership, read_changes, sum_of, version_of
from tasks.dataset.shards import batches, next_seq
from tasks.gate.looks import Asked
from tasks.releases.looks import Look, SetLook, looks_at
from tasks.releases.pointer import Pointer

NAMES = {"hard": "hard set", "test": "test split"}


@dataclass(frozen=True)
class AskedSet:
    """A set of images that challengers are judged on."""

    name: str  # hard | test
    version: str
    images: int
    since: int  # number of the batch or change that brought its oldest images


@dataclass(frozen=True)
class Unfair:
    """Images of the hard set that do not count in the comparison with a model, though in everything else."""

    trained: frozenset[str] = frozenset()  # it was trained on them
    picked: frozenset[str] = frozenset()  # people picked them because it was wrong

    @property
    def ids(self) -> frozenset[str]:
        """All of them."""
        return self.trained | self.picked

    def sentence(self, version: str) -> str:
        """What the verdict says of them; "" for none."""
        trained, picked = len(self.trained), len(self.picked)
        parts = [f"{trained:,} {'are training images' if trained != 1 else 'is a training image'} of {version}"]
        parts = parts[: bool(trained)]
        parts += [f"{picked:,} {'were' if picked != 1 else 'was'} picked because {version} was wrong"][: bool(picked)]
        return f"{' and '.join(parts)}: the comparison with it leaves them out" if parts else ""


@dataclass(frozen=True)
class DataOf:
    """What the data of a release held; None where its commit or the listing is not here."""

    batches: frozenset[str] | None = None
    changes: frozenset[str] = field(default_factory=frozenset)  # of the hard set


def asked_sets(root: Path, predictions: pa.Table) -> list[AskedSet]:
    """The hard set and the test split of `predictions` (id, split, batch), of the data set at `root`."""
    data, found = root / "data", []
    numbers = {one.batch: one.seq for one in batches(data)}
    moved = {row["id"]: row["seq"] for row in membership(data).rows.values() if row["what"] == "add"}
    for name in NAMES:
        rows = predictions.filter(pc.equal(predictions["split"], name)).select(["id", "batch"]).to_pylist()
        if rows:
            since = min(max(moved.get(row["id"], 0), numbers.get(row["batch"], 0)) for row in rows)
            found.append(AskedSet(name, version_of([row["id"] for row in rows], name), len(rows), since))
    return found


def count_looks(sets: list[AskedSet], ledger: list[Look], new: Look | None = None) -> list[Asked]:
    """How often each set was asked, with the look `new`, if it is not in the ledger."""
    found = []
    for one in sets:
        looks = looks_at(ledger, one.name, one.since)
        if new is not None and new.key() not in {look.key() for look in looks}:
            looks = [*looks, new]
        measured = [look.sets[one.name].differ for look in looks if look.sets[one.name].differ is not None]
        found.append(Asked(NAMES[one.name], one.images, len(looks), float(np.mean(measured)) if measured else None))
    return found


def new_look(
    root: Path, sets: list[AskedSet], *, run: str, by: str, how: str, challenger: str, champion: str | None,
    differ: dict[str, float],
) -> Look:  # fmt: skip
    """The look that a judgement takes at `sets`."""
    asked = {one.name: SetLook(version=one.version, images=one.images, differ=differ.get(one.name)) for one in sets}
    seq = next_seq(root / "data") - 1
    return Look(at=datetime.now(UTC), run=run, by=by, how=how, challenger=challenger, champion=champion, seq=seq,
                sets=asked)  # fmt: skip


def unfair_to(root: Path, champion: Pointer | None, predictions: pa.Table) -> Unfair:
    """The images of today's hard set that are unfair in a comparison with `champion`. predictions: id, split, batch."""
    now = membership(root / "data")
    if champion is None or not now.added:
        return Unfair()
    hard = predictions.filter(pc.equal(predictions["split"], "hard")).select(["id", "batch"]).to_pylist()
    batch_of = {row["id"]: row["batch"] for row in hard if row["id"] in now.added}
    rows = {name: now.rows[name] for name in batch_of}
    picked = frozenset(name for name, row in rows.items() if row["model"] == champion.version)
    return Unfair(trained_on(root, data_of(root, champion), rows, batch_of), picked)


def trained_on(root: Path, then: DataOf, rows: Mapping[str, dict], batch_of: Mapping[str, str]) -> frozenset[str]:
    """Those of the images `rows` (id -> the change that puts it into the hard set) that a model may be trained on.

    then: the data it was made from. Where that is not known, every image that was in train counts.
    """
    training = {name for name, row in rows.items() if row["was"] == "train"}
    if then.batches is None:
        return frozenset(training)
    changes = read_changes(root / "data").to_pylist()
    hard = sum_of([row for row in changes if row["batch"] in then.changes]).added
    return frozenset(name for name in training - hard if batch_of.get(name) in {None, *then.batches})


def data_of(root: Path, model: Pointer) -> DataOf:
    """What the data of the release `model` held, by the names in its listing."""
    main = main_checkout(root)
    with suppress(EvergreenError, ObjectLost):
        if has_commit(main, model.git_rev) and (oid := outs_at(main, model.git_rev).get("data")):
            with open_objects(main) as objects:
                names = [name.removeprefix("batches/") for name in objects.files(oid) if name.startswith("batches/")]
            held = {name.removesuffix(".json").partition("-")[2] for name in names if name.endswith(".json")}
            changes = {change.batch for name in names if (change := change_of(name))}
            return DataOf(frozenset(held), frozenset(changes))
    return DataOf()
