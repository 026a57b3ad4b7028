"""What a retraining would see: is anything new since the last run, and what?

The button says it before a person presses it.
"""

from dataclasses import dataclass
from pathlib import Path

from flows.labels.journal import pending
from flows.production.act import new_labels
from flows.repo import workspace
from flows.repo.git import git
from flows.repo.run_inputs import CODE, current_inputs, refuse_dirty
from monitoring.log.production_log import Log
from tasks.common.errors import EvergreenError
from tasks.dataset.shards import known_batches
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases


@dataclass(frozen=True)
class WhatsNew:
    """starts: whether a run would start; sentence: what is new, or why none would start."""

    starts: bool
    sentence: str


def whats_new(root: Path, releases: Releases, log: Log) -> WhatsNew:
    """What a retraining started now would do."""
    try:
        refuse_dirty(root)
        _, tombstones, ended = current_inputs(root)
    except EvergreenError as error:
        return WhatsNew(False, f"No run can start: {error}")
    waiting = len(pending(root))
    wait = f" Besides, {waiting} answers of people wait to be taken into the data set." if waiting else ""
    if ended:
        return WhatsNew(
            False,
            f"Nothing is new since run {ended['run_id']}, which ended as {ended['outcome']}: nothing will start.{wait}",
        )
    if at_work := list(workspace.alive_runs(root)):
        return WhatsNew(True, f"Run {at_work[0]} is at work: a run over the same inputs waits for it.{wait}")
    live = releases.live()
    if live is None:
        return WhatsNew(True, f"No model is live yet: this trains the first one.{wait}")
    parts = _since(root, releases, live, set(tombstones))
    if labels := new_labels(root, log, live.at):
        parts.insert(0, f"{labels} labels of production images")
    found = ", ".join(parts) or "data, settings or code"
    return WhatsNew(True, f"New since {live.version}: {found}.{wait}")


def _since(root: Path, releases: Releases, live: Pointer, tombstones: set[str]) -> list[str]:
    """What HEAD has that the live version was not made from."""
    known = set((releases.run(live.run_id) or {}).get("accepted") or ())
    batches = known_batches(root / "data") - known - tombstones if known else set()
    parts = [f"{len(batches)} batch{'es' * (len(batches) != 1)} of images"] if batches else []
    try:
        changed = git(root, "diff", "--name-only", live.git_rev, "HEAD", "--", "params.yaml", "data.dvc", *CODE).split()
    except EvergreenError:  # the commit is not here
        return parts
    if "data.dvc" in changed and not batches:
        parts.append("data or labels")
    parts += ["settings"] if "params.yaml" in changed else []
    code = [name for name in changed if name.endswith(".py")]
    return parts + ([f"code ({len(code)} files)"] if code else [])
