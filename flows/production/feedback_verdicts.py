"""What becomes of each label that a client of the predictor sent and that waits.

A client is a program with a token. It may be wrong, or in the wrong hands, so its labels count for less than a
person's. Each client and each source gives at most review.max_source_share of all labels of production
(flows.production.feedback_quota). A label of a person is never contradicted. People behind one token have one vote for
each image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flows.labels.resolve import resolve
from flows.production.feedback_quota import Offer, within_quota
from flows.production.finish import locate
from flows.production.labels import FULL_ID, known_classes
from monitoring.log.feedback import Waiting
from monitoring.log.production_log import Log
from tasks.common.params import Params
from tasks.sources import fields
from tasks.sources.fields import Unusable

MARK = "feedback:"  # annotator of a label: "feedback:<client>/<who>"

TAKE, OTHER, UNKNOWN, NO_CLASS, QUOTA = "take", "other", "image", "label", "quota"
PERSON, SPOKEN = "person", "spoken"
WHY = {
    TAKE: "will be taken",
    OTHER: "wait: they are of other clients",
    UNKNOWN: "wait for their image: no answer in the production log has this id or key, or several have it",
    NO_CLASS: "wait: their label is not a class",
    QUOTA: "wait: their client or source has reached its quota (review.max_source_share)",
    PERSON: "are dropped: a person has labelled the image",
    SPOKEN: "are dropped: somebody else with the same token has labelled the image",
}
DROPPED = (PERSON, SPOKEN)


class Judged(NamedTuple):
    """A label that waits, the image that it is about, and what becomes of it."""

    one: Waiting
    id: str | None
    label: str | list[str] | None
    verdict: str  # a key of WHY


def judge(
    root: Path, params: Params, log: Log, waiting: Sequence[Waiting], quota: bool = True, client: str | None = None
) -> tuple[list[Judged], dict[str, dict]]:
    """What becomes of each label that waits, and where the log has the images (id -> LOCATED)."""
    texts = [one.label.name for one in waiting if not FULL_ID.fullmatch(one.label.name)]
    named = resolve(root, texts, log=log, data=False).found if texts else {}
    ids = {one.label.name: named.get(one.label.name, one.label.name) for one in waiting}
    located = locate(log, {name for name in ids.values() if FULL_ID.fullmatch(name)}, {})
    classes = known_classes(root, params)
    rows = log.labels().to_pylist()
    people = {row["id"] for row in rows if not row["annotator"].startswith(MARK)}
    voices = {(client_of(row["annotator"]), row["id"]): row["annotator"] for row in rows}
    found = []
    for one in waiting:
        image, label = ids[one.label.name], _label(one, params.data.task, classes)
        verdict = TAKE
        if client not in (None, one.label.client):
            verdict = OTHER
        elif image not in located:
            verdict = UNKNOWN
        elif label is None:
            verdict = NO_CLASS
        elif not one.logged and image in people:
            verdict = PERSON
        elif voices.setdefault((one.label.client, image), annotator_of(one)) != annotator_of(one):
            verdict = SPOKEN
        found.append(Judged(one, image if image in located else None, label, verdict))
    if quota:
        found = _held_to_quota(log, found, located, rows, params.review.max_source_share)
    return found, located


def annotator_of(one: Waiting) -> str:
    """Who gave the label, for records: its client is part of the name."""
    return f"{MARK}{one.label.client}/{one.label.who}"


def client_of(annotator: str) -> str | None:
    """The client whose feedback has this annotator; None for a person's own label."""
    return annotator.removeprefix(MARK).partition("/")[0] if annotator.startswith(MARK) else None


def _held_to_quota(
    log: Log, judged: list[Judged], located: dict[str, dict], rows: list[dict], share: float
) -> list[Judged]:
    earlier = {(row["id"], client_of(row["annotator"])) for row in rows if row["picked"] == "feedback"}
    places = located | locate(log, {name for name, _ in earlier} - set(located), {})
    source = {name: place["source"] for name, place in places.items()}
    had = [Offer(name, source.get(name), client) for name, client in sorted(earlier, key=str)]
    wanted = [each for each in judged if each.verdict == TAKE]
    offered = [Offer(each.id, source[each.id], each.one.label.client) for each in wanted]
    allowed = within_quota(offered, had, {row["id"] for row in rows}, share)
    over = {id(each) for each, fits in zip(wanted, allowed, strict=True) if not fits}
    return [each._replace(verdict=QUOTA) if id(each) in over else each for each in judged]


def _label(one: Waiting, task: str, classes: Sequence[str] | None) -> str | list[str] | None:
    """The label as the data set writes it; None if it is not a class, or not a label at all."""
    told = list(one.label.label) if isinstance(one.label.label, tuple) else one.label.label
    try:
        return fields.label(told, task, classes)
    except Unusable:
        return None
