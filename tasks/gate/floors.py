"""Judges the floors of `gate.floors`: bounds of any figure that every model must keep.

Each floor gives a check with a state, the first word of its detail:

- missed: shown to be below the floor -> reject; an image of which the answer is wrong is a fact, not an estimate
- below: below it on these images, but luck may explain that -> hold
- unproven: above it on these images, but too few of them show it -> `unproven` of the floor, else of the policy
- met: shown to be above it

Against a champion there is a second check (tasks.gate.floors_kept).

N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.common.checks import Check
from tasks.common.floors import WORST, Floor
from tasks.common.params import GateParams
from tasks.common.text import join_names
from tasks.gate.evidence import SOURCE, Evidence, Unusable
from tasks.gate.floor_figures import Figure, measure, relevant
from tasks.gate.verdict import Finding
from tasks.scoring.metrics import one_hot

State = str  # "met" | "unproven" | "below" | "missed"
EFFECTS = {"met": "pass", "below": "below", "missed": "reject"}


@dataclass(frozen=True)
class Outcome:
    """How a model stands to one floor."""

    floor: Floor
    state: State
    figure: Figure | None  # None: no image shows it
    images: str  # what is counted: "images of class crack on the test set"
    where: str = ""  # of the worst place: which one it is
    old: float | None = None  # the champion's figure there

    @property
    def detail(self) -> str:
        return f"{self.state}: {_detail(self)}"


def states(
    floors: list[Floor], evidence: Evidence, classes: list[str], policy: GateParams, costs: Mapping[str, float]
) -> list[Outcome | Unusable]:
    """How the challenger of `evidence` stands to each floor; Unusable for a floor about something unknown."""
    found: list[Outcome | Unusable] = []
    for floor in floors:
        try:
            found.append(_state(floor, evidence, classes, policy, costs))
        except Unusable as unusable:
            found.append(unusable)
    return found


def effect_of(outcome: Outcome, policy: GateParams) -> str:
    """What the state means for the verdict: an effect of tasks.gate.verdict.Finding."""
    if outcome.state != "unproven":
        return EFFECTS[outcome.state]
    return "warn" if (outcome.floor.unproven or policy.unproven) == "warn" else "below"


def finding_of(outcome: Outcome | Unusable, policy: GateParams) -> Finding:
    """The check of a floor, with its limits as the interval."""
    if isinstance(outcome, Unusable):
        return Finding(Check(name=outcome.name, status="error", detail=str(outcome)), "reject")
    effect, figure = effect_of(outcome, policy), outcome.figure
    check = Check(
        name=outcome.floor.code,
        status="pass" if effect in ("pass", "warn") else "fail",
        value=figure.value if figure else None,
        bound=outcome.floor.bound,
        low=figure.low if figure else None,
        high=figure.high if figure else None,
        detail=outcome.detail,
    )
    return Finding(check, effect)


def _state(
    floor: Floor, evidence: Evidence, classes: list[str], policy: GateParams, costs: Mapping[str, float]
) -> Outcome:
    if floor.class_ is not None and floor.class_ not in classes:
        raise Unusable(floor.code, f"gate.floors names the class {floor.class_!r}, there are {join_names(classes, 12)}")
    if floor.image is not None:
        return _image(floor, evidence, classes)
    place, figure, state = worst_place(floor, evidence, classes, policy, costs)
    old = None
    if evidence.old is not None and figure is not None:
        before = measure(floor, evidence.old, evidence, classes, evidence.sets[place], policy, costs)
        old = before.value if before else None
    where = place.removeprefix("slice:") if WORST in (floor.slice, floor.source) else ""
    return Outcome(floor, state, figure, _counted(floor, where), where, old)


def _image(floor: Floor, evidence: Evidence, classes: list[str]) -> Outcome:
    """A "never again" image: the answer to it is right or wrong."""
    rows = [
        row
        for row, (id_, key) in enumerate(zip(evidence.ids, evidence.keys, strict=True))
        if id_.startswith(floor.image) or key == floor.image
    ]
    if len(rows) != 1:
        problem = "is not in the test or hard set" if not rows else f"is the beginning of {len(rows)} ids: write more"
        raise Unusable(floor.code, f"gate.floors names the image {floor.image!r}, which {problem}")
    right = [
        bool((one_hot(evidence.targets[rows], len(classes)) == one_hot(answers[rows], len(classes))).all())
        for answers in (evidence.new, *([] if evidence.old is None else [evidence.old]))
    ]
    value = float(right[0])
    figure = Figure(value, value, value, 1, None)
    old = float(right[1]) if len(right) > 1 else None
    return Outcome(floor, "met" if right[0] else "missed", figure, "image", old=old)


def worst_place(
    floor: Floor, evidence: Evidence, classes: list[str], policy: GateParams, costs: Mapping[str, float]
) -> tuple[str, Figure | None, State]:
    """(place, figure, state) of the floor's place, or of the worst of several."""
    places = _places(floor, evidence, classes, policy)
    found = {}
    for place in places:
        mask = evidence.sets[place]
        figure = measure(floor, evidence.new, evidence, classes, mask, policy, costs, len(places))
        if figure is not None:
            found[place] = figure
    if not found:
        return places[0], None, "unproven"
    sign = -1 if floor.figure == "cost" else 1
    by_place = {place: state_of(floor, figure) for place, figure in found.items()}
    order = ["missed", "below", "unproven", "met"]
    state = min(by_place.values(), key=order.index)
    if state == "unproven":  # the place that lacks most images
        worst = max(
            (place for place in found if by_place[place] == state),
            key=lambda place: (found[place].needed or np.inf) - found[place].images,
        )
    else:
        worst = min((place for place in found if by_place[place] == state), key=lambda place: sign * found[place].value)
    return worst, found[worst], state


def state_of(floor: Floor, figure: Figure) -> State:
    """Is `figure` shown to be below the floor, below it, above it, or shown to be above it?"""
    sign = -1 if floor.figure == "cost" else 1
    nearest, furthest = (figure.high, figure.low) if sign > 0 else (figure.low, figure.high)
    if sign * (nearest - floor.bound) < 0:
        return "missed"
    if sign * (figure.value - floor.bound) < -1e-12:
        return "below"
    return "met" if sign * (furthest - floor.bound) >= -1e-12 else "unproven"


def _places(floor: Floor, evidence: Evidence, classes: list[str], policy: GateParams) -> list[str]:
    """Names of the sets where the floor is measured: one, or those of which the worst counts.

    Places of fewer than `min_class_support` images are left out, unless all are so small: their figures are luck.
    """
    if WORST not in (floor.slice, floor.source):
        if floor.place not in evidence.sets:
            known = [name.removeprefix("slice:") for name in evidence.sets]
            raise Unusable(
                floor.code, f"gate.floors names {floor.place.removeprefix('slice:')}, there are {join_names(known, 12)}"
            )
        return [floor.place]
    wanted = floor.source == WORST
    places = [name for name in evidence.sets if name.startswith("slice:") and name.startswith(SOURCE) == wanted]
    if not places:
        lacking = "sources" if wanted else "slices"
        raise Unusable(floor.code, f"gate.floors asks for the worst of the {lacking}, and no test image has one")
    counts = {place: relevant(floor, evidence.new, evidence, classes, evidence.sets[place]).sum() for place in places}
    large = [place for place in places if counts[place] >= policy.min_class_support]
    return large or [max(places, key=counts.__getitem__)]


# --- words -----------------------------------------------------------------------------------------------------


def _counted(floor: Floor, where: str) -> str:
    place = where or floor.place.removeprefix("slice:")
    place = {"test": "the test set", "newest": "the newest batch", "hard": "the hard set"}.get(place, place)
    if floor.class_ is None:
        return f"images of {place}"
    return f"{'answers' if floor.figure == 'precision' else 'images of class'} {floor.class_} on {place}"


def _detail(outcome: Outcome) -> str:
    floor, figure = outcome.floor, outcome.figure
    side = "most" if floor.figure == "cost" else "least"
    if floor.image is not None:
        said = "answered correctly" if figure.value else "answered wrongly: this image must be right"
        return said + ("" if outcome.old is None else f"; the live model is {'right' if outcome.old else 'wrong'}")
    if figure is None:
        return (
            f"there are no {outcome.images}, so nothing shows {floor.bound:g} or {'less' if side == 'most' else 'more'}"
        )
    what = floor.figure.replace("_", " ").replace("f1", "F1")
    detail = f"{what} {_shown(figure.value)}, at {side} {floor.bound:g}, on {figure.images} {outcome.images}"
    detail += f" (limits {_shown(figure.low)} to {_shown(figure.high)})"
    if outcome.state == "unproven":
        detail += f"; {_missing(figure)}"
    return detail + ("" if outcome.old is None else f"; the live model has {_shown(outcome.old)}")


def _missing(figure: Figure) -> str:
    if figure.needed is None:
        return "so near to the floor, no number of images proves it"
    more = max(1, figure.needed - figure.images)
    return f"{figure.needed:,} such images would prove it, {more:,} more"


def _shown(value: float) -> str:
    return f"{value:.3f}"
