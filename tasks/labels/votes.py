"""The label that most people gave; the label first given is one vote, too."""

from collections import Counter
from collections.abc import Sequence

EXCLUDE = object()  # the ballot "leave this sample out"


def newest_votes(rows: Sequence[dict]) -> list[dict]:
    """The newest of `rows` (in order of time) of each annotator; without a name, each row is a vote."""
    return list({row["annotator"] or number: row for number, row in enumerate(rows)}.values())


def is_original(row: dict, original: str | list[str] | None) -> bool:
    """Whether an annotation is the label first given, which ingest records again where its annotator has a name.

    One of production is an annotator's; what people say later is in a batch of labels alone.
    """
    ingested = row["role"] == "import" or (row["role"] == "annotator" and (row.get("batch") or "").startswith("b-"))
    given = row["annotator"] and ingested and row["label"] is not None
    return bool(given) and ballot(row["label"]) == ballot(original)


def named_ballots(original: str | list[str] | None, rows: Sequence[dict]) -> dict[str, str | tuple[str, ...]]:
    """The newest label of each annotator among `rows` (in order of time), by name, first the original label.

    "" is who gave the original label, if its annotator has no name. Exclusions are not labels.
    """
    votes, found = newest_votes(rows), {}
    named = any(is_original(row, original) for row in rows)  # also if this person has said something else since
    if original is not None and not named:
        found[""] = ballot(original)
    for number, row in enumerate(votes):
        if not row["exclude"] and row["label"] is not None:
            found[row["annotator"] or f"import {number + 1}"] = ballot(row["label"])
    return found


def majority(original: str | list[str] | None, rows: Sequence[dict]) -> str | list[str] | object | None:
    """The label that wins, or EXCLUDE; None without any vote. A tie keeps the original, else the first given.

    None too where imports that name nobody and no time contradict each other: neither is believed (tasks.ingest.votes).
    """
    votes = newest_votes(rows)
    ballots = [EXCLUDE if row["exclude"] else ballot(row["label"]) for row in votes]
    first = None if original is None else ballot(original)
    # where its annotator has a name, ingest also records the original label as a vote: count it once
    if not any(row["annotator"] and not row["exclude"] and ballot(row["label"]) == first for row in rows):
        ballots = [first, *ballots]
    count = Counter(one for one in ballots if one is not None)
    if not count:
        return None
    best = max(count.values())
    winners = [one for one in count if count[one] == best]  # in order of first mention, original first
    if first is None and len(winners) > 1 and all(_is_nameless(row) for row in votes):
        return None
    chosen = first if first is not None and first in winners else winners[0]
    return list(chosen) if isinstance(chosen, tuple) else chosen


def _is_nameless(row: dict) -> bool:
    """Whether an import said neither who gave a label nor when: such votes have no order."""
    return row["role"] == "import" and not row["annotator"] and row["at"] is None


def ballot(label: str | list[str] | None) -> str | tuple[str, ...] | None:
    """A label as a key: the order of a multi-label sample's classes does not matter."""
    return label if label is None or isinstance(label, str) else tuple(sorted(set(label)))
