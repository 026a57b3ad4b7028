"""What people said about the data set: labels now, who disagrees, how good each annotator is."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tasks.common.params import Params, load_params
from tasks.dataset.shards import read_tombstones
from tasks.labels.agreed import qualities
from tasks.labels.annotations import Decision, Label, by_sample, decide_all, read_annotations, standing
from tasks.labels.consensus import Quality
from tasks.labels.effective import first_labels
from tasks.labels.reading import read_column, read_votes
from tasks.labels.second_look import ErrorRate, Look, chosen, error_rate, second_look
from tasks.labels.taxonomy import Taxonomy, read_taxonomy
from tasks.labels.votes import ballot, named_ballots


@dataclass(frozen=True)
class Words:
    """The live samples, and what people said about them. N samples."""

    ids: list[str]
    firsts: list[Label]  # (N,) labels as first given
    said: dict[str, list[dict]]  # id -> standing annotations in order of time
    decisions: dict[str, Decision]  # id -> what counts, where there is an annotation
    taxonomy: Taxonomy  # all labels are in its names

    def first(self) -> dict[str, Label]:
        """Id -> the label first given."""
        return dict(zip(self.ids, self.firsts, strict=True))

    def error_rate(self, share: float) -> ErrorRate:
        """How often people err, by the second looks at a random `share` of the samples."""
        return error_rate(looks_of(self, share))

    def now(self) -> dict[str, Label]:
        """Id -> the label that counts."""
        return self.first() | {name: decision.label for name, decision in self.decisions.items()}


@dataclass(frozen=True)
class Annotator:
    """What is known about one person's labels."""

    name: str
    labels: int  # samples they labelled
    estimated: Quality | None  # from the other annotators' votes
    second_looks: ErrorRate  # random, so without bias


def read_words(root: Path, params: Params, tombstones: Collection[str] | None = None) -> Words:
    """Read labels and annotations of the data set in `root`, in the names of today.

    tombstones: batches to leave out; None: those of tombstones.json.
    """
    data = root / "data"
    tombstones = read_tombstones(root) if tombstones is None else tombstones
    annotations, taxonomy = read_annotations(data, tombstones), read_taxonomy(data)
    samples = first_labels(data, tombstones)
    ids = samples["id"].to_pylist()
    found = decide_all(samples["id"], samples["label"], annotations, taxonomy, params.labels.consensus)
    given = samples["label"].to_pylist()
    firsts = read_column(samples["label"], taxonomy).to_pylist()
    place, said = {name: row for row, name in enumerate(ids)}, {}
    for name, rows in by_sample(annotations).items():
        row = place.get(name)
        original, votes = read_votes(None if row is None else given[row], standing(rows), taxonomy)
        said[name] = sorted(votes, key=_time)
        if row is not None:
            firsts[row] = original  # where somebody named its part of a split class, it counts as that part
    return Words(ids, firsts, said, {ids[row]: decision for row, decision in found.items()}, taxonomy)


def _time(row: dict) -> tuple:
    return (row["at"] is not None, row["at"])


def annotators(words: Words, share: float) -> list[Annotator]:
    """Every person that labelled something, with how good their labels are; the worst first."""
    first, ballots, count = words.first(), [], defaultdict(int)
    for name, rows in words.said.items():
        if name in first:
            found = named_ballots(first[name], rows)
            ballots.append(found)
            for person in found:
                count[person] += 1
    estimated, looks = qualities(ballots) if ballots else {}, looks_of(words, share)
    people = [
        Annotator(name, count[name], estimated.get(name), error_rate(look for look in looks if look.annotator == name))
        for name in count
        if name
    ]
    return sorted(people, key=lambda one: (one.estimated.right if one.estimated else 2.0, one.name))


def people_err(root: Path) -> ErrorRate:
    """How often people err in the data set of `root`, by second looks."""
    params = load_params(root / "params.yaml")
    return read_words(root, params).error_rate(params.labels.second_look)


def looks_of(words: Words, share: float) -> list[Look]:
    """The second looks that were taken, of the samples chosen for one."""
    first = words.first()
    taken = (
        second_look(name, first[name], words.said.get(name, [])) for name in chosen(words.said, share) if name in first
    )
    return [look for look in taken if look is not None]


def waiting_looks(words: Words, share: float) -> list[str]:
    """Ids of labelled samples that wait for a second look, in random order."""
    first, now = words.first(), words.now()
    labelled = (name for name, label in now.items() if label is not None)
    return [
        name for name in chosen(labelled, share) if second_look(name, first[name], words.said.get(name, [])) is None
    ]


def disagreements(words: Words) -> dict[str, dict[str, Label]]:
    """Id -> {annotator: label}, where annotators differ and no reviewer has decided, or was contradicted since."""
    first, found = words.first(), {}
    for name, decision in words.decisions.items():
        settled = decision.rule == "reviewer" and decision.disputed is None
        if settled or decision.excluded:
            continue
        votes = named_ballots(first[name], words.said.get(name, []))
        if len(set(votes.values())) > 1:
            found[name] = votes
    return found


def same(a: Label, b: Label) -> bool:
    """Whether two labels are the same, whatever the order of a label set."""
    return ballot(a) == ballot(b)
