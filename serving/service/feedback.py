"""POST /feedback: clients say what the right answer was.

    {"id": "<sha256 of the image>", "label": "scratch", "who": "ann"}
    {"key": "order 4711", "label": "scratch", "who": "ann", "why": "returned", "at": "2026-11-28T06:00:00Z"}
    [{...}, {...}]                                                             several at once: all of them or none

The answer 202 comes when the labels are stored: a process that is killed after it loses none of them.
"""

import asyncio
import logging
import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serving.service.access import client_of, too_many
from serving.service.contracts import Feedback, FeedbackSink, Router
from serving.service.endpoint import json_response, route, sent, service_of
from serving.service.problems import Problem
from serving.service.rates import Rates

logger = logging.getLogger("evergreen.service")

MOST = 1000  # labels in one request
BYTES = 1 << 20  # of a request
LONGEST = {"key": 500, "who": 100, "why": 1000}  # characters
FIELDS = ("id", "key", "label", "who", "why", "at")
ID = re.compile(r"[0-9a-f]{64}")
SHOWN = 10  # problems and classes named in one message


def feedback_routes(sink: FeedbackSink, rates: Rates, per_hour: int) -> list[BaseRoute]:
    """The route. per_hour: labels that one client may send, over all processes that share `rates`."""

    async def feedback(request: Request, name: str) -> Response:
        client, service = client_of(request), service_of(request)

        def make(content: Any) -> list[Feedback]:
            return read_feedback(content, client, service.router)

        async with sent(request, BYTES, make) as labels:
            pass
        if len(labels) > per_hour:
            raise Problem("body_too_large", f"{len(labels)} labels, {per_hour} an hour is the limit of a client")
        if wait := rates.take(f"feedback {client}", len(labels), per_hour, 3600.0):
            raise too_many(f"{client} sends more than {per_hour} labels an hour", wait)
        try:
            await asyncio.to_thread(sink.keep, labels)
        except Exception:  # of whatever store; what it says names places that a client need not know
            logger.exception("labels of %s were not stored", client)
            raise Problem(
                "not_kept", "the labels are not stored, the log of the service says why: send them again"
            ) from None
        return json_response({"request": name, "kept": len(labels)}, 202)

    return [route("/feedback", feedback, "POST")]


def read_feedback(content: Any, client: str, router: Router) -> list[Feedback]:
    """The labels in a request's JSON. Raises Problem, which names every label that cannot be used."""
    told = content if isinstance(content, list) else [content]
    if not told:
        raise Problem("bad_label", "the list is empty")
    if len(told) > MOST:
        raise Problem("body_too_large", f"{len(told)} labels in one request, {MOST} is the limit")
    models = router.models()
    if "live" not in models:
        raise Problem("not_ready", "no model is loaded yet", {"retry-after": "1"})
    classes = {name for model in models.values() for name in model.predictor.classes}
    several = models["live"].predictor.about["task"] != "multiclass"
    found, wrong = [], []
    for number, one in enumerate(told):
        try:
            found.append(_feedback(one, client, classes, several))
        except ValueError as error:
            wrong.append(f"label {number}: {error}" if isinstance(content, list) else str(error))
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise Problem("bad_label", "; ".join(wrong[:SHOWN]) + more)
    return found


def _feedback(one: Any, client: str, classes: Collection[str], several: bool) -> Feedback:
    if not isinstance(one, dict):
        raise ValueError(f"a {type(one).__name__}, expected an object")
    if unknown := sorted(set(one) - set(FIELDS)):
        raise ValueError(f"unknown fields {unknown[:SHOWN]}: expected some of {list(FIELDS)}")
    if ("id" in one) == ("key" in one):
        raise ValueError("expected `id` (the sha256 of the image's bytes, which /predict answers) or `key`")
    if "id" in one and not (isinstance(one["id"], str) and ID.fullmatch(one["id"])):
        raise ValueError(f"id {str(one['id'])[:40]!r}: expected 64 hexadecimal digits")
    name = one["id"] if "id" in one else _text(one, "key")
    why = _text(one, "why") if "why" in one else ""
    return Feedback(name, _label(one.get("label"), classes, several), _text(one, "who"), client, why, _time(one))


def _text(one: dict, field: str) -> str:
    text = one.get(field)
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST[field] or not text.isprintable():
        raise ValueError(f"{field}: expected 1 to {LONGEST[field]} characters that can be printed")
    return text.strip()


def _label(label: Any, classes: Collection[str], several: bool) -> str | tuple[str, ...]:
    told = label if several and isinstance(label, list) else [label]
    for name in told:
        if not isinstance(name, str) or name not in classes:
            known = sorted(classes)
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            raise ValueError(f"{str(name)[:40]!r} is not a class: expected one of {', '.join(known[:SHOWN])}{more}")
    return tuple(sorted(set(told))) if several else told[0]


def _time(one: dict) -> datetime | None:
    if "at" not in one:
        return None
    try:
        at = datetime.fromisoformat(one["at"])
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"at {str(one['at'])[:40]!r}: expected a time such as 2026-11-28T06:00:00Z") from None
