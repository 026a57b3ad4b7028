"""What a form or the page's script sends about one image, and what comes of it."""

from dataclasses import dataclass
from urllib.parse import parse_qs

from flows.console.labelling.state import Labelling
from flows.console.shell.posted import Posted
from flows.labels.queues import Entry
from flows.labels.sitting import STANDS, Who, check_label, give, take_back
from monitoring.review.asked import Label, label_text
from tasks.common.errors import EvergreenError

ACTIONS = ("label", "suggestion", "given", "none", "exclude", "other", "skip", "again")
MOST_WHY = 500
MOST_LABELS = 200  # of one image
NOTHING = "Choose at least one class, or say that none of them applies."


@dataclass(frozen=True)
class Outcome:
    """What became of it, in a sentence."""

    said: str
    entry: Entry


def act(found: Labelling, queue: str, who: Who, form: Posted) -> Outcome:
    """Do what `form` says about its image: fields id, action (one of ACTIONS; "" is label), label, why.

    An answer is on disk when this returns. Raises EvergreenError for one that cannot be taken.
    """
    image, action = form.text("id", most=100), form.text("action") or "label"
    entry = found.queues.find(queue, image, found.params, found.console.log())
    if entry is None:
        raise EvergreenError(f"image {image[:12]} is not there any more: it was erased, or its batch was tombstoned")
    if action == "skip":
        found.sittings.skip(who.name, image)
        return Outcome("Skipped: it comes again in your next sitting.", entry)
    if action == "other":
        found.sittings.pass_on(who.name, image)
        return Outcome("Somebody else is asked.", entry)
    if action == "again":
        found.sittings.take_up(who.name, image)
        return Outcome("Here it is again.", entry)
    why = form.text("why", most=MOST_WHY)
    if action == "exclude":
        give(found.root, found.sittings, entry, who, exclude=True, why=why)
        return Outcome("Saved: this image is used for nothing.", entry)
    label = label_of(found, entry, action, form)
    give(found.root, found.sittings, entry, who, label, why=why)
    return Outcome(f"Saved: {label_text(label, 'none of the classes')}.", entry)


def entries(form: Posted) -> list[Posted]:
    """The answers that a page's script sent at once, in order: each field `entry` is a form in a form."""
    sent = (parse_qs(text, keep_blank_values=True, max_num_fields=MOST_LABELS + 9) for text in form.all("entry"))
    return [Posted(fields) for fields in sent]


def try_to_act(found: Labelling, queue: str, who: Who, form: Posted) -> dict[str, str]:
    """`act`, as what the page's script is told: "said", or "refused" with the reason."""
    try:
        return {"said": act(found, queue, who, form).said}
    except EvergreenError as error:
        return {"refused": str(error)}


def label_of(found: Labelling, entry: Entry, action: str, form: Posted) -> Label:
    """The label that `action` means. Raises EvergreenError where there is none."""
    classes, _ = found.classes()
    if action in ("suggestion", "given"):
        label = None if entry.blind else (entry.asked.prediction if action == "suggestion" else entry.asked.given)
        if label is None:
            raise EvergreenError(f"this image has no {'suggested' if action == 'suggestion' else 'given'} label")
        return check_label(label, classes, found.multilabel, [label] if isinstance(label, str) else label)
    if action == "none" and found.multilabel:
        return []
    if action != "label":
        raise EvergreenError(f"{action[:40]!r} is not an action: expected one of {', '.join(ACTIONS)}")
    names = [name for name in form.all("label") if name][:MOST_LABELS]
    if not names:
        raise EvergreenError(NOTHING if found.multilabel else "Choose a class.")
    return check_label(names if found.multilabel else names[0], classes, found.multilabel)


def undo(found: Labelling, who: Who, image: str = "") -> Outcome:
    """Take the person's last answer back. image: only if it is about this one. Raises EvergreenError."""
    last = next(iter(found.sittings.said(who.name)), None)
    if last is None or (image and last.answer.id != image):
        raise EvergreenError("there is no answer of yours to take back")
    entry = found.queues.find(last.queue, last.answer.id, found.params, found.console.log())
    _, became = take_back(found.root, found.sittings, who.name) or (last, STANDS)
    if entry is None:
        raise EvergreenError(f"taken back, but image {last.answer.id[:12]} is not there any more")
    if became == STANDS:
        return Outcome("This answer is in the data set: give another, which replaces it.", entry)
    return Outcome("Taken back.", entry)


def accept(found: Labelling, queue: str, who: Who, form: Posted) -> int:
    """Give the images `id` of a form the label that is suggested for them, but for those in `out`; how many."""
    crossed, count = set(form.all("out")), 0
    waiting = {one.id: one for one in found.queues.entries(queue, found.params, found.console.log())}
    classes, _ = found.classes()
    for image in form.all("id"):
        entry = waiting.get(image)
        if entry is None or image in crossed or entry.blind or entry.asked.prediction is None:
            continue
        said = entry.asked.prediction
        label = check_label(said, classes, found.multilabel, [said] if isinstance(said, str) else said)
        give(found.root, found.sittings, entry, who, label)
        count += 1
    return count
