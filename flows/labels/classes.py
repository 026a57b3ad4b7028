"""`evergreen classes`: plan a change of the classes, say what it touches, record it in one commit.

A change is one file under data/annotations/taxonomy/ (tasks.labels.taxonomy). Nothing else in data/ changes: every
reader maps old names.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from flows.labels.class_list import class_splits
from flows.labels.class_settings import listed_after, with_classes
from flows.project.data_commit import CommitRefused, commit_data, undone_if_refused
from flows.project.ingest import restored_data
from flows.repo.git import check_repository, git
from flows.repo.pipeline import record_data
from monitoring.log.production_log import open_log
from tasks.common.errors import DataError, EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import atomic_path, write_json
from tasks.common.params import Params, load_params
from tasks.common.text import join_names, one_line
from tasks.dataset.shards import read_tombstones
from tasks.ingest.lock import data_lock
from tasks.labels.changes import FOLDER, SCHEMA_VERSION, Change, label_state, read_changes
from tasks.labels.effective import effective_samples
from tasks.labels.reading import names_of
from tasks.labels.taxonomy import UNCHANGED, Taxonomy, compose
from tasks.sources.fields import Unusable, label


@dataclass(frozen=True)
class Touched:
    """How many labels read differently after a change, by their name before."""

    samples: Counter = field(default_factory=Counter)
    hard: Counter = field(default_factory=Counter)
    log: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Plan:
    """A change that fits, before it is recorded."""

    change: Change
    undone: Change | None  # the change that it takes back
    touched: Touched
    listed: list[str] | None  # data.classes after it; None: params.yaml stays as it is
    recorded: bool  # an interrupted call wrote it already

    def lines(self) -> list[str]:
        """What will happen, for the terminal."""
        samples, hard, log = self.touched.samples, self.touched.hard, self.touched.log
        found = [f"{self.change.kind}: {self.change.what()}" + (f" ({self.undone})" if self.undone else "")]
        by_name = "; ".join(f"{count:,} {name!r}" for name, count in sorted(samples.items()))
        found.append(
            f"read differently from now on: {samples.total():,} samples{f' ({by_name})' if samples else ''}, "
            f"{hard.total():,} of them in the hard set; {log.total():,} labels of the production log"
        )
        if self.listed is not None:
            found.append(f"data.classes in params.yaml becomes [{', '.join(map(repr, self.listed))}]")
        found.append(
            {
                "split": "until people say which part each image is, the class stays whole: `evergreen classes queue` "
                "writes the images, the likeliest part first",
                "add": "the class takes part once enough images are labelled with it",
                "group": "the next `evergreen retrain` calibrates coarse answers; no network is trained for it",
            }.get(
                self.change.kind,
                "the next `evergreen retrain` fits the head again and judges it; the network is trained with the new "
                "classes once new images or labels come",
            )
        )
        return found


def plan_change(
    root: Path,
    kind: str,
    old: Sequence[str] = (),
    new: Sequence[str] = (),
    *,
    why: str,
    by: str,
    undoes: str | None = None,
) -> Plan:
    """Check a change against the data and all changes before it. Raises EvergreenError; writes nothing.

    undoes: the id, or the beginning of one, of the change that an "undo" takes back.
    """
    check_repository(root, commit=False)
    params = load_params(root / "params.yaml")
    restored_data(root)
    data = root / "data"
    changes = read_changes(data)
    old, new = ([_name(name, params.data.task) for name in names] for names in (old, new))
    undone = _find(changes, undoes) if kind == "undo" else None
    recorded = _already(changes, kind, old, new, undone)
    change = recorded or Change(
        number=max((change.number for change in changes), default=0) + 1,
        kind=kind,
        old=old,
        new=new,
        undoes=undone.id if undone else None,
        at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        by=by,
        why=why,
        state=label_state(data),
        listed=params.data.classes,
    )
    before = [one for one in changes if one.id != change.id]
    samples = effective_samples(data, UNCHANGED, read_tombstones(root), params.labels.consensus)
    if recorded is None and undone is None:
        _check_known(compose(before), change, {*_seen(samples), *(params.data.classes or ())})
    after = compose([*before, change])
    _check_costs(params, after)
    listed = None
    if params.data.classes is not None and kind != "group":
        known = change.listed if change.listed is not None else params.data.classes
        listed = listed_after(known, change, undone, after)
        listed = None if listed == params.data.classes else listed
    touched = _touched(root, params, samples, compose(_tolerant(before)), after)
    return Plan(change, undone, touched, listed, recorded is not None)


def record_change(root: Path, plan: Plan, commit: bool = True) -> None:
    """Write the change and commit data.dvc, with params.yaml where data.classes changes. All of it or nothing.

    A call that was killed is completed by the same call.
    """
    settings, changed = root / "params.yaml", None
    if plan.listed is not None:
        if git(root, "status", "--porcelain", "--", "params.yaml"):
            raise EvergreenError(
                "params.yaml has changes that are not committed, and this command must commit a change of "
                "data.classes in it: commit them first (`git commit params.yaml`)"
            )
        changed = with_classes(settings.read_text(encoding="utf-8"), plan.listed)
    with undone_if_refused(root):
        file = root / "data" / FOLDER / f"{plan.change.number:06d}-{plan.change.id}.json"
        before = settings.read_text(encoding="utf-8")
        try:
            with data_lock(root):
                write_json(file, {"schema": SCHEMA_VERSION, **plan.change.model_dump(mode="json")})
            failpoint("classes.written")
            record_data(root)
            failpoint("classes.recorded")
            if changed is not None:
                _write_text(settings, changed)
            if commit:
                message = f"Change classes: {one_line(plan.change.what(), 55)}\n\n{plan.change.why}".rstrip()
                commit_data(root, message, *(["params.yaml"] if changed is not None else []))
        except BaseException as error:
            if changed is not None:
                _write_text(settings, before)
            if not plan.recorded and not isinstance(error, CommitRefused):  # that one is put back as a whole
                file.unlink(missing_ok=True)
            raise


def _write_text(file: Path, text: str) -> None:
    with atomic_path(file, tracked=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _name(text: str, task: str) -> str:
    try:
        name = label(text, "multiclass", None)
    except Unusable as error:
        raise DataError(f"{one_line(repr(text))} cannot be the name of a class: {error.detail}") from None
    if name is None or (task == "multilabel" and "|" in name):
        raise DataError(f"{one_line(repr(text))} cannot be the name of a class: in lists, names are divided at |")
    return name


def _find(changes: Sequence[Change], prefix: str | None) -> Change:
    found = [change for change in changes if prefix and change.id.startswith(prefix)]
    if len(found) != 1:
        listed = "; ".join(map(str, found or changes[-5:])) or "none"
        what = "several changes start" if found else "no change starts"
        raise DataError(f"{what} with {prefix!r}: {listed}. `evergreen classes` lists all of them")
    return found[0]


def _already(changes: Sequence[Change], kind: str, old, new, undone: Change | None) -> Change | None:
    """The last change, if it is exactly this one: an interrupted call is completed."""
    last = changes[-1] if changes else None
    asked = (kind, tuple(old), tuple(new), undone.id if undone else None)
    return last if last and (last.kind, last.old, last.new, last.undoes) == asked else None


def _tolerant(changes: Sequence[Change]) -> list[Change]:
    """`changes` up to the first that does not fit: an undo must be possible where two branches contradict."""
    for count in range(len(changes), 0, -1):
        try:
            compose(changes[:count])
            return list(changes[:count])
        except DataError:
            continue
    return []


def _check_known(taxonomy: Taxonomy, change: Change, seen: set[str]) -> None:
    """Raise DataError for an old name that is not a class, or a new one that images have already."""
    classes = {*taxonomy.current(seen), *taxonomy.classes}
    for name in change.old:
        if name not in classes and name not in taxonomy.ended:
            near = get_close_matches(name, classes, 3)
            raise DataError(
                f"{name!r} is not a class: {'did you mean ' + join_names(map(repr, near)) if near else 'there are'} "
                f"{'' if near else join_names(map(repr, sorted(classes)), 12)}".rstrip()
            )
    taken = [name for name in change.new if name in seen and not (change.kind == "merge" and name in change.old)]
    if taken and taken[0] not in taxonomy.meaning:
        raise DataError(
            f"{taken[0]!r} is a class already: name it among the classes of `evergreen classes merge`, or choose "
            "another name"
        )


def _check_costs(params: Params, after: Taxonomy) -> None:
    for name in params.calibrate.cost_false_negative:
        if name in after.ended and after.read(name).now != name:
            raise DataError(
                f"calibrate.cost_false_negative in params.yaml names {name!r}, which would not be a class any more "
                f"({after.ended[name].what()}): give the costs of the new classes there first"
            )
    for floor in params.gate.floors:
        name = floor.class_
        if name in after.ended and after.read(name).now != name:
            raise DataError(
                f"gate.floors in params.yaml names the class {name!r}, which would not be a class any more "
                f"({after.ended[name].what()}): write floors of the new classes there first"
            )


def _seen(samples: pa.Table) -> set[str]:
    return {name for name, _ in class_splits(samples)}


def _touched(root: Path, params: Params, samples: pa.Table, before: Taxonomy, after: Taxonomy) -> Touched:
    touched = Touched()
    differs: dict[str, bool] = {}

    def changed(name: str) -> bool:
        if name not in differs:
            differs[name] = before.read(name) != after.read(name)
        return differs[name]

    for name, split in class_splits(samples):
        if changed(name):
            touched.samples[before.rename(name)] += 1
            if split == "hard":
                touched.hard[before.rename(name)] += 1
    for given in open_log(root, params).labels()["label"].to_pylist():
        touched.log.update(before.rename(name) for name in names_of(given) if changed(name))
    return touched
