"""`/label`: true labels that clients of the predictor sent, and what people do about them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from flows.console.jobs.store import start_job
from flows.console.people.roles import need
from flows.console.shell.console import Console, console_of
from flows.console.shell.facts import recent
from flows.console.shell.page import csv_download
from flows.console.shell.posted import Posted, back, posted
from flows.production.feedback import waiting_feedback
from flows.production.feedback_verdicts import QUOTA, TAKE, WHY
from monitoring.log.feedback import Decided, FeedbackJournal
from tasks.common.errors import EvergreenError

SLOT = "feedback"  # of the jobs that take or drop labels: one at a time
SECONDS = 10.0  # between looks at labels that did not change
LETTERS = 500  # of a reason
DECISIONS = 5  # of people that are shown

router = APIRouter()


@dataclass(frozen=True)
class ClientCard:
    """What waits of one client."""

    client: str
    waiting: int
    fit: int  # would be taken now
    beyond: int  # beyond the quota
    reasons: Sequence[tuple[int, str]]  # how many labels, and what becomes of them


def waiting_by_client(console: Console) -> list[ClientCard]:
    """The clients whose labels wait, the most labels first."""
    keys = tuple(sorted(FeedbackJournal(console.log().store).waiting().keys))
    if not keys:
        return []
    return recent(("feedback", console.root, keys), lambda: _cards(console), SECONDS)


def decided_lately(console: Console) -> list[Decided]:
    """What people decided last, the newest first."""
    return FeedbackJournal(console.log().store).decided(DECISIONS)


def _cards(console: Console) -> list[ClientCard]:
    found: dict[str, Counter[str]] = {}
    for each in waiting_feedback(console.root):
        found.setdefault(each.one.label.client, Counter())[each.verdict] += 1
    cards = [
        ClientCard(
            client,
            counts.total(),
            counts[TAKE],
            counts[QUOTA],
            [(count, WHY[verdict]) for verdict, count in counts.items()],
        )
        for client, counts in found.items()
    ]
    return sorted(cards, key=lambda card: (-card.waiting, card.client))


@router.get("/label/feedback")
def table(request: Request) -> Response:
    """What waits, as CSV."""
    need(request, "viewer")
    rows = [(card.client, count, why) for card in waiting_by_client(console_of(request)) for count, why in card.reasons]
    return csv_download("feedback", ("client", "labels", "what becomes of them"), rows)


@router.post("/label/feedback/take")
def take(request: Request, form: Posted = Depends(posted)) -> Response:
    """Take the labels of a client, within its quota."""
    return _start(request, form, "labeller", ["take"], "Taking labels of {}")


@router.post("/label/feedback/beyond")
def take_beyond(request: Request, form: Posted = Depends(posted)) -> Response:
    """Take also what is beyond the quota of a client or source."""
    return _start(request, form, "approver", ["take", "--beyond-quota"], "Taking labels of {} beyond the quota")


@router.post("/label/feedback/drop")
def drop(request: Request, form: Posted = Depends(posted)) -> Response:
    """Delete what waits of a client."""
    return _start(request, form, "approver", ["drop"], "Dropping labels of {}")


def _start(request: Request, form: Posted, role: str, words: Sequence[str], title: str) -> Response:
    """Run `evergreen feedback` for one client; the job keeps the reason that the person gave."""
    person, console = need(request, role), console_of(request)
    client, why = form.text("client", most=200), form.text("why", most=LETTERS)
    if not why:
        raise EvergreenError("a reason is missing: say why, for those who ask later")
    if client not in {card.client for card in waiting_by_client(console)}:
        raise EvergreenError(f"no label of {client!r} waits: another person may have taken or dropped them")
    about = ["--", client] if words[0] == "drop" else [f"--client={client}"]
    title = title.format(client)
    start_job(
        console.root,
        ["feedback", *words, f"--why={why}", *about],
        slot=SLOT,
        title=f"{title}: {why}",
        by=person.name,
        back="/label",
    )
    return back(request, "/label", f"{title}.")
