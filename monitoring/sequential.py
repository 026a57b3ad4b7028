"""Tests that may be looked at after every request: e-values, from counts alone.

An e-value is the wealth of a bettor against the null hypothesis, who starts with 1. If the hypothesis is true, the
chance that the wealth ever reaches 1/alpha is at most alpha, however often one looks (Ville's inequality; Ramdas,
Gruenwald, Vovk and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"). So no level is spent on
looks, and a test can stop as soon as it is sure. Every function returns log(e); its bets are a mixture over GRID.

N: the new model's arm; L: the live model's arm. A stratum is (events in N, events in L, share of N): of events that
both models would cause equally often, the share that falls into N is the share of the traffic that N gets.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, log, log1p

GRID = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)  # odds ratios of the alternatives
STAKES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)  # shares of the wealth in a paired bet

Stratum = tuple[int, int, float]
Blocks = Mapping[tuple[int, int, bool], int]  # (L in the block, wrong of all its answers, N is wrong) -> how many


def rarer(strata: Iterable[Stratum], ratio: float) -> float:
    """log(e) against "N causes the event at least `ratio` times as often as L"."""
    return _shares(strata, ratio, [1 / one for one in GRID])


def commoner(strata: Iterable[Stratum], ratio: float) -> float:
    """log(e) against "N causes the event at most `ratio` times as often as L"."""
    return _shares(strata, ratio, GRID)


def exceeds(count: int, n: int, share: float) -> float:
    """log(e) against "an event of chance `share` at most", seen `count` times in `n`."""
    return _mixture([_bet(count, n - count, share, one) for one in GRID])


def more_wrong(blocks: Blocks) -> float:
    """log(e) against "N is wrong at most as often as L" on labelled answers; a block has one of N and some of L.

    The answers of a block are exchangeable under the null, so each of its wrong ones is N's with the same chance. That
    holds however many answers of each arm got labels, as long as nobody picked them for being wrong.
    """
    bets = []
    for ratio in GRID:
        wealth = 0.0
        for (live, wrong, new_is_wrong), number in blocks.items():
            if 0 < wrong < live + 1:
                wealth += number * _bet(int(new_is_wrong), int(not new_is_wrong), wrong / (live + 1), ratio)
        bets.append(wealth)
    return _mixture(bets)


def paired_rarer(both: int, only_live: int, only_new: int, ratio: float) -> float:
    """log(e) against "N causes the event at least `ratio` (up to 1) times as often as L", on the same images."""
    return _paired(both, only_live, only_new, ratio, -1.0)


def paired_commoner(both: int, only_live: int, only_new: int, ratio: float) -> float:
    """log(e) against "N causes the event at most `ratio` times as often as L", on the same images."""
    return _paired(both, only_live, only_new, ratio, 1.0)


def matched(new_wrong: Sequence[bool], live_wrong: Sequence[bool], live_each: int) -> dict[tuple[int, int, bool], int]:
    """Blocks of one answer of N and `live_each` of L, by order of time; what fills no block yet waits."""
    blocks: dict[tuple[int, int, bool], int] = {}
    for number, wrong in enumerate(new_wrong):
        live = live_wrong[number * live_each : (number + 1) * live_each]
        if len(live) < live_each:
            break
        place = (live_each, sum(live) + wrong, bool(wrong))
        blocks[place] = blocks.get(place, 0) + 1
    return blocks


def _shares(strata: Iterable[Stratum], ratio: float, factors: Sequence[float]) -> float:
    found = [(new, live, ratio * share / (ratio * share + 1 - share)) for new, live, share in strata if 0 < share < 1]
    return _mixture([sum(_bet(new, live, null, factor) for new, live, null in found) for factor in factors])


def _bet(hits: int, misses: int, null: float, odds: float) -> float:
    """Log of the likelihood ratio of a share whose odds are `odds` times those of `null`, against `null`."""
    scale = 1 - null + null * odds
    return hits * log(odds / scale) - misses * log(scale)


def _paired(both: int, only_live: int, only_new: int, ratio: float, sign: float) -> float:
    """Bet on the sign of the mean of [N has it] - ratio [L has it]. The stake keeps the wealth above 0."""
    most = 1.0 if sign < 0 else 1 / max(ratio, 1.0)
    bets = []
    for stake in STAKES:
        step = sign * stake * most
        bets.append(both * log1p(step * (1 - ratio)) + only_live * log1p(-step * ratio) + only_new * log1p(step))
    return _mixture(bets)


def _mixture(bets: Sequence[float]) -> float:
    top = max(bets)
    return top + log(sum(exp(one - top) for one in bets) / len(bets))
