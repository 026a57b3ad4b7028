"""`evergreen diff A B`: how two versions differ, and which difference most likely changed the model.

Everything is read from the versions' commits and DVC's objects. Images are counted by given label, for labelled,
accepted samples as `clean` left them. A sample with several labels counts for each of them.
"""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.labels.class_reading import current_taxonomy
from flows.publishing import registry
from flows.publishing.history import find, open_project
from flows.publishing.rollback import batches_at, label_batches_at
from flows.repo.git import git
from flows.repo.objects import ObjectLost, Objects, file_at, open_objects, outs_at, yaml_at
from flows.repo.run_inputs import stage_dependencies
from tasks.common.artifacts import without_used
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.nested import flatten
from tasks.common.params import current_values, parse_text
from tasks.common.paths import main_checkout
from tasks.common.schemas import SPLITS
from tasks.labels.reading import read_column
from tasks.labels.taxonomy import Taxonomy
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

CODE = ("dvc.yaml", "requirements.lock")  # what decides a model, in addition to the stages' code
ACTIONS = ("relabel", "drop", "queue")
LOWER = (
    "ece",
    "loss",
    "brier",
    "latency",
    "size_mb",
    "parity",
    "difference",
    "set_length",
    "aurc",
    "cost",
    "people",
)  # parts of the names of figures that should be low
NEUTRAL = (
    "n",
    "classes",
    "images",
    "groups",
    "corruption_images",
    "wanted",
    "bound",
    "low",
    "high",
)  # counts, and ends of intervals: neither better nor worse

Change = tuple[Any, Any]  # (in A, in B); None: absent


class Versions(Frozen):
    """Everything that differs between version `a` and version `b`. Unchanged things are left out."""

    a: str
    b: str
    batches: dict[str, list[dict]]  # added, removed: {batch, kind, rows}; tombstoned, set aside (before either version
    # used it), allowed again: {batch, why}
    images: dict[str, dict[str, Change]]  # split -> class -> images
    actions: dict[str, dict[str, Change]]  # relabel, drop, queue -> class -> labels
    relabelled: list[dict]  # annotations that changed the given label: {id, a, b}
    params: dict[str, Change]
    code: list[str]  # files of the pipeline that differ
    metrics: dict[str, tuple[Any, Any, str]]  # name -> (in A, in B, "better" | "worse" | "")
    unreadable: list[str]  # what could not be compared, and why
    why: str


def diff(root: Path, a: str | None = None, b: str | None = None) -> Versions:
    """Compare version `b` (None: the live one) with version `a` (None: the one live before `b`).

    Each may also be the id of a held run; the live version is then the default of the other.

    Raises EvergreenError for a version that was never live, or whose commit this repository lacks.
    """
    main = main_checkout(root)
    old, new = chosen(main, open_project(root)[1], a, b)
    with open_objects(main) as objects:
        return compare(main, objects, old, new)


def chosen(root: Path, releases: Releases, a: str | None, b: str | None) -> tuple[tuple[str, str], tuple[str, str]]:
    """((name, commit) of A, of B), as `diff` reads them. Raises EvergreenError."""
    history = releases.history()
    live = history[-1].version if history else None
    new = _held(releases, b)
    if new is None:
        pointer = find(history, b or live)
        new = _released(pointer)
        before = [one.version for one in history[: history.index(pointer)] if one.version != pointer.version]
        if a is None and not before:
            raise EvergreenError(
                f"nothing was live before {pointer.version}: name two versions, as in `evergreen diff A B`"
            )
        a = a or before[-1]
    a = a or live
    if b is None and a == new[0]:
        raise EvergreenError(
            f"{a} is the live version itself: name two versions or held runs, as in `evergreen diff A B`"
        )
    old = _held(releases, a) or _released(find(history, a))
    for version, rev in (old, new):
        if not registry.has_commit(root, rev):
            raise EvergreenError(
                f"this repository lacks commit {rev[:12]} of {version}: fetch the branch releases "
                "and the tags from where it was published"
            )
    return old, new


def _held(releases: Releases, name: str | None) -> tuple[str, str] | None:
    """(id, commit) of the run `name` that was held, or refused since; None if there is none that left a commit."""
    run = releases.run(name) if name else None
    return (name, run["rev"]) if run and run["outcome"] in ("held", "rejected") and run.get("rev") else None


def _released(pointer: Pointer) -> tuple[str, str]:
    return pointer.version, pointer.git_rev


def compare(root: Path, objects: Objects, a: tuple[str, str], b: tuple[str, str]) -> Versions:
    """Compare two commits, in the class names of today; a, b: (name, commit)."""
    revs, reader = (a[1], b[1]), _Reader(root, objects, current_taxonomy(root))
    rows = [reader.labels(rev) for rev in revs]
    both = all(table is not None for table in rows)
    about: dict[str, Any] = {
        "batches": reader.batches(revs),
        "images": _images(*rows) if both else {},
        "actions": _actions(*rows) if both else {},
        "relabelled": _relabelled(*rows) if both else [],
        "params": changed(*(flatten(_params_at(root, rev)) for rev in revs)),
        "code": code_between(root, revs),
        "metrics": reader.metrics(revs),
    }
    return Versions(a=a[0], b=b[0], **about, unreadable=reader.unreadable, why=likely_why(**about))


def code_between(root: Path, revs: tuple[str, str]) -> list[str]:
    """Files that differ and that a stage of either version needs; no other file can have changed the model."""
    needed = {path for rev in revs for path in stage_dependencies(yaml_at(root, rev, "dvc.yaml"))}
    return git(root, "diff", "--name-only", *revs, "--", *CODE, *sorted(needed)).splitlines()


def _params_at(root: Path, rev: str) -> dict[str, Any]:
    """params.yaml of commit `rev` with today's names, so that a renamed key is not a change."""
    return current_values(parse_text(file_at(root, rev, "params.yaml") or "", f"params.yaml of {rev[:12]}") or {})


def changed(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Change]:
    """Key -> (in a, in b) of everything that differs, sorted by key."""
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def direction(name: str, a: Any, b: Any) -> str:
    """Is the figure `name` better in b than in a? "" if it does not measure quality, or cannot be compared."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
    if (
        not numbers
        or a == b
        or name.split(".")[-1] in NEUTRAL
        or name.startswith(("thresholds.", "weights.", "siblings."))
    ):
        return ""
    lower = any(part in name for part in LOWER)
    return "better" if (b < a) == lower else "worse"


class _Reader:
    """Reads what commits record in DVC; `unreadable` collects what could not be read, and why."""

    def __init__(self, root: Path, objects: Objects, taxonomy: Taxonomy):
        self.root, self.objects, self.taxonomy = root, objects, taxonomy
        self.unreadable: list[str] = []

    def labels(self, rev: str) -> pa.Table | None:
        """Every labelled sample of commit `rev`: id, split, given, action. None if it cannot be read."""
        table = self._given_labels(rev)
        return table and table.set_column(2, "given", read_column(table["given"], self.taxonomy))

    def _given_labels(self, rev: str) -> pa.Table | None:
        outs = outs_at(self.root, rev)
        if "artifacts/clean" in outs or "artifacts/validate" not in outs:
            found = self._file(rev, "artifacts/clean", "labels.parquet")
            return pq.read_table(io.BytesIO(found), columns=["id", "split", "given", "action"]) if found else None
        # an adopted model: nothing was cleaned
        if not (found := self._file(rev, "artifacts/validate", "accepted.parquet")):
            return None
        table = pq.read_table(io.BytesIO(found), columns=["id", "split", "label"])
        table = table.filter(pc.is_valid(table["label"])).rename_columns(["id", "split", "given"])
        return table.append_column("action", pa.array(["keep"] * len(table)))

    def batches(self, revs: tuple[str, str]) -> dict[str, list[dict]]:
        """Batches added, removed, tombstoned, set aside and allowed again between two commits.

        A batch counts as added or removed if a version was made with it; while it is tombstoned, none is.
        """
        found: dict[str, list[dict]] = {}
        stones = [yaml_at(self.root, rev, "tombstones.json") for rev in revs]
        try:
            held = [{batch.batch: batch for batch in batches_at(self.root, self.objects, rev)} for rev in revs]
            used = [
                {key: one for key, one in own.items() if key not in out} for own, out in zip(held, stones, strict=True)
            ]
            (a, b), (used_a, used_b) = held, used
            for name, ours, theirs in (("added", used_b, a), ("removed", used_a, b)):
                mine = [batch for key, batch in ours.items() if key not in theirs]
                found[name] = [{"batch": batch.batch, "kind": batch.kind, "rows": batch.rows} for batch in mine]
            answers = ({one.batch: one for one in label_batches_at(self.root, self.objects, rev)} for rev in revs)
            c, d = answers
            for name, ours, theirs in (("added", d, c), ("removed", c, d)):
                mine = [one for key, one in ours.items() if key not in theirs and key not in {*a, *b}]
                found[name] += [{"batch": one.batch, "kind": "labels", "rows": one.rows} for one in mine]
        except ObjectLost as lost:
            self.unreadable.append(f"the batches: {lost}")
            used_a, used_b = stones[1], stones[0]  # which of them a version was made with cannot be told
        new = {key: about for key, about in stones[1].items() if key not in stones[0]}
        entries = {
            "tombstoned": {key: about for key, about in new.items() if key in used_a},
            "set aside": {key: about for key, about in new.items() if key not in used_a},
            "allowed again": {key: about for key, about in stones[0].items() if key not in stones[1] and key in used_b},
        }
        for name, stone in entries.items():
            found[name] = [{"batch": key, "why": about.get("why", "")} for key, about in stone.items()]
        return {name: rows for name, rows in found.items() if rows}

    def metrics(self, revs: tuple[str, str]) -> dict[str, tuple[Any, Any, str]]:
        """Differences in metrics/evaluate.json, and in each class's recall from the evaluation's report."""
        figures_of = []
        for rev in revs:
            figures = flatten(without_used(yaml_at(self.root, rev, "metrics/evaluate.json")))
            if report := self._file(rev, "artifacts/evaluate", "report.json"):
                named = ((self.taxonomy.rename(row["class"]), row["recall"]) for row in json.loads(report)["classes"])
                figures |= {f"recall of {name}": recall for name, recall in named}
            figures_of.append(figures)
        found = changed(*figures_of).items()
        return {name: (a, b, direction(name, a, b)) for name, (a, b) in found if not name.endswith(".sentence")}

    def _file(self, rev: str, out: str, name: str) -> bytes | None:
        oid = outs_at(self.root, rev).get(out)
        try:
            if oid is None or name not in (files := self.objects.files(oid)):
                self.unreadable.append(f"{out}/{name} of {rev[:12]}: not recorded")
                return None
            return self.objects.read(files[name])
        except ObjectLost as lost:
            self.unreadable.append(f"{out}/{name} of {rev[:12]}: {lost}")
            return None


def _names(label: Any) -> list[str]:
    return [] if label is None else [label] if isinstance(label, str) else list(label)


def _counts(pairs: Any) -> Counter:
    return Counter((group, name) for group, label in pairs for name in _names(label))


def _by_group(a: Counter, b: Counter, groups: tuple[str, ...]) -> dict[str, dict[str, Change]]:
    keys = sorted({*a, *b})
    found = {
        group: {name: (a[group, name], b[group, name]) for g, name in keys if g == group and a[g, name] != b[g, name]}
        for group in groups
    }
    return {group: names for group, names in found.items() if names}


def _images(a: pa.Table, b: pa.Table) -> dict[str, dict[str, Change]]:
    counts = (_counts(zip(t["split"].to_pylist(), t["given"].to_pylist(), strict=True)) for t in (a, b))
    return _by_group(*counts, SPLITS)


def _actions(a: pa.Table, b: pa.Table) -> dict[str, dict[str, Change]]:
    counts = (_counts(zip(t["action"].to_pylist(), t["given"].to_pylist(), strict=True)) for t in (a, b))
    return _by_group(*counts, ACTIONS)


def _relabelled(a: pa.Table, b: pa.Table) -> list[dict]:
    """Samples of both versions whose given label differs: an annotation changed it."""
    before = dict(zip(a["id"].to_pylist(), a["given"].to_pylist(), strict=True))
    after = zip(b["id"].to_pylist(), b["given"].to_pylist(), strict=True)
    return [{"id": i, "a": before[i], "b": given} for i, given in after if i in before and before[i] != given]


def likely_why(
    batches: dict, images: dict, actions: dict, relabelled: list, params: dict, code: list, metrics: dict
) -> str:
    """One sentence: how the model changed, and which differences can have caused it, the likeliest ones named."""
    causes = []
    words = {"added": "new batches", "removed": "batches gone", "tombstoned": "batches tombstoned"}
    for name, word in (words | {"allowed again": "batches allowed again"}).items():
        if entries := [entry for entry in batches.get(name, ()) if entry.get("kind") != "labels"]:
            causes.append(f"{word}: {_some([entry['batch'] for entry in entries])}")
    for split, what in (("train", "training images"), ("test", "test images")):
        if by_class := images.get(split):
            grown = sorted(by_class.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
            causes.append(f"{what}: " + _some([f"{name} {b - a:+d}" for name, (a, b) in grown]))
    if relabelled:
        causes.append(f"{len(relabelled)} {'label' if len(relabelled) == 1 else 'labels'} corrected by people")
    moved = {name: sum(b - a for a, b in by_class.values()) for name, by_class in actions.items()}
    if cleaned := [f"{name} {count:+d}" for name, count in moved.items() if count and name != "queue"]:
        causes.append("cleaning: " + ", ".join(cleaned))
    if params:
        causes.append("params: " + _some([f"{name} {a} -> {b}" for name, (a, b) in params.items()]))
    if code:
        causes.append("code: " + _some(code))
    how = _how(metrics)
    if not causes:
        return f"{how}. Data, labels, params and code are the same: what remains is the machine or chance."
    alone = " Nothing else changed." if len(causes) == 1 else ""
    return f"{how}. What changed between them: {'; '.join(causes)}.{alone}"


def _how(metrics: dict[str, tuple[Any, Any, str]]) -> str:
    """How the model changed: the headline, the class that moved most with it, and the one that moved against it."""
    headline = next((name for name in ("test.balanced_accuracy", "test.macro_f1") if name in metrics), None)
    recalls = {n.removeprefix("recall of "): row for n, row in metrics.items() if n.startswith("recall of ") and row[2]}
    most = {}  # way -> (class, recall in A, recall in B)
    for way in ("better", "worse"):
        rows = [(name, a, b) for name, (a, b, found) in recalls.items() if found == way]
        if rows:
            most[way] = max(rows, key=lambda row: abs(row[2] - row[1]))
    if headline is None:
        how, way = "The figures of the test set are the same", ""
    else:
        a, b, way = metrics[headline]
        name = headline.removeprefix("test.").replace("_", " ")
        said, other = (f"{value:.3f}" if isinstance(value, float) else value for value in (a, b)), ""
        if "test.n" in metrics:  # the gate compares the two on the images that both were tested with
            other = ", on other test images ({:,}, then {:,})".format(*metrics["test.n"][:2])
        how = f"{name[0].upper()}{name[1:]} on test went from {{}} to {{}}{other}".format(*said)
        how += f" ({way})" if way and not other else ""
    for found in sorted(most, key=lambda one: one != way):
        name, a, b = most[found]
        how += f", {'most for' if found == way else f'{found} for'} {name} (recall {a:.3f} -> {b:.3f})"
    return how


def _some(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
