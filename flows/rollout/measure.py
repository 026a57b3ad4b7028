"""Counts what both models of a rollout did in production since it began.

A canary's answers lie in the production log, told apart by bundle; a shadow's in the shadow log, next to the champion's
answers to the same images. Images with a label that only the review queue asked for are left out: each model is wrong
more often where it was unsure.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from flows.labels.class_reading import current_taxonomy
from flows.rollout.evidence import Arm, Block, Evidence, Failed, Labelled, Pairs, StepEvidence
from monitoring.live.labels import Label, common_reading, truths
from monitoring.live.periods import is_right
from monitoring.log.production_log import Log, open_log
from monitoring.log.shadow import open_shadow_log
from monitoring.review.queue import queued
from monitoring.sequential import matched
from tasks.common.params import Params, ReleaseParams
from tasks.releases.arm_failures import Failures, reports, total
from tasks.releases.bundle_store import read_file
from tasks.releases.rollout import Rollout
from tasks.releases.store import Releases

COLUMNS = ("id", "at", "key", "source", "bundle", "prediction", "confidence", "needs_review", "latency_ms")
ROWS = 400_000  # of each log; beyond that a random sample
MOST_LIVE = 19  # labelled answers of the champion beside one of the challenger
Row = dict[str, Any]


def measure(root: Path, params: Params, releases: Releases, rollout: Rollout, now: datetime) -> Evidence:
    """What was seen of `rollout` until `now`, without what capture may hold back. Raises what the stores raise."""
    log, end = open_log(root, params), now - timedelta(seconds=params.capture.flush_seconds)
    shadow = rollout.strategy == "shadow"
    live, unreadable = _rows(log, rollout.champion_bundle, rollout.since, end)
    new, skipped = _rows(open_shadow_log(root, params) if shadow else log, rollout.bundle, rollout.since, end)
    taxonomy = current_taxonomy(root)
    known = truths(log.labels(since=rollout.since), queued(log), taxonomy) if new else {}
    known = {name: truth.label for name, truth in known.items() if not truth.hard}
    own, before = (_classes(releases, digest) for digest in (rollout.bundle, rollout.champion_bundle))
    if taxonomy.meaning:
        read = common_reading(taxonomy, own, before, list(known.values()))
        own, before = [read(name) for name in own], [read(name) for name in before]
        known = {name: read(label) for name, label in known.items()}
        for row in (*new, *live):
            row["prediction"] = read(row["prediction"])
    classes = [name for name in own if name in set(before)]
    found = evidence_of(rollout, new, live, known, classes, params.release, now)
    return found.model_copy(update={"failed": _failed(releases, rollout), "unreadable": unreadable + skipped})


def evidence_of(
    rollout: Rollout,
    new: list[Row],
    live: list[Row],
    known: Mapping[str, Label],
    classes: Sequence[str],
    policy: ReleaseParams,
    now: datetime,
) -> Evidence:
    """What the answers (COLUMNS) of both models show, without failures. known: image id -> true label. Pure."""
    shadow = rollout.strategy == "shadow"
    parts = _paired(new, live) if shadow else _arms(rollout, new, live)
    labelled, by_class = _labelled(parts, known)
    return Evidence(
        classes=tuple(dict.fromkeys(classes)),
        steps=tuple(_counted(number, part, shadow, policy) for number, part in enumerate(parts)),
        labelled=labelled,
        by_class=by_class,
        hours=max(0.0, (now - rollout.step_since).total_seconds() / 3600),
    )


def _rows(log: Log, bundle: str, start: datetime, end: datetime) -> tuple[list[Row], int]:
    """(usable answers of the model `bundle` in [start, end) by time, files that were skipped)."""
    if end <= start:
        return [], 0
    table, unreadable, _ = log.window(start, end, columns=COLUMNS, limit=ROWS, bundle=bundle)
    return [row for row in table.to_pylist() if row["prediction"] is not None], len(unreadable)


class _Part(NamedTuple):
    """The units of one step. Those of a shadow are pairs: row n of both is of the same image."""

    share: float
    new: list[Row]
    live: list[Row]


def _arms(rollout: Rollout, new: list[Row], live: list[Row]) -> list[_Part]:
    """Both arms of a canary, by step.

    Left out are live answers before the challenger's first, because the service had not begun yet, and those of
    sources that the challenger never met, because they may not pass the service.
    """
    met, first = {row["source"] for row in new}, new[0]["at"] if new else None
    new = _units(new)
    live = _units(row for row in live if row["source"] in met and row["at"] >= first)
    starts = [*(end.since for end in rollout.done), rollout.step_since]
    shares = [*(end.share for end in rollout.done), rollout.share or rollout.steps[rollout.step]]
    ends = [*starts[1:], None]
    return [
        _Part(share, *([row for row in rows if _within(row, start, until)] for rows in (new, live)))
        for start, until, share in zip(starts, ends, shares, strict=True)
    ]


def _paired(new: list[Row], live: list[Row]) -> list[_Part]:
    """The answers to images that both models answered."""
    by_id = {row["id"]: row for row in reversed(live)}
    pairs = [(row, by_id[row["id"]]) for row in _units(new) if row["id"] in by_id]
    return [_Part(0.0, [one for one, _ in pairs], [one for _, one in pairs])]


def _units(rows: Iterable[Row]) -> list[Row]:
    """The first answer of each key, or image without one."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row["key"] or row["id"], row)
    return list(found.values())


def _counted(number: int, part: _Part, shadow: bool, policy: ReleaseParams) -> StepEvidence:
    timed = _timed_pairs(part, shadow)
    found = StepEvidence(
        step=number,
        share=part.share,
        new=_arm(part.new),
        live=_arm(part.live),
        slower=sum(mine > policy.max_latency_ratio * other for mine, other in timed),
        timed=len(timed),
    )
    if not shadow:
        return found
    both = [(_names(mine["prediction"]), _names(other["prediction"])) for mine, other in _pairs(part)]
    reviewed = [(bool(mine["needs_review"]), bool(other["needs_review"])) for mine, other in _pairs(part)]
    names = sorted({name for one in both for answer in one for name in answer})
    answers = {name: _event([(name in mine, name in other) for mine, other in both]) for name in names}
    agree = sum(mine == other for mine, other in both)
    return found.model_copy(update={"agree": agree, "answers": answers, "review": _event(reviewed)})


def _pairs(part: _Part) -> Iterator[tuple[Row, Row]]:
    return zip(part.new, part.live, strict=True)


def _event(found: Sequence[tuple[bool, bool]]) -> Pairs:
    """How often both, only the champion, only the challenger had an event: (challenger, champion) of each image."""
    counts = Counter(found)
    return Pairs(both=counts[True, True], only_live=counts[False, True], only_new=counts[True, False])


def _arm(rows: list[Row]) -> Arm:
    answers = Counter(name for row in rows for name in _names(row["prediction"]))
    confidences = [row["confidence"] for row in rows if row["confidence"] is not None]
    times = [row["latency_ms"] for row in rows if row["latency_ms"] is not None]
    return Arm(
        n=len(rows),
        answers=dict(sorted(answers.items())),
        review=sum(bool(row["needs_review"]) for row in rows),
        confidence=fmean(confidences) if confidences else None,
        latency_ms=median(times) if times else None,
    )


def _timed_pairs(part: _Part, shadow: bool) -> list[tuple[float, float]]:
    """Times of the challenger, each with the champion's for the same image, else for its last one: a busy minute slows
    both."""
    if shadow:
        both = ((mine["latency_ms"], other["latency_ms"]) for mine, other in _pairs(part))
        return [(mine, other) for mine, other in both if mine and other]
    timed = [row for row in part.live if row["latency_ms"]]
    times = [row["at"] for row in timed]
    places = [(row["latency_ms"], bisect_right(times, row["at"])) for row in part.new if row["latency_ms"]]
    return [(mine, timed[place - 1]["latency_ms"]) for mine, place in places if place]


def _labelled(parts: list[_Part], known: Mapping[str, Label]) -> tuple[Labelled, dict[str, Labelled]]:
    """The labelled answers: all, and by true class."""
    every, by_class = Labelled(), {}
    for part in parts:
        each = min(MOST_LIVE, max(1, round((1 - part.share) / part.share))) if part.share else 1
        told = [[(row["prediction"], known[row["id"]]) for row in rows if row["id"] in known] for rows in part[1:]]
        every = _joined(every, *([is_right(answer, label) for answer, label in one] for one in told), each)
        for name in sorted({name for one in told for _, label in one for name in _names(label)}):
            hits = ([name in _names(answer) for answer, label in one if name in _names(label)] for one in told)
            by_class[name] = _joined(by_class.get(name, Labelled()), *hits, each)
    return every, by_class


def _joined(before: Labelled, new: list[bool], live: list[bool], each: int) -> Labelled:
    """`before` and the answers of one more step: which were right."""
    found = matched([not right for right in new], [not right for right in live], each)
    blocks = [Block(live=n, wrong=wrong, new_is_wrong=mine, count=count) for (n, wrong, mine), count in found.items()]
    return Labelled(
        new=before.new + len(new),
        new_right=before.new_right + sum(new),
        live=before.live + len(live),
        live_right=before.live_right + sum(live),
        blocks=(*before.blocks, *blocks),
    )


def _classes(releases: Releases, digest: str) -> list[str]:
    """The classes of bundle `digest`; none if it is gone."""
    found = read_file(releases.store, digest, "bundle.json")
    return json.loads(found).get("classes", []) if found else []


def _failed(releases: Releases, rollout: Rollout) -> Failed:
    found = reports(releases, rollout.id)
    counts = total(found)
    new, live = counts.get(rollout.strategy, Failures()), counts.get("live", Failures())
    return Failed(
        new_asked=new.asked,
        new_failed=new.failed,
        live_asked=live.asked,
        live_failed=live.failed,
        loaded=sum(one.loaded is True for one in found),
        not_loaded=sum(one.loaded is False for one in found),
        why=next((one.why for one in found if one.loaded is False), ""),
    )


def _within(row: Row, start: datetime, until: datetime | None) -> bool:
    return row["at"] >= start and (until is None or row["at"] < until)


def _names(value: Label) -> frozenset[str]:
    """The classes of an answer or label."""
    if value is None:
        return frozenset()
    return frozenset(value if isinstance(value, list | tuple) else [value])
