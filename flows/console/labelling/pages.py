"""The values of the pages on which people label."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from flows.console.labelling.items import DIGITS, FEW, groups, image_url, item_of
from flows.console.labelling.overview import TITLES, unfinished_of
from flows.console.labelling.state import AHEAD, Labelling, Turn
from flows.labels.define import Meaning, meanings
from flows.labels.queues import Entry
from flows.labels.sitting import Who, next_images
from monitoring.review.asked import label_text

GRID = 60  # images of a grid at once
NO_MEANING = ""


def item(found: Labelling, entry: Entry, order: str = "") -> dict[str, Any]:
    """What is shown of `entry`. order: "fixed" keeps the classes in their order."""
    classes, taxonomy = found.classes()
    likely = {} if entry.blind else found.likelihoods.of(found.console.log(), entry, taxonomy)
    return item_of(entry, classes, likely, found.multilabel, order == "fixed")


def one_values(found: Labelling, queue: str, who: Who, query: Mapping[str, str]) -> dict[str, Any]:
    """The page of one image; it has the next ones, too. query: id (shown first), order."""
    turn, order = found.turn(queue, who), query.get("order", "")
    entries = turn.next(found.sittings)
    if wanted := query.get("id"):
        entry = found.queues.find(queue, wanted[:100], found.params, turn.log)
        entries = ([entry] if entry else []) + [one for one in entries if one.id != wanted]
    items = [item(found, entry, order) for entry in entries]
    classes, _ = found.classes()
    return {
        "queue": queue,
        "name": TITLES[queue],
        "shown": items[0] if items else None,
        "more": items[1:],
        "state": _json({"items": items, **progress(found, turn), "multilabel": found.multilabel, "few": FEW}),
        "progress": progress(found, turn),
        "reviewer": queue == "issues" and who.reviewer,
        "voter": queue == "issues" and not who.reviewer,
        "many": len(classes) > FEW,
        "none": not classes,
        "digits": DIGITS,
        "order": order,
        "left": turn.left,
        "can_grid": queue != "audit",
        "meanings": _meanings(found),
    }


def more(found: Labelling, queue: str, who: Who, have: Sequence[str], order: str = "") -> dict[str, Any]:
    """Images for a page that holds `have`, which stay this person's; "gone" are those that became somebody else's."""
    turn = found.turn(queue, who)
    by_id = {one.id: one for one in turn.free}
    kept = next_images(found.sittings, who, [by_id[name] for name in have if name in by_id], len(have))
    room = max(0, AHEAD - len(kept))
    fresh = turn.next(found.sittings, room, have) if room else []
    gone = sorted(set(have) - {one.id for one in kept})
    return {"items": [item(found, one, order) for one in fresh], "gone": gone, **progress(found, turn)}


def progress(found: Labelling, turn: Turn) -> dict[str, int]:
    """How it goes: answers of this sitting, what this person may still be shown, what waits to be taken."""
    done = found.sittings.done(turn.who.name).get(turn.queue, 0)
    return {"done": done, "free": turn.left.free, "unfinished": len(turn.pending)}


def grid_values(found: Labelling, queue: str, who: Who, query: Mapping[str, str]) -> dict[str, Any]:
    """The images for which one class is suggested. query: class, out (crossed-out ids, with commas)."""
    turn = found.turn(queue, who)
    by_class = groups(turn.free)
    chosen = query.get("class") or next(iter(by_class), "")
    entries = next_images(found.sittings, who, by_class.get(chosen, []), GRID)
    out = {name for name in query.get("out", "")[:8000].split(",") if name}
    items = [
        {
            "id": one.id,
            "image": image_url(one.id, queue),
            "confidence": one.asked.confidence,
            "given": None if one.asked.given is None else label_text(one.asked.given),
            "source": one.asked.source,
            "out": one.id[:12] in out,
        }
        for one in entries
    ]
    counts = [(text, len(of)) for text, of in by_class.items()]
    more_of = max(0, len(by_class.get(chosen, [])) - len(items))
    values = {"queue": queue, "name": TITLES[queue], "chosen": chosen, "counts": counts, "items": items}
    return values | {"more": more_of, "left": turn.left, "unfinished": unfinished_of(found.root, turn, who)}


def queue_table(found: Labelling, queue: str, who: Who) -> tuple[Sequence[str], list[Sequence]]:
    """What waits in a queue, as a table."""
    columns = ("id", "why", "suggestion", "confidence", "given", "detail", "source", "at", "key", "path")
    turn, rows = found.turn(queue, who), []
    for one in turn.open:
        asked, held = one.asked, turn.holders.get(one.id)
        said = ("", "", "", "") if one.blind else (
            "" if asked.prediction is None else label_text(asked.prediction), asked.confidence,
            "" if asked.given is None else label_text(asked.given), asked.detail,
        )  # fmt: skip
        place = (asked.source, asked.at, asked.key, asked.path)
        rows.append((one.id, asked.why, *said, *place, held.person if held else "", held.due if held else None))
    return (*columns, "assigned", "due"), rows


def class_cards(found: Labelling) -> list[Meaning]:
    """Every class with what it means; one without a definition has an empty text."""
    known, (classes, _) = _meanings(found), found.classes()
    names = list(dict.fromkeys([*classes, *known]))
    return [known.get(one, Meaning(one, NO_MEANING, (), "", "")) for one in names]


def _meanings(found: Labelling) -> dict[str, Meaning]:
    data = found.root / "data"
    return meanings(data) if (data / "dataset.json").is_file() else {}


def _json(values: dict[str, Any]) -> Markup:
    """Values for the page's script, in a block that is not run: no text in them can end the block."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
