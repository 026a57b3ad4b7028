"""Figures of benchmarks.recipe from its kept results."""

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.record import Figure

ARMS = ("recipe", "script", "strong", "probe")
PEERS = {  # arm -> (name of the figure, words, goal)
    "script": ("recipe_vs_script_points", "a plain timm script in the same time", 0.0),
    "strong": ("recipe_vs_strong_script_points", "a timm script with RandAugment, balanced sampler, EMA", 1.0),
    "probe": ("recipe_vs_probe_points", "a probe on frozen features", 0.0),
}


def interval(differences: list[float]) -> tuple[float, float]:
    """95 % interval of the mean (Student's t); one difference alone says nothing."""
    from scipy.stats import t

    if len(differences) < 2:
        return -math.inf, math.inf
    half = t.ppf(0.975, len(differences) - 1) * np.std(differences, ddof=1) / math.sqrt(len(differences))
    mean = float(np.mean(differences))
    return mean - half, mean + half


def by_set(results: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    for name in dict.fromkeys(one["set"] for one in results):
        yield name, [one for one in results if one["set"] == name]


def gains(results: list[dict], peer: str) -> list[float]:
    """Points by which the recipe is ahead of `peer`, for each result."""
    return [one["recipe"]["score"] - one[peer]["score"] for one in results]


def figures_of(results: list[dict]) -> list[Figure]:
    """Means over sets, the sets that are behind, and each set's own figures."""
    sets = dict(by_set(results))
    seeds = min(map(len, sets.values()))
    figures = []
    for peer, (named, words, goal) in PEERS.items():
        each = {name: float(np.mean(gains(some, peer))) for name, some in sets.items()}
        figures.append(
            Figure(
                name=named,
                value=float(np.mean(list(each.values()))),
                unit="points",
                goal=goal,
                better="higher",
                peer=words,
                seeds=seeds,
                spread=", ".join(f"{name} {value:+.1f}" for name, value in each.items()),
            )
        )
    behind = [f"{name} ({peer})" for name, some in sets.items() for peer in PEERS if interval(gains(some, peer))[1] < 0]
    figures.append(
        Figure(
            name="recipe_sets_behind",
            value=len({name.split(" (")[0] for name in behind}),
            unit=f"of {len(sets)} sets",
            goal=0.0,
            better="lower",
            peer="95 % interval over seeds wholly below 0",
            seeds=seeds,
            spread=", ".join(behind) or "none",
        )
    )
    return figures + [_set_figure(name, some) for name, some in sets.items()]


def _set_figure(name: str, results: list[dict]) -> Figure:
    def mean(arm: str, key: str) -> float:
        return float(np.mean([one[arm][key] for one in results]))

    low, high = interval(gains(results, "strong"))
    bounds = f" ({low:+.1f} to {high:+.1f})" if len(results) > 1 else ""
    return Figure(
        name=f"recipe_{name}_points",
        value=mean("recipe", "score"),
        unit="% balanced accuracy",
        goal=None,
        better="higher",
        peer=", ".join(f"{arm} {mean(arm, 'score'):.1f} %" for arm in PEERS),
        seeds=len(results),
        spread=f"ahead of the strong script by {np.mean(gains(results, 'strong')):+.1f}{bounds}; CPU seconds "
        + " / ".join(f"{mean(arm, 'seconds'):.0f}" for arm in ARMS),
    )
