"""What waits for a person, gravest first, as cards with one main button each."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flows.console.hard.view import hard_view, looks_of
from flows.console.index.index import index_of
from flows.console.now.counts import LabelCounts, refused_batches
from flows.console.shell.console import Console
from flows.console.shell.page import without_file
from flows.publishing.run_list import held_runs
from flows.runs.overview import list_runs
from monitoring.log.feedback import FeedbackJournal
from monitoring.pages.render import OUTCOMES
from tasks.common.errors import EvergreenError
from tasks.common.paths import state_dir
from tasks.common.plural import counted
from tasks.common.rebuildable import expect_dict, read_rebuildable

SILENT = {"monitor silence": "The monitor is silent", "no samples": "No samples arrive"}
BAD_ENDS = ("failed", "killed")


@dataclass(frozen=True)
class Card:
    """One thing that waits. url: of the page where a person acts; button: what its link says."""

    kind: str
    tone: str  # good, warn or bad
    title: str
    text: str
    url: str
    button: str
    at: datetime | None = None


def waiting_cards(console: Console, labels: Callable[[], LabelCounts]) -> list[Card]:
    """Everything that waits; a part that cannot be read is a card that says so. labels: counts images to label."""
    found: list[Card] = []
    parts = [functools.partial(part, console) for part in (_held, _alarm, _silence, _failed, _refused, _asked)]
    for part in [*parts, lambda: _labels(labels()), functools.partial(_feedback, console)]:
        try:
            found += part()
        except EvergreenError as error:
            found.append(Card("error", "bad", "Something cannot be read", str(error), "/services", "Look at services"))
    return found


def _held(console: Console) -> list[Card]:
    return [
        Card("held", "warn", "A model waits for approval", row.told, f"/releases/{row.run_id}", "Decide", row.at)
        for row in held_runs(console.root, console.releases())
    ]


def _alarm(console: Console) -> list[Card]:
    newest = index_of(console.root).windows(most=1)
    if not newest or newest[0].outcome == "none":
        return []
    window = newest[0]
    tone = "bad" if window.outcome == "retrain" else "warn"
    return [
        Card("alarm", tone, f"Production drifts: {OUTCOMES[window.outcome][0].lower()}", window.sentence,
             f"/production/{window.id}", "Look at the window", window.end)
    ]  # fmt: skip


def _silence(console: Console) -> list[Card]:
    alarms = _alarms(console.root)
    return [
        Card("silence", "bad", title, f"Since {since:%Y-%m-%d %H:%M} UTC.", "/services", "Look at services", since)
        for alarm, title in SILENT.items()
        if (since := alarms.get(alarm))
    ]


def _alarms(root: Path) -> dict[str, datetime]:
    found = read_rebuildable(state_dir(root) / "alarms.json", lambda about: expect_dict(about, str), "none is shown")
    return {name: datetime.fromisoformat(at) for name, at in (found or {}).items()}


def _failed(console: Console) -> list[Card]:
    newest = list_runs(console.root, console.releases(), most=1).rows
    if not newest or newest[0].outcome not in BAD_ENDS:
        return []
    run = newest[0]
    return [
        Card(
            "failed", "bad", f"The last run {run.words}", run.sentence, f"/runs/{run.id}", "Look at the run", run.ended
        )
    ]


def _refused(console: Console) -> list[Card]:
    return [
        Card("refused", "warn", "A batch was refused", without_file(why), f"/data/{batch}", "Look at the batch", at)
        for batch, why, at in refused_batches(console)
    ]


def _asked(console: Console) -> list[Card]:
    """The hard set, if it was asked more often than its images bear: only new images help."""
    index = index_of(console.root)
    looks = [one for one in looks_of(console, hard_view(console.root, index), index) if one.what == "hard set"]
    return [
        Card("looks", "warn", "The hard set was asked too often", f"{one.sentence()[:1].upper()}{one.sentence()[1:]}.",
             "/hard-set", "Add images to it")
        for one in looks
        if one.missing
    ]  # fmt: skip


def _labels(counts: LabelCounts) -> list[Card]:
    cards = []
    waits = [
        (counts.production, "labels", "/label/production", "Label", "to label"),
        (counts.issues, "issues", "/label/issues", "Look at the issues", "whose label needs a look"),
        (counts.audit, "audit", "/label/audit", "Check them", "of the random audit"),
    ]
    for number, kind, url, button, what in waits:
        if number:
            cards.append(Card(kind, "good", f"{_images(number)} {what}", WHY[kind], url, button))
    return cards


def _feedback(console: Console) -> list[Card]:
    """Labels of the predictor's clients that the monitor has not taken: it takes each that fits within minutes."""
    waiting = [one.label for one in FeedbackJournal(console.log().store).waiting().labels if not one.logged]
    if not waiting:
        return []
    clients = sorted({one.client for one in waiting})
    said = f"Of {', '.join(clients[:3])}{' and others' if len(clients) > 3 else ''}. {WHY['feedback']}"
    title = f"{counted(len(waiting), 'label')} of clients"
    return [Card("feedback", "good", title, said, "/label#label-feedback", "Look at them", waiting[0].at)]


WHY = {
    "feedback": "The monitor takes what fits the quota and whose image it knows; a person decides about the rest.",
    "labels": "Each answer brings the next model closer, and shows how often the live one is right.",
    "issues": "A model, a second person or a copy of the image contradicts the label, or chance picked it for a check.",
    "audit": "Drawn at random: only their labels say how accurate the live model is.",
}


def _images(number: int) -> str:
    return counted(number, "image")
