"""Collects the gate's evidence: challenger and champion on the same images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from tasks.common.files import read_json
from tasks.common.floors import Floor
from tasks.common.params import GateParams, Params
from tasks.common.text import one_line
from tasks.gate.champion import calibration_skill, champion_evidence, clusters, hard_set_version, train_counts
from tasks.gate.verdict import GateVerdict
from tasks.labels.owner_names import owner_names
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, cached_bundle


def judge_run(root: Path, params: Params, releases: Releases, champion: Pointer | None) -> GateVerdict:
    """The gate's verdict on the bundle in `root` against `champion`; None: the first model.

    Raises BundleDamaged for a bundle whose recorded params are not those of the params.yaml in `root`.
    """
    from tasks.gate.evidence import Contender, Trial
    from tasks.gate.judge import judge
    from tasks.gate.shipped import bundle_difference, held_out_samples
    from tasks.releases.bundle import digest
    from tasks.stages.bundle.stage import check_params

    check_params(root / "artifacts/bundle", root / "params.yaml")
    challenger = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    classes = read_json(root / "artifacts/validate/classes.json")
    against = None
    if champion is not None:
        bundle = cached_bundle(releases, champion.bundle, root)
        against = Contender(champion.version, *champion_evidence(root, bundle, challenger, classes, params))
    own = Contender(digest(root / "artifacts/bundle"), challenger, read_json(root / "metrics/evaluate.json"))
    counts, hard_set = train_counts(root, classes), hard_set_version(challenger)
    trial = Trial(
        classes,
        params.data.task,
        counts,
        hard_set,
        calibration_skill(root),
        partial(shown_image, root),
        clusters(root, challenger["id"]),
        held_out_samples(root),
        bundle_difference(root, challenger),
        params.calibrate.cost_false_negative,
    )
    return judge(own, against, trial, params.gate)


def with_floors(params: Params, other: GateParams, more: Sequence[Floor] = ()) -> Params:
    """`params` of a run with the floors of `other`, the gate's settings of today, and `more`: floors hold for every
    model, also one that was made before they were written. Of two floors of one figure the one of `more` counts."""
    given = {floor.code for floor in more}
    floors = [*(floor for floor in other.floors if floor.code not in given), *more]
    gate = params.gate.model_copy(update={"floors": floors, "unproven": other.unproven})
    return params.model_copy(update={"gate": gate})


def shown_image(root: Path, image: str) -> str:
    """The start of the id `image`, with the owner's key and path where data/ holds it."""
    name = owner_names(root, [image]).get(image)
    return f"{image[:12]} ({one_line(name)})" if name else image[:12]
