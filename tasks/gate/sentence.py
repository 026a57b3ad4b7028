"""Writes the gate's verdict as one sentence for a person."""

import math

from tasks.common.checks import Check
from tasks.common.params import GateParams
from tasks.common.text import one_line
from tasks.gate.paired import Difference
from tasks.gate.verdict import Finding, floor_words

MOST = 3  # warnings in a sentence


def verdict_sentence(
    outcome: str,
    findings: list[Finding],
    policy: GateParams,
    better: dict[str, Difference],
    champion: str | None,
    hard_set: str | None,
    later: str = "",
    spread: str = "",
) -> str:
    """E.g. "promote: balanced accuracy on test 0.871, +2.3 points against v0.3.0 (...); nothing is worse ...".

    `better`: differences on the sets of `superior_on`; `champion`, `hard_set`: versions, None if there is none;
    `later`: what is said of a test that is later than training, "" if it is not; `spread`: what is said of
    several seeds.
    """
    parts = []
    metric = policy.metric.replace("_", " ")
    for name, found in better.items():
        text = f"{metric} on {one_line(name)} {found.new:.3f}, {_points(found.value)} against {one_line(str(champion))}"
        interval = f"{100 * policy.confidence:g} % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        seeds = "" if found.noise is None else f", other seeds alone ±{100 * found.noise:.1f}"
        parts.append(f"{text} ({interval}{seeds})")
    if champion is None:
        first = [finding.check for finding in findings if finding.check.name == f"test.{policy.metric}.recomputed"]
        parts.append("first model" + "".join(f"; {metric} on test {c.value:.3f}" for c in first if c.value is not None))
    errors = [finding.check for finding in findings if finding.check.status == "error"]
    failed = [finding.check for finding in findings if finding.effect == "reject" and finding.check.status == "fail"]
    suspects = [finding.check for finding in findings if finding.effect == "suspect"]
    provisional = [finding.check for finding in findings if finding.effect == "provisional"]
    if provisional and not (errors or failed):
        parts += [check.detail for check in provisional]
    if not (errors or failed):
        parts += [finding.check.detail for finding in findings if finding.effect == "warn"][:MOST]
    if errors:
        parts.append(f"cannot be judged: {_losses(errors)}")
    if failed:
        parts.append(f"fails {_losses(failed)}")
    if suspects and not (errors or failed):
        parts.append(f"perhaps worse, which forbids promotion: {_losses(suspects)}")
    below = [finding.check for finding in findings if finding.effect == "below"]
    if below and not (errors or failed):
        parts.append(f"a floor forbids promotion: {_losses(below)}")
    if not errors and any(finding.effect == "equal" for finding in findings):
        parts.append("not shown to be better" + _why_not(better, policy))
    if not (errors or failed or suspects or below):
        warned = any(finding.effect == "warn" for finding in findings)
        nothing = f"nothing is worse beyond its margin{_shown(findings)}"
        parts.append(nothing if better else f"every {'other ' * warned}bound holds")
    parts += _floors(findings)
    if hard_set is None:
        parts.append("no hard set exists")
    parts += [text for text in (later, spread) if text]
    return f"{outcome}: {'; '.join(parts)}."


def _why_not(better: dict[str, Difference], policy: GateParams) -> str:
    """Why a gain counts as unproven although its whole interval is above the bound, as on a few images."""
    surest = min((found for found in better.values() if found.low > policy.min_gain), key=_luck, default=None)
    if surest is None:
        return ""
    return f": on only {surest.n} images luck gives such a gain {share_text(surest.p_better)}, which is too often"


def _shown(findings: list[Finding], most: int = 2) -> str:
    """How much of "not worse" is shown, and which comparisons need how many images more."""
    judged = [finding for finding in findings if finding.shown is not None]
    open_ones = sorted((one for one in judged if not one.shown), key=lambda one: one.needs or math.inf, reverse=True)
    if not judged:
        return ""
    text = f" (shown for {len(judged) - len(open_ones)} of {len(judged)} comparisons"
    if open_ones:
        needs = ", ".join(
            f"{one_line(one.check.name)} {f'about {one.needs:,}' if one.needs else 'very many'}"
            for one in open_ones[:most]
        )
        more = f" and {len(open_ones) - most} others fewer" if len(open_ones) > most else ""
        text += f"; more images would show the rest: {needs}{more}"
    return text + ")"


def _floors(findings: list[Finding]) -> list[str]:
    """How many floors are met, the worst source, and the share of the hard set, where there are any."""
    parts = []
    floors = [finding.check for finding in findings if finding.check.is_floor]
    if said := floor_words(floors):
        parts.append(f"floors: {said}")
    parts += [
        check.detail.removeprefix("met: ")
        for check in floors
        if check.name.startswith("worst_source.") and check.detail.startswith("met:")
    ]
    hard = [
        finding.check for finding in findings if finding.check.name == "hard_set" and finding.check.value is not None
    ]
    return parts + [f"hard set: {check.detail.partition(', ')[2]}" for check in hard]


def _luck(found: Difference) -> float:
    return found.p_better


def _losses(checks: list[Check], most: int = 3) -> str:
    """The first `most` checks with their loss, or with what they say where nothing was compared."""
    texts = []
    for check in checks[:most]:
        figure = f" {_points(check.value)}" if check.is_difference else f" ({one_line(check.detail, 160)})"
        texts.append(one_line(check.name) + figure)
    more = len(checks) - most
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def share_text(p: float) -> str:
    """How often luck alone gives such a difference."""
    return f"{p:.1%} of the time" if p >= 0.001 else "under 0.1% of the time"
