"""Figures of benchmarks.augmentation from its kept results: differences to the default of the same set and seed."""

from collections.abc import Sequence

import numpy as np

from benchmarks.record import Figure

MIXING = ("mixup", "cutmix", "mixup_cutmix")


def differences(results: Sequence[dict], arm: str, key: str) -> dict[str, list[float]]:
    """Set -> for each seed, `key` of `arm` minus that of the default."""
    base = {(one["set"], one["seed"]): one[key] for one in results if one["arm"] == "default"}
    found: dict[str, list[float]] = {}
    for one in results:
        if one["arm"] == arm and (one["set"], one["seed"]) in base:
            found.setdefault(one["set"], []).append(one[key] - base[one["set"], one["seed"]])
    return found


def figure(results: Sequence[dict], name: str, arm: str, key: str, better: str, goal: float | None) -> Figure:
    """The mean over sets of `differences`."""
    found = differences(results, arm, key)
    return Figure(
        name=name,
        value=float(np.mean([np.mean(values) for values in found.values()])),
        unit="points",
        goal=goal,
        better=better,
        peer="augment: [crop, flip]",
        seeds=min(map(len, found.values())),
        spread=", ".join(
            f"{images} {np.mean(values):+.1f} ({min(values):+.1f} to {max(values):+.1f})"
            for images, values in found.items()
        ),
    )


def figures_of(results: Sequence[dict]) -> list[Figure]:
    """Gains of balanced accuracy of every arm; of mixing, also the change of calibration; of the schedule, of time."""
    arms = [arm for arm in dict.fromkeys(one["arm"] for one in results) if arm != "default"]
    figures = [figure(results, f"augment_{arm}_points", arm, "balanced_accuracy", "higher", None) for arm in arms]
    for arm in arms:
        if arm in MIXING:
            figures += [
                figure(results, f"claim_{arm}_ece_points", arm, "ece", "lower", 0.0),
                figure(results, f"claim_{arm}_ece_after_scaling_points", arm, "ece_scaled", "lower", 0.0),
            ]
    if "resolution_schedule" in arms:
        seconds = {
            arm: sum(one["seconds"] for one in results if one["arm"] == arm)
            for arm in ("default", "resolution_schedule")
        }
        figures.append(
            Figure(
                name="resolution_schedule_time_ratio",
                value=seconds["resolution_schedule"] / seconds["default"],
                unit="times",
                goal=1.0,
                better="lower",
                peer="the whole resolution in all epochs",
                seeds=len({one["seed"] for one in results}),
            )
        )
    return figures
