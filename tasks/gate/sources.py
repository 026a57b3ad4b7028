"""The source (camera, site) where a model does worst: in every verdict, and bounded by guessing.

Each source is compared with the champion as a slice of its own. That says nothing about a first model, and nothing
about a source that has always been bad.
"""

from tasks.common.floors import WORST, Floor
from tasks.common.params import GateParams
from tasks.gate.evidence import SOURCE, Evidence
from tasks.gate.floor_figures import Figure, measure
from tasks.gate.floors import Outcome, finding_of, state_of
from tasks.gate.verdict import Finding


def worst_source(evidence: Evidence, classes: list[str], policy: GateParams) -> list[Finding]:
    """A check of the source with the lowest mean recall; [] unless two sources have `min_class_support` test images.

    A model that is shown to be below guessing there is rejected, unless the champion is not better on this source: then
    it is a warning, as is a figure below guessing that luck may explain. Above guessing is enough; nothing needs to be
    proven.
    """
    sources = [name for name, mask in evidence.sets.items() if name.startswith(SOURCE)]
    sources = [name for name in sources if evidence.sets[name].sum() >= policy.min_class_support]
    if len(sources) < 2:
        return []
    chance = 0.5 if evidence.targets.ndim == 2 else 1 / len(classes)
    floor = Floor(source=WORST, balanced_accuracy=chance)
    found = {}
    for name in sources:
        figure = measure(floor, evidence.new, evidence, classes, evidence.sets[name], policy, {}, len(sources))
        if figure is not None:
            found[name] = figure
    name = min(found, key=lambda one: found[one].value)
    old = None
    if evidence.old is not None:
        old = measure(floor, evidence.old, evidence, classes, evidence.sets[name], policy, {})
    return [_finding(floor, name, found[name], old, policy)]


def _finding(floor: Floor, name: str, figure: Figure, old: Figure | None, policy: GateParams) -> Finding:
    source, state = name.removeprefix(SOURCE), state_of(floor, figure)
    outcome = Outcome(floor, state, figure, f"images of source {source}", source, old.value if old else None)
    found = finding_of(outcome, policy)
    if state in ("met", "unproven"):
        effect, words = (
            "pass",
            f"met: balanced accuracy {figure.value:.3f} on {figure.images} images of the worst source,",
        )
        detail = f"{words} {source}; guessing gives {floor.bound:.3g}"
    elif state == "below" or (old is not None and old.value <= max(figure.value, floor.bound)):
        effect, detail = "warn", f"warning: the worst source is below guessing: {outcome.detail}"
    else:
        effect, detail = "reject", f"{outcome.detail}, which is what guessing gives"
    status = "pass" if effect in ("pass", "warn") else "fail"
    named = {"name": "worst_source.balanced_accuracy", "status": status, "detail": detail}
    return Finding(found.check.model_copy(update=named), effect)
