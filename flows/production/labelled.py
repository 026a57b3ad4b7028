"""The answers in a file of labels, and what became of them."""

from dataclasses import dataclass, field
from datetime import datetime

from flows.labels.take import Taken, Waiting
from tasks.ingest.batch import IngestReport

NAMED = 9  # rows beside the first that are named for one reason


@dataclass
class Labelled:
    """The outcome of importing one file of labels."""

    rows: int = 0
    left: int = 0  # without a label: not seen yet, or skipped
    kept: int = 0  # new in the log
    repeated: int = 0  # already in the log
    refused: list[str] = field(default_factory=list)  # "labels.csv line 3: why"
    untimed: int = 0  # labels whose time cannot be read: they count as given now
    without_image: int = 0  # only a thumbnail is in the log: counts for accuracy, not for training
    notes: list[str] = field(default_factory=list)  # how the file was understood
    ingested: IngestReport | None = None
    corrected: Taken | Waiting | None = None  # answers about samples of the data set

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        found = list(self.notes)
        found.append(f"{self.kept} labels taken, {self.repeated} already known, {self.left} rows without a label")
        if self.corrected and not (self.kept or self.repeated):
            found[-1] = f"production: no label; {self.left} rows without a label"
        found += [f"  refused {line}" for line in _by_reason(self.refused)]
        if self.untimed:
            found.append(
                f"  {self.untimed} times cannot be read (see data.time_format): these labels count as given now"
            )
        if self.without_image:
            found.append(f"  {self.without_image} of them have only a thumbnail in the log: not used for training")
        if self.ingested:
            found.append(self.ingested.sentence())
        if self.corrected:
            found.append(f"data set: {self.corrected.sentence()}")
        return found

    @property
    def useless(self) -> bool:
        """Nothing in the file could be used."""
        told = self.corrected
        known = told.repeated if isinstance(told, Taken) else 0
        return bool(self.refused) and not (self.kept or self.repeated or known or (told and told.added))


def _by_reason(refused: list[str], most: int = 10) -> list[str]:
    """`refused` ("place: reason") with one line for each reason, at most so many."""
    places: dict[str, list[str]] = {}
    for line in refused:
        place, _, reason = line.partition(": ")
        places.setdefault(reason, []).append(place)
    lines = []
    for reason, (first, *others) in list(places.items())[:most]:
        file = first.partition(" line ")[0]
        named = ", ".join([first, *(place.removeprefix(f"{file} ") for place in others[:NAMED])])
        more = len(others[NAMED:])
        lines.append(f"{named}{f' and {more} more' if more else ''}: {reason}")
    if left := sum(map(len, list(places.values())[most:])):
        lines.append(f"... and {left} more")
    return lines


@dataclass(frozen=True)
class Given:
    """One answer of a file of labels; `where` names its place for error messages."""

    where: str
    id: str
    label: str | list[str] | None
    annotator: str
    at: datetime | None
    exclude: bool = False  # instead of a label
    why: str = ""
    role: str = "annotator"  # one of tasks.common.schemas.ROLES
