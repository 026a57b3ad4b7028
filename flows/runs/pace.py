"""How long each stage last took, so that a run can say at its start how long it may take.

<state>/stage_seconds.json: {stage: seconds of the last time it really ran}, of all runs of this checkout.
"""

from pathlib import Path

from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.progress import duration
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.stages.runner import STAGES


def _file(root: Path) -> Path:
    return state_dir(root) / "stage_seconds.json"


def remember(root: Path, stage: str, seconds: float) -> None:
    """Keep how long `stage` took."""
    write_json(_file(root), known_seconds(root) | {stage: round(seconds, 1)})


def known_seconds(root: Path) -> dict[str, float]:
    """Stage -> seconds of the last time it really ran."""
    return read_rebuildable(_file(root), _accept, "the next run measures it") or {}


def _accept(about: dict) -> dict[str, float]:
    return {stage: float(seconds) for stage, seconds in expect(about, dict).items()}


def expected(root: Path) -> str:
    """One sentence about how long a run of all stages will take."""
    known = known_seconds(root)
    if not set(STAGES) <= known.keys():
        return "no run has ended here yet: the training says how long it takes after its first batches"
    return (
        f"{duration(sum(known[stage] for stage in STAGES))} if every stage has to run, "
        f"{duration(known['train_backbone'])} of it training, as they last took"
    )
