"""Collects the gate's evidence: challenger and champion on the same images."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from flows.publishing.asked_sets import asked_sets, count_looks, new_look, unfair_to
from flows.scale.fill import fill_champion
from tasks.common.files import read_json
from tasks.common.floors import Floor
from tasks.common.params import GateParams, Params
from tasks.common.paths import main_checkout
from tasks.common.text import one_line
from tasks.dataset.hard_set import never_again
from tasks.gate.champion import calibration_skill, champion_evidence, clusters, hard_set_version, train_counts
from tasks.gate.verdict import GateVerdict
from tasks.labels.owner_names import owner_names
from tasks.releases.looks import How, read_looks, record_look
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, cached_bundle

SHORT = 12  # digits of an id that a verdict shows


def judge_run(
    root: Path,
    params: Params,
    releases: Releases,
    champion: Pointer | None,
    *,
    run: str | None = None,
    by: str = "",
    how: How = "run",
) -> GateVerdict:
    """The gate's verdict on the bundle in `root` against `champion`; None: the first model.

    run: the run's id: the look that this takes at hard set and test split is recorded under it. None: it is not
    recorded. by, how: who judges, and why. Raises BundleDamaged for a bundle whose recorded params are not those of the
    params.yaml in `root`.
    """
    from tasks.gate.evidence import Contender, Trial, differing
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
        fill_champion(root, params, bundle, challenger)
        against = Contender(champion.version, *champion_evidence(root, bundle, challenger, classes, params))
    own = Contender(digest(root / "artifacts/bundle"), challenger, read_json(root / "metrics/evaluate.json"))
    counts, hard_set = train_counts(root, classes), hard_set_version(challenger)
    version = champion.version if champion else None
    unfair = unfair_to(root, champion, challenger)
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
        unfair=unfair.ids,
        unfair_why=unfair.sentence(version or ""),
        seeds=_seeds(root),
    )
    sets, ledger, look = asked_sets(root, challenger), read_looks(releases.store), None
    if run is not None:
        about = {"run": run, "by": by, "how": how, "challenger": own.name, "champion": version}
        look = new_look(root, sets, differ=differing(own, against, trial), **about)
    asked = tuple(count_looks(sets, ledger, look))
    gate = with_marks(params.gate, _marks(root), challenger["id"].to_pylist())
    verdict = judge(own, against, replace(trial, asked=asked), gate)
    if look is not None:
        record_look(releases.store, look)
    return verdict


def _seeds(root: Path) -> dict | None:
    """The scores of the trainings of this run that differ in their seed alone; None for a single one."""
    file = root / "metrics/train_backbone.json"  # an adopted model has none
    return read_json(file).get("seeds") if file.is_file() else None


def _marks(root: Path) -> frozenset[str]:
    """The images marked as never to be wrong again, as the project has them today, for runs made before, too."""
    main = main_checkout(root)
    return never_again((main if (main / "data" / "dataset.json").is_file() else root) / "data")


def with_marks(policy: GateParams, never: Collection[str], judged: Collection[str]) -> GateParams:
    """`policy` with a floor for each marked image, an id, among those that are judged; what it names itself stays.

    The floor names the start of the id, as people type it, where no other judged image begins like that.
    """
    named = {floor.image for floor in policy.floors if floor.image}
    starts = Counter(image[:SHORT] for image in judged)
    marked = [image for image in sorted(set(never) & set(judged)) if not any(image.startswith(name) for name in named)]
    new = [Floor(image=image[:SHORT] if starts[image[:SHORT]] == 1 else image) for image in marked]
    return policy.model_copy(update={"floors": [*policy.floors, *new]})


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
