"""What floors say of versions that exist, by the answers that their runs stored.

Nothing is trained or run. Each version is judged on the test and hard images of its own run, by their labels of then.
The console and `evergreen floors` show it, so that a floor can be tried before it counts.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from flows.publishing.history import open_project
from flows.publishing.judge_run import with_marks
from flows.publishing.recorded_run import RUN_ID
from flows.repo.objects import ObjectLost, Objects, open_objects, outs_at
from tasks.common.checks import Check, Frozen
from tasks.common.errors import EvergreenError
from tasks.common.floors import Floor
from tasks.common.params import Params
from tasks.common.paths import main_checkout
from tasks.dataset.hard_set import never_again
from tasks.gate import floors as gate_floors
from tasks.gate.evidence import Contender, Trial, Unusable, read
from tasks.gate.sources import worst_source

NEEDED = ("artifacts/evaluate", "artifacts/calibrate")
MOST = 5  # versions that are judged unless some are named


class Standing(Frozen):
    """How one version or held run stands to the floors. `why`: why that cannot be told; "" if it can."""

    name: str
    live: bool
    checks: list[Check] = []  # one per floor and marked image, then the worst source
    why: str = ""


def standings(root: Path, floors: Sequence[Floor], names: Sequence[str] = ()) -> list[Standing]:
    """How the versions and runs `names` stand to `floors`, newest first; none: the live version and those before it.

    An image that is marked as never again is a floor, too. Raises EvergreenError for a name that is neither a version
    nor a run that left a commit.
    """
    main = main_checkout(root)
    params, releases = open_project(root)
    history = releases.history()
    revs = {pointer.version: pointer.git_rev for pointer in history}
    live = history[-1].version if history else None
    chosen = list(names) or list(reversed(revs))[:MOST]
    found = []
    with open_objects(main) as objects:
        for name in chosen:
            rev = revs.get(name) or _rev_of_run(releases, name)
            if rev is None:
                known = ", ".join(list(reversed(revs))[:10]) or "none"
                raise EvergreenError(f"{name!r} is not a version or a run that left a commit; versions: {known}")
            found.append(_standing(main, objects, rev, name, name == live, floors, params))
    return found


def _rev_of_run(releases, name: str) -> str | None:
    if not RUN_ID.fullmatch(name):
        return None
    record = releases.run(name) or {}
    promoted = next((one.git_rev for one in releases.history() if one.run_id == name), None)
    return promoted or record.get("rev")


def _standing(
    root: Path, objects: Objects, rev: str, name: str, live: bool, floors: Sequence[Floor], params: Params
) -> Standing:
    try:
        outs = outs_at(root, rev)
        if not outs.keys() >= set(NEEDED):
            return Standing(name=name, live=live, why="its commit does not record what the model answered")
        evaluated, calibrated = (objects.files(outs[part]) for part in NEEDED)
        about = json.loads(objects.read(calibrated["calibration.json"]))
        table = pq.read_table(io.BytesIO(objects.read(evaluated["predictions.parquet"])))
    except (ObjectLost, KeyError) as lost:
        return Standing(name=name, live=live, why=str(lost))
    asked = params.gate.model_copy(update={"floors": list(floors)})
    asked = with_marks(asked, never_again(root / "data"), table["id"].to_pylist())
    return Standing(name=name, live=live, checks=checks_of(table, about, asked.floors, params))


def checks_of(table, about: dict, floors: list[Floor], params: Params) -> list[Check]:
    """A check of each floor, by the answers `table` (predictions_schema) of the model with calibration.json `about`."""
    classes, task = about["classes"], about["task"]
    trial = Trial(classes, task, dict.fromkeys(classes, 0), None, costs=params.calibrate.cost_false_negative)
    try:
        evidence = read(Contender("", table, about), None, trial)
    except Unusable as unusable:
        return [Check(name=unusable.name, status="error", detail=str(unusable))]
    reached = gate_floors.states(floors, evidence, classes, params.gate, trial.costs)
    findings = [gate_floors.finding_of(one, params.gate) for one in reached]
    return [finding.check for finding in [*findings, *worst_source(evidence, classes, params.gate)]]
