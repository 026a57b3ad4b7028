"""`evergreen queue --issues`: samples of the data set whose label a person should look at.

Second looks come first and are blind: the label is not shown. Then what a person chose by hand or what taught the model
mistakes, disagreements between annotators, near-duplicates with different labels, and labels that look wrong to the
newest run, of all splits. What a person decided since is left out.
"""

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.labels.people import Words, disagreements, read_words, same, waiting_looks
from flows.labels.pick_data import CHOSEN, MISTAKE, DataPick, picked
from flows.labels.samples import find_samples, iter_images
from flows.labels.stones import tombstones_now
from flows.repo.label_issues import newest_issues
from monitoring.review.asked import Asked, label_text
from tasks.common.errors import DataError
from tasks.common.params import Params
from tasks.labels.annotations import Label
from tasks.labels.taxonomy import Taxonomy

SECOND_LOOK, DISAGREE, DUPLICATES, SUSPICIOUS = "second look", "annotators disagree", "duplicates differ", "looks wrong"
MOST_LOOKS = 200  # second looks that wait at once: so many give an error rate to within 3 points


@dataclass(frozen=True)
class Issue:
    """Why one sample is asked about."""

    id: str
    why: str
    detail: str = ""
    prediction: Label = None
    confidence: float | None = None


def find_issues(root: Path, params: Params) -> list[Asked]:
    """All samples to look at, each once, the most urgent first. Raises DataError without a data set."""
    stones = tombstones_now(root, params)
    return issues_of(root, params, read_words(root, params, stones), stones)


def issues_of(root: Path, params: Params, words: Words, tombstones: Collection[str]) -> list[Asked]:
    """`find_issues`, from what people said."""
    found: dict[str, Issue] = {}
    for issue in (
        *(Issue(name, SECOND_LOOK) for name in waiting_looks(words, params.labels.second_look)[:MOST_LOOKS]),
        *_chosen(root, words),
        *_disagreements(words),
        *_duplicates(root, words),
        *_suspicious(root, words, params.data.task == "multilabel"),
    ):
        found.setdefault(issue.id, issue)
    return _asked(root, words, found, tombstones)


def counts(entries: list[Asked]) -> Counter[str]:
    """How many samples are asked about for which reason."""
    return Counter(entry.why for entry in entries)


def images(root: Path, entries: list[Asked]) -> Iterator[tuple[Asked, bytes | None]]:
    """(entry, encoded image) of `entries` in their order, with a block of images in memory at a time."""
    tombstones = tombstones_now(root)
    for start in range(0, len(entries), 64):
        part = entries[start : start + 64]
        table = find_samples(root / "data", [entry.id for entry in part], tombstones)
        content = dict(iter_images(root / "data", table))
        yield from ((entry, content.get(entry.id)) for entry in part)


def _chosen(root: Path, words: Words) -> Iterator[Issue]:
    """Labelled samples that somebody chose or that taught mistakes, until a person says something about them."""
    now = words.now()
    for entry in picked(root):
        if entry.why in (CHOSEN, MISTAKE) and now.get(entry.id) is not None and not _spoken_after(words, entry):
            yield Issue(entry.id, entry.why, entry.because, entry.prediction)


def _spoken_after(words: Words, entry: DataPick) -> bool:
    rows = words.said.get(entry.id, [])
    return any(row["role"] != "import" and row["at"] and row["at"] > entry.queued_at for row in rows)


def _disagreements(words: Words) -> Iterator[Issue]:
    for name, votes in sorted(disagreements(words).items()):
        said = "; ".join(f"{who or 'first given'}: {label_text(_label(label))}" for who, label in votes.items())
        yield Issue(name, DISAGREE, said)


def _duplicates(root: Path, words: Words) -> Iterator[Issue]:
    kept = newest_issues(root)
    now = words.now()
    for cluster in kept.clusters if kept else ():
        members = [name for name in cluster if now.get(name) is not None]
        if all(same(now[name], now[members[0]]) for name in members) or all(_decided(words, n) for n in members):
            continue
        for name in members:
            others = "; ".join(f"{other[:12]} {label_text(now[other])}" for other in members if other != name)
            yield Issue(name, DUPLICATES, f"looks the same: {others}"[:300])


def _suspicious(root: Path, words: Words, multilabel: bool) -> Iterator[Issue]:
    """What the newest run found suspicious, the most suspicious first."""
    kept = newest_issues(root)
    if kept is None:
        return
    now = words.now()
    with open(kept.table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            given, predicted = (_read(row[name], multilabel, words.taxonomy) for name in ("given", "predicted"))
            if row["id"] not in now or not same(now[row["id"]], given) or _spoken_since(words, row["id"], kept.seq):
                continue
            detail = f"{row['split']}: {row['reason'].replace('_', ' ')}"
            yield Issue(row["id"], SUSPICIOUS, detail, predicted, float(row["confidence"]))


def _spoken_since(words: Words, name: str, seq: int | None) -> bool:
    """Whether a person said something about the sample that the run did not know."""
    rows = [row for row in words.said.get(name, []) if row["role"] != "import"]
    return any(seq is None or row["seq"] > seq for row in rows)


def _decided(words: Words, name: str) -> bool:
    decision = words.decisions.get(name)
    return decision is not None and decision.rule == "reviewer" and decision.disputed is None


def _asked(root: Path, words: Words, found: dict[str, Issue], tombstones: Collection[str]) -> list[Asked]:
    table = find_samples(root / "data", found, tombstones)
    samples, now = {row["id"]: row for row in table.to_pylist()}, words.now()
    entries = []
    for name, issue in found.items():
        if name not in samples:
            continue
        row = samples[name]
        blind = issue.why == SECOND_LOOK
        entries.append(
            Asked(
                id=name,
                why=issue.why,
                prediction=issue.prediction,
                confidence=issue.confidence,
                given=None if blind else now[name],
                detail=issue.detail,
                source=row["source"],
                key=row.get("key"),
                path=None if blind else row["path"],  # class folders name the label
                at=row["taken_at"],
            )
        )
    return entries


def _read(cell: str, multilabel: bool, taxonomy: Taxonomy) -> Label:
    """A label as artifacts/clean/queue.csv writes it, in the names of today: classes may have changed since."""
    try:
        label = json.loads(cell) if multilabel else cell
        return sorted({taxonomy.rename(name) for name in label}) if multilabel else taxonomy.rename(label)
    except ValueError:
        raise DataError(f"{cell[:60]!r} in the queue of label issues is not a list of labels") from None


def _label(label: str | tuple[str, ...]) -> Label:
    return label if isinstance(label, str) else list(label)
