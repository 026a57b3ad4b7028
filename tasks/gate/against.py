"""The gate's findings on differences from the champion: better, worse, or not shown."""

import math

from tasks.common.params import GateParams
from tasks.gate.non_inferiority import shown_at_most
from tasks.gate.paired import Difference
from tasks.gate.sentence import share_text
from tasks.gate.verdict import Finding, error, made

SUSPICION = 0.05  # one-sided level of a loss in one comparison: it can only cost a promotion
FIRST = 0.8  # share of alpha for the first set of `superior_on`


def _alpha(policy: GateParams, comparisons: int = 1) -> float:
    """Level of a one-sided test that is one of `comparisons`.

    Divided over many comparisons it can fall below the smallest p that the resamples can show, 1 / (resamples + 1).
    That p is then the level: a loss that no resample reached.
    """
    alone = (1 - policy.confidence) / 2
    return min(alone, max(alone / comparisons, 1 / (policy.resamples + 1)))


def gains(better: dict[str, Difference], m: int, policy: GateParams) -> list[Finding]:
    """One shown gain suffices. The other sets of `superior_on` must then not be worse, like any other set."""
    levels = _levels(better, policy)
    findings = [_superior(f"{name}.{policy.metric}", found, levels[name], m, policy) for name, found in better.items()]
    if all(finding.effect != "pass" for finding in findings):
        return findings
    return [
        not_worse(finding.check.name, found, policy.margin, m, policy) if finding.effect == "equal" else finding
        for finding, found in zip(findings, better.values(), strict=True)
    ]


def _levels(better: dict[str, Difference], policy: GateParams) -> dict[str, float]:
    """The chance of luck that each set may leave, of alpha together.

    A newest batch is a fraction of the test images: at half of alpha for each, a gain of the same size on all images
    is missed more often than one test on the test images would miss it.
    """
    alone, least = _alpha(policy), 1 / (policy.resamples + 1)
    if len(better) == 1 or all(found.p_better <= alone for found in better.values()):
        return dict.fromkeys(better, alone)
    first, *rest = better
    shares = {first: FIRST} | dict.fromkeys(rest, (1 - FIRST) / len(rest))
    return {name: min(alone, max(alone * share, least)) for name, share in shares.items()}


def _superior(name: str, found: Difference, level: float, m: int, policy: GateParams) -> Finding:
    if not math.isfinite(found.value + found.low):
        return error(name, f"{policy.metric} is not defined on these {found.n} images")
    if found.low > policy.min_gain and found.p_better <= level:
        return _difference(name, found, policy.min_gain, "pass", "better")
    if found.value < 0 and found.p_worse <= _alpha(policy, m):
        return _difference(name, found, policy.min_gain, "reject", "worse")
    return _difference(name, found, policy.min_gain, "equal", "not shown to be better")


def not_worse(name: str, found: Difference, margin: float, m: int, policy: GateParams, share: int = 1) -> Finding:
    """A loss beyond the margin and beyond luck; `share`: comparisons that share the level of a suspicion."""
    if not math.isfinite(found.value):
        return error(name, f"not defined on these {found.n} images")
    if found.value < -margin and found.p_worse <= _alpha(policy, m):
        return _difference(name, found, -margin, "reject", "worse")
    if found.value < -margin and found.p_worse <= SUSPICION / share:
        return _difference(name, found, -margin, "suspect", "perhaps worse")
    passed = _difference(name, found, -margin, "pass", "not worse")
    shown, needs, said = shown_at_most(found, margin, _alpha(policy))
    if not said:
        return passed
    check = passed.check.model_copy(update={"detail": f"{passed.check.detail}; {said}"})
    return Finding(check, "pass", shown, needs)


def _difference(name: str, found: Difference, bound: float, effect: str, word: str) -> Finding:
    among = "" if found.groups is None else f" in {found.groups} groups"
    new, old = abs(found.new), abs(found.old)  # of what is saved: what it costs
    detail = (
        f"{word}: {new:.3f} against {old:.3f} on {found.n} images{among}; by luck a gain like this "
        f"{share_text(found.p_better)}, a loss {share_text(found.p_worse)}"
    )
    if found.gained is not None:
        detail += f"; right only now {found.gained}, only before {found.lost}"
        detail += "" if found.groups else f" (McNemar p {found.mcnemar:.3g})"
    if found.noise is not None:
        detail += f"; equal models, such as two seeds of one recipe, lie within {100 * found.noise:.1f} points"
    low, high = (edge if math.isfinite(edge) else None for edge in (found.low, found.high))
    return made(name, effect, detail, value=found.value, bound=bound, low=low, high=high)
