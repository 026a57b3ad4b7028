"""What people say about a run without publishing it: comments, a refusal, a fresh verdict.

All of it is in the run's record in the release store, where two writers lose nothing of each other:

    comments   [{id, by, at, text}], oldest first
    decisions  a refusal is one of them: {how: "refused", by, why, at, version: null, verdict: null}
    preview    the newest verdict on the run against what was live then: {by, at, version, bundle, verdict}
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime

from flows.publishing.recorded_run import delete_ref, not_held, open_run, refusal_in, worktree
from flows.publishing.run_records import now
from flows.repo import run_inputs
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.floors import Floor
from tasks.common.params import load_params
from tasks.common.paths import main_checkout
from tasks.gate.verdict import GateVerdict
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

LETTERS = 4000  # of a comment or reason


class Judgement(Frozen):
    """A verdict on a run, and what was live when it was given."""

    at: AwareDatetime
    by: str | None  # who asked for it; None: the run itself
    version: str | None  # that it was judged against; None: nothing was live
    verdict: GateVerdict

    def is_fresh(self, live: Pointer | None) -> bool:
        """Is what it was judged against still live?"""
        return self.version == (live.version if live else None)


def comment(root: Path, run_id: str, *, by: str, text: str) -> dict[str, str]:
    """Add `text` to the comments on run `run_id`; returns the comment. Raises EvergreenError."""
    run = open_run(root, run_id)
    entry = {"id": uuid.uuid4().hex, "by": by, "at": now(), "text": _said(text, "a comment needs a text")}

    def added(record: dict[str, Any]) -> dict[str, Any]:
        known = record.get("comments", [])
        return record if entry in known else record | {"comments": [*known, entry]}

    run.releases.change_run(run_id, added)
    return entry


def refuse(root: Path, run_id: str, *, by: str, why: str) -> str:
    """Refuse the held run `run_id` for good; returns its sentence. Raises EvergreenError.

    It counts as rejected from now on: no page asks about it again, and only an override can publish it. Its files may
    be deleted as those of other rejected runs.
    """
    why = _said(why, "a refusal needs a reason: give it with --why; it is stored with the run")
    run = open_run(root, run_id)
    entry = {"how": "refused", "by": by, "why": why, "at": now(), "version": None, "verdict": None}

    def refused(record: dict[str, Any]) -> dict[str, Any]:
        decisions = record.get("decisions", [])
        if entry in decisions:
            return record
        if record["outcome"] != "held":
            raise EvergreenError(not_held(run_id, record))
        sentence = f"{record['sentence']} Refused since by {by}: {why}."
        return record | {"outcome": "rejected", "sentence": sentence, "decisions": [*decisions, entry]}

    record = run.releases.change_run(run_id, refused)
    failpoint("refused.noted")
    if record.get("key"):
        ended = {"outcome": "rejected", "version": None, "sentence": record["sentence"]}
        run_inputs.record_ending(main_checkout(root), record["key"], {"run_id": run_id} | ended)
    delete_ref(run)
    return record["sentence"]


def refusal_of(releases: Releases, bundle: str) -> tuple[str, dict[str, Any]] | None:
    """(run, its refusal) if a person refused this very model and none published it since; else None."""
    for run_id, record in releases.runs().items():
        same = record.get("bundle") == bundle and record["outcome"] == "rejected"
        if same and (refusal := refusal_in(record)):
            return run_id, refusal
    return None


def refusal_sentence(run_id: str, refusal: dict[str, Any]) -> str:
    """The message of a run that made a refused model again."""
    return (
        f"this is the model of run {run_id} again, which {refusal['by']} refused on {refusal['at'][:10]} "
        f"({refusal['why']})"
    )


def preview(root: Path, run_id: str, *, by: str) -> Judgement:
    """Judge run `run_id` against what is live now, and keep the verdict in its record. Nothing is published.

    The floors are those of params.yaml in `root`. Raises EvergreenError for a run that made nothing, or whose files
    are gone.
    """
    from flows.publishing.judge_run import judge_run, with_floors

    run = open_run(root, run_id)
    if run.record["outcome"] not in ("held", "rejected"):
        raise EvergreenError(not_held(run_id, run.record))
    champion = run.releases.live()
    with worktree(run) as tree:
        params = with_floors(load_params(tree / "params.yaml"), load_params(root / "params.yaml").gate)
        verdict = judge_run(tree, params, run.releases, champion, run=run_id, by=by, how="preview")
    found = Judgement(at=now(), by=by, version=champion.version if champion else None, verdict=verdict)
    run.releases.change_run(run_id, lambda record: record | {"preview": found.model_dump(mode="json")})
    return found


def try_floors(root: Path, run_id: str, floors: Sequence[Floor]) -> tuple[str | None, GateVerdict]:
    """(version it was judged against, the verdict that run `run_id` would have had) with `floors` beside today's.

    Any run whose files are here: also one that was published, judged against what it replaced. Nothing is recorded.
    """
    from flows.publishing.judge_run import judge_run, with_floors

    run = open_run(root, run_id)
    history = run.releases.history()
    published = next((place for place, one in enumerate(history) if one.run_id == run_id), None)
    before = history if published is None else history[:published]
    champion = before[-1] if before else None
    if published is not None and not run.record.get("rev"):  # its workspace may be gone, its commit is not
        run = replace(run, record=run.record | {"rev": history[published].git_rev})
    with worktree(run) as tree:
        params = with_floors(load_params(tree / "params.yaml"), load_params(root / "params.yaml").gate, floors)
        return champion.version if champion else None, judge_run(tree, params, run.releases, champion)


def newest_judgement(record: dict[str, Any]) -> Judgement | None:
    """The newest verdict in a run's record: a preview's, else the run's own; None if nothing was judged."""
    if preview := record.get("preview"):
        return Judgement.model_validate(preview)
    verdict, at = record.get("verdict"), record.get("at")
    if not verdict or not at:
        return None
    return Judgement(at=at, by=None, version=verdict["champion"], verdict=GateVerdict.model_validate(verdict))


def _said(text: str, missing: str) -> str:
    text = text.strip()
    if not text:
        raise EvergreenError(missing)
    if len(text) > LETTERS:
        raise EvergreenError(f"the text has {len(text):,} letters, expected at most {LETTERS:,}")
    return text
