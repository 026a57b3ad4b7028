"""Figures of benchmarks.long_tail from its kept results. K is the number of classes."""

import numpy as np

from benchmarks.record import Figure

MANY, FEW = 100, 50  # training images: a many-shot class has more than MANY, a few-shot class fewer than FEW
PLAIN = "cross_entropy"


def shots(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (K,) bool: which classes have many, a medium number of, and few training images."""
    return {"many": counts > MANY, "medium": (counts >= FEW) & (counts <= MANY), "few": counts < FEW}


def summary(recall: list[float], counts: list[int]) -> dict[str, float]:
    """Percent: balanced accuracy (`all`), and mean recall of many-, medium- and few-shot classes that there are."""
    values, groups = 100 * np.array(recall), shots(np.array(counts))
    means = {name: float(np.nanmean(values[members])) for name, members in groups.items() if members.any()}
    return {"all": float(np.nanmean(values))} | means


def by_arm(results: list[dict]) -> dict[str, dict[int, dict[str, float]]]:
    """Arm -> seed -> `summary`, of the results of one set; `post_hoc` is made from cross entropy's logits."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for one in results:
        found.setdefault(one["arm"], {})[one["seed"]] = summary(one["recall"], one["counts"])
        if one["arm"] == PLAIN:
            found.setdefault("post_hoc", {})[one["seed"]] = summary(one["post_hoc"], one["counts"])
    return found


def figures_of(results: list[dict]) -> list[Figure]:
    """For each set and arm: balanced accuracy, its gain over cross entropy, and that of each group of classes."""
    figures = []
    for name in dict.fromkeys(one["set"] for one in results):
        of_set = [one for one in results if one["set"] == name]
        arms = by_arm(of_set)
        for arm, seeds in arms.items():
            seconds = [one["seconds"] for one in of_set if one["arm"] == arm] or [0.0]
            figures.append(_figure(name, arm, seeds, arms.get(PLAIN, {}), float(np.mean(seconds)), of_set[0]["device"]))
    return figures + _claim(results)


def _claim(results: list[dict]) -> list[Figure]:
    """The claim that the focal loss finds more images of rare classes (Lin et al. 2017), over sets that have some."""
    gains: dict[str, list[float]] = {}
    for name in dict.fromkeys(one["set"] for one in results):
        arms = by_arm([one for one in results if one["set"] == name])
        focal, plain = arms.get("focal", {}), arms.get(PLAIN, {})
        both = [seed for seed in sorted(focal.keys() & plain.keys()) if "few" in focal[seed]]
        if both:
            gains[name] = [focal[seed]["few"] - plain[seed]["few"] for seed in both]
    if not gains:
        return []
    return [
        Figure(
            name="claim_focal_few_shot_points",
            value=float(np.mean([np.mean(some) for some in gains.values()])),
            unit="points",
            goal=None,
            better="higher",
            peer="cross entropy, recall of few-shot classes, mean over the sets",
            seeds=min(map(len, gains.values())),
            spread=", ".join(f"{name} {np.mean(some):+.1f}" for name, some in gains.items()),
        )
    ]


def _figure(name: str, arm: str, found: dict, plain: dict, seconds: float, device: str) -> Figure:
    scores = [one["all"] for one in found.values()]
    parts = ", ".join(f"{part} {np.mean([one[part] for one in found.values()]):.1f}" for part in _parts(found))
    both = sorted(found.keys() & plain.keys())
    spread = f"{parts}; each seed {', '.join(f'{score:.1f}' for score in scores)}; {seconds:.0f} s on {device}"
    peer = "published recipes: docs/long-tail.md" if name == "cifar_5000" else ""
    if both and arm != PLAIN:
        gains = {part: [found[seed][part] - plain[seed][part] for seed in both] for part in ("all", *_parts(found))}
        peer = "cross entropy, by " + ", ".join(f"{part} {np.mean(some):+.1f}" for part, some in gains.items())
        peer += f" (all: each seed {', '.join(f'{gain:+.1f}' for gain in gains['all'])})"
    return Figure(
        name=f"long_tail_{name}_{arm}",
        value=float(np.mean(scores)),
        unit="% balanced accuracy",
        goal=None,
        better="higher",
        peer=peer,
        seeds=len(scores),
        spread=spread,
    )


def _parts(found: dict[int, dict[str, float]]) -> list[str]:
    return [part for part in ("many", "medium", "few") if all(part in one for one in found.values())]
