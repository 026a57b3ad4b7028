"""Plans of changes of the hard set: what would happen, in sentences, before anything does.

A training image that becomes a hard one leaves training from the next run on. Images of the test and calibration splits
stay there: chosen images that leave a split change what it measures. A test image can be marked as never to be wrong
again where it is.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.hard_set.candidates import Candidate, without_near
from flows.hard_set.content import HardSet, Member, read_hard_set
from flows.publishing.asked_sets import AskedSet, count_looks, data_of, trained_on
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.text import join_names
from tasks.dataset.hard_set import What, version_of
from tasks.dataset.shards import next_seq
from tasks.gate.looks import measure_looks
from tasks.labels.reading import names_of
from tasks.releases.looks import read_looks
from tasks.releases.pointer import Pointer
from tasks.releases.store import open_store

STAYS = {
    "test": "in the test split, which keeps its images: models are judged on it already, and chosen images that leave "
    "it would flatter every later figure; `evergreen hard never-again` marks an image there",
    "calibration": "in the calibration split, which keeps its images: probabilities are fitted to a fair sample",
    "hard": "in the hard set already",
    "no label": "excluded, or without a label: no model can be judged on it",
    "synthetic": "synthetic: models are judged on real images only",
    "out": "of a batch that is not used",
    "near": "left out, as a near-duplicate of an image of the hard set or of one that is taken",
    "class quota": "beyond the quota of a class",
    "source quota": "beyond the quota of a source",
    "not in": "not in the hard set",
    "not judged": "neither in the hard set nor in the test split: no model is judged on them",
    "marked": "marked already",
    "not marked": "not marked",
}
FEW = 50  # training images of a class that keeps fewer is worth a word


@dataclass(frozen=True)
class Limits:
    """Rules of a refresh. 0: no limit."""

    per_class: int = 0  # images of one class in the set
    per_source: int = 0  # images of one source in the set
    near: bool = False  # leave out near-duplicates


@dataclass(frozen=True)
class Plan:
    """What would change."""

    what: What
    take: list[Candidate]
    left: dict[str, list[str]] = field(default_factory=dict)  # key of STAYS -> ids
    images: int = 0  # of the set afterwards
    moved: int = 0  # of those taken, training images
    keeps: Mapping[str, int] = field(default_factory=dict)  # class of a moved image -> training images that stay
    trained: tuple[str, int] | None = None  # the live version, and how many of the images it was trained on
    looks: str = ""  # what the looks say of the set afterwards
    version: str | None = None  # of the set afterwards

    def lines(self) -> list[str]:
        """What will happen, for the terminal and the page."""
        count = len(self.take)
        found = [_HEAD[self.what].format(images=_images(count), s="" if count != 1 else "es", be=_be(count))]
        if self.what == "add" and count:
            classes = Counter(name for one in self.take for name in names_of(one.label))
            found[0] += f": {join_names([f'{name} {n:,}' for name, n in classes.most_common()], 8)}"
        if self.moved:
            small = [f"{name} keeps {n:,}" for name, n in sorted(self.keeps.items()) if n < FEW]
            rest = f" ({join_names(small)} training images)" if small else ""
            verb = "leave" if self.moved != 1 else "leaves"
            found.append(f"{_images(self.moved)} of these {verb} training from the next run on{rest}")
        if self.trained and self.trained[1]:
            version, number = self.trained
            found.append(
                f"{version} was trained on {number:,} of them, so it looks better on these than it is: they do not "
                f"count in the comparison with {version}, until a model that was not trained on them is live"
            )
        for key, ids in self.left.items():
            found.append(f"{_images(len(ids))} {_be(len(ids))} {STAYS[key]}")
        if self.what in ("add", "remove") and count:
            named = f" ({self.version})" if self.version else ""
            found.append(f"the hard set then has {_images(self.images)}{named}; {self.looks}")
        return found


_HEAD = {
    "add": "{images} go{s} into the hard set",
    "remove": "{images} go{s} out of the hard set",
    "never": "{images} {be} marked: the gate rejects every model that gets one wrong",
    "allow": "{images} {be} no longer marked as never to be wrong again",
}


def plan_add(
    root: Path,
    candidates: Sequence[Candidate],
    limits: Limits | None = None,
    *,
    counts: Mapping[str, int],
    live: Pointer | None = None,
) -> Plan:
    """What it would do to put `candidates` into the hard set, the first ones first.

    counts: labelled training images by class. live: the live version.
    """
    now, limits = read_hard_set(root), limits or Limits()
    left: dict[str, list[str]] = defaultdict(list)
    fit: list[Candidate] = []
    for one in candidates:
        if (why := one.stays()) is not None:
            left[why].append(one.id)
        else:
            fit.append(one)
    if limits.near:
        fit, near = without_near(root, fit, [one.id for one in now.members])
        if near:
            left["near"] = near
    fit = _within(fit, now, limits, left)
    moved = [one for one in fit if one.split == "train"]
    leaving = Counter(name for one in moved for name in names_of(one.label))
    rows = {one.id: {"was": "train"} for one in moved}
    batch_of = {one.id: one.batch for one in moved}
    seen = len(trained_on(root, data_of(root, live), rows, batch_of)) if live and moved else 0
    version, looks, images = _afterwards(root, now, [one.id for one in fit], ())
    return Plan(
        "add", fit, dict(left), images, len(moved), {name: counts.get(name, 0) - n for name, n in leaving.items()},
        (live.version, seen) if live else None, looks, version,
    )  # fmt: skip


def _within(fit: list[Candidate], now: HardSet, limits: Limits, left: dict[str, list[str]]) -> list[Candidate]:
    """Those of `fit` within the quotas; of a multi-label image every class must have room."""
    classes, sources, kept = now.classes(), now.sources(), []
    for one in fit:
        names = names_of(one.label)
        if limits.per_class and any(classes[name] >= limits.per_class for name in names):
            left["class quota"].append(one.id)
        elif limits.per_source and sources[one.source or ""] >= limits.per_source:
            left["source quota"].append(one.id)
        else:
            kept.append(one)
            classes.update(names)
            sources[one.source or ""] += 1
    return kept


def plan_remove(root: Path, ids: Sequence[str]) -> Plan:
    """What it would do to take `ids` out of the hard set."""
    now = read_hard_set(root)
    held = {one.id: one for one in now.members}
    take = [_of(held[name]) for name in dict.fromkeys(ids) if name in held]
    other = [name for name in dict.fromkeys(ids) if name not in held]
    version, looks, images = _afterwards(root, now, (), {one.id for one in take})
    return Plan("remove", take, {"not in": other} if other else {}, images, looks=looks, version=version)


def plan_mark(root: Path, ids: Sequence[str], never: bool, judged: Mapping[str, Candidate]) -> Plan:
    """What it would do to mark `ids` as never to be wrong again, or to take the mark back.

    judged: those of `ids` that are in the hard set or the test split.
    """
    now, take, left = read_hard_set(root), [], defaultdict(list)
    for name in dict.fromkeys(ids):
        if (name in now.never) == never:
            left["marked" if never else "not marked"].append(name)
        elif never and name not in judged:
            left["not judged"].append(name)
        else:
            take.append(judged.get(name) or Candidate(name, None, None, None))
    return Plan("never" if never else "allow", take, dict(left), len(now.members))


def _of(one: Member) -> Candidate:
    return Candidate(one.id, one.label, one.source, "hard", batch=one.batch)


def _afterwards(root: Path, now: HardSet, new: Sequence[str], gone: Collection[str]) -> tuple[str | None, str, int]:
    """(version, what the looks say, images) of the set with `new` and without `gone`."""
    params = load_params(root / "params.yaml")
    stay = {one.id for one in now.asked} - set(gone)
    if not (ids := stay | set(new)):
        return None, "no model is asked anything", 0
    since = min((one.seq for one in now.asked if one.id in stay), default=next_seq(root / "data"))
    ledger = read_looks(open_store(params.store, root).store)
    (asked,) = count_looks([AskedSet("hard", "", len(ids), since)], ledger)
    return version_of(ids, "hard"), measure_looks(asked, params.gate.look_margin).sentence(), len(ids)


def _be(count: int) -> str:
    return "are" if count != 1 else "is"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def check_reason(why: str) -> str:
    """`why` without spaces around it. Raises EvergreenError if it is empty."""
    if not (said := why.strip()):
        raise EvergreenError("a reason is missing: say why (--why), for the people who read this later")
    return said
