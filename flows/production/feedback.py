"""Take labels that clients of the predictor sent into the production log, and images into data/.

Not every label is taken (flows.production.feedback_verdicts). The others wait, for WAIT_DAYS at most; a person may take
labels beyond the quota. The monitor takes labels into the log, where they count for the live accuracy; housekeeping
takes the images into data/ once a night, as one commit.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.labels.journal import Answer
from flows.labels.samples import held_ids
from flows.labels.take import take
from flows.production.feedback_verdicts import DROPPED, TAKE, WHY, Judged, annotator_of, client_of, judge
from flows.production.finish import TAKE_SECONDS
from flows.production.label_images import ingest_images
from flows.production.labelled import Given, Labelled
from flows.production.labels import keep_labels
from monitoring.log.feedback import Decided, FeedbackJournal, Waiting
from monitoring.log.production_log import Log, open_log
from tasks.common.files import locked
from tasks.common.params import load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.person import person
from tasks.common.plural import counted
from tasks.dataset.shards import read_tombstones
from tasks.labels.annotations import read_annotations

WAIT_DAYS = 30


@dataclass
class TakenFeedback:
    """What became of the labels that waited."""

    result: Labelled = field(default_factory=Labelled)
    verdicts: Counter[str] = field(default_factory=Counter)  # of labels that were not taken
    corrected: int = 0  # labels of images of data/ that the same client had labelled before
    expired: int = 0
    waiting: int = 0

    @property
    def logged(self) -> int:
        """Labels that are new in the log."""
        return self.result.kept

    @property
    def changes(self) -> int:
        """Labels that are new in the log or in data/."""
        return self.logged + (self.result.ingested.taken if self.result.ingested else 0) + self.corrected

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        found = [f"{counted(self.logged, 'label')} of clients taken, {self.waiting} left"]
        found += [f"  {count} {WHY[verdict]}" for verdict, count in self.verdicts.items()]
        if self.expired:
            found.append(f"  {self.expired} are dropped: they could not be taken for {WAIT_DAYS} days")
        if self.result.without_image:
            images = counted(self.result.without_image, "image")
            found.append(f"  {images} with only a thumbnail in the log: not used for training")
        if self.result.ingested:
            found.append(self.result.ingested.sentence())
        if self.corrected:
            found.append(f"{counted(self.corrected, 'label')} in data/ changed")
        return found


def take_feedback(
    root: Path,
    *,
    ingest: bool = True,
    quota: bool = True,
    client: str | None = None,
    commit: bool = True,
    now: datetime | None = None,
    seconds: float = TAKE_SECONDS,
    why: str = "",
) -> TakenFeedback:
    """Take the labels that wait; a killed call is completed by the next one.

    ingest: also take the images into data/. Without it they wait for a later call, and the labels count for the live
    accuracy at once. quota: hold each client and source to its quota. client: only labels of this one.
    seconds: to wait for another call that takes labels. why: a person's reason, kept with the labels that wait.
    Raises EvergreenError.
    """
    root, now = main_checkout(root), now or datetime.now(UTC)
    params = load_params(root / "params.yaml")
    log, found = open_log(root, params), TakenFeedback()
    journal = FeedbackJournal(log.store)
    if not journal.waiting().keys:
        return found
    with locked(state_dir(root) / "labels.lock", seconds, "taking answers about samples"):
        read = journal.waiting()
        judged, located = judge(root, params, log, read.labels, quota, client)
        left = [each.one for each in judged if each.verdict not in (TAKE, *DROPPED)]
        young = [one for one in left if now - one.label.at < timedelta(days=WAIT_DAYS)]
        found.expired = len(left) - len(young)
        found.verdicts = Counter(each.verdict for each in judged if each.verdict != TAKE)
        chosen = _newest([each for each in judged if each.verdict == TAKE])
        given = [_given(each) for each in chosen]
        keep_labels(log, given, {}, found.result)
        if ingest:
            _into_data(root, log, given, located, found, commit)
        else:
            young += [Waiting(each.one.label._replace(name=each.id), True) for each in chosen]
        if Counter(young) != Counter(read.labels):
            journal.replace(read, young)
        if why:
            what = "taken" if quota else "taken beyond the quota"
            journal.decide(what, client or "", len(judged) - found.verdicts.total(), person(root), why)
        found.waiting = len(young)
    return found


def waiting_feedback(root: Path) -> list[Judged]:
    """The labels that wait, oldest first, and what would become of them now."""
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    return judge(root, params, log, FeedbackJournal(log.store).waiting().labels)[0]


def decided_lately(root: Path, most: int) -> list[Decided]:
    """What people decided about labels of clients, the newest first."""
    return FeedbackJournal(open_log(root, load_params(root / "params.yaml")).store).decided(most)


def drop_feedback(root: Path, client: str, why: str = "") -> int:
    """Delete the labels of `client` that wait; returns how many. why: a person's reason, which is kept."""
    root = main_checkout(root)
    log = open_log(root, load_params(root / "params.yaml"))
    journal = FeedbackJournal(log.store)
    with locked(state_dir(root) / "labels.lock", TAKE_SECONDS, "taking answers about samples"):
        read = journal.waiting()
        left = [one for one in read.labels if one.label.client != client]
        if len(left) < len(read.labels):
            journal.replace(read, left)
            journal.decide("dropped", client, len(read.labels) - len(left), person(root), why)
    return len(read.labels) - len(left)


def _newest(judged: Sequence[Judged]) -> list[Judged]:
    """The last word of each annotator about each image."""
    return list({(each.id, annotator_of(each.one)): each for each in judged}.values())


def _given(each: Judged) -> Given:
    said = each.one.label
    return Given("", each.id, each.label, annotator_of(each.one), said.at, why=said.why)


def _into_data(
    root: Path, log: Log, given: list[Given], located: dict[str, dict], found: TakenFeedback, commit: bool
) -> None:
    """Take new images into data/. Of images that it has, feedback votes only on those that came in by feedback."""
    held = held_ids(root / "data", [one.id for one in given])
    voted = _from_feedback(root, held)
    if new := [one for one in given if one.id not in held]:
        ingest_images(root, log, new, located, {}, found.result, commit)
    if told := [one for one in given if one.id in voted]:
        said = [Answer(id=one.id, label=one.label, annotator=one.annotator, at=one.at, why=one.why) for one in told]
        found.corrected = take(root, said, commit=commit, why="feedback of clients").added


def _from_feedback(root: Path, held: set[str]) -> set[str]:
    """The images of `held` whose first word in data/ was a client's."""
    if not held:
        return set()
    first: dict[str, str | None] = {}
    for row in read_annotations(root / "data", read_tombstones(root)).to_pylist():
        if row["id"] in held:
            first.setdefault(row["id"], row["annotator"])
    return {name for name, annotator in first.items() if annotator is not None and client_of(annotator) is not None}
