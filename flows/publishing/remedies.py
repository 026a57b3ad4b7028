"""What to do about a first model that the gate rejects: the likeliest remedies, as commands.

Pure: counts and skills in, at most MOST remedies out, the likeliest first. The last one is a person's decision, which
is always possible.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.common.checks import Check, Frozen
from tasks.common.text import join_names
from tasks.scoring.skill import Skill

MOST = 3
FEW_GROUPS = 12  # groups of test images under which more groups help more than more images
FEW_IMAGES = 5  # images of a class in all splits under which the class cannot be learnt or measured
SHRUNK = 1.5  # images this much larger than the model's input may lose what tells the classes apart
FLOOR = "first model: "  # how the gate's finding about a floor of the user's begins
AGAIN = "then `evergreen retrain`"


class Remedy(Frozen):
    """One way out. `kind` is for programs; `text` is a sentence that ends with its commands."""

    kind: str  # labels | groups | check_labels | resolution | classes | setting | override
    text: str
    classes: list[str] = []  # that it is about; empty: all


@dataclass(frozen=True)
class Facts:
    """What a diagnosis needs to know about a run."""

    run_id: str
    images: dict[str, dict[str, int]]  # split -> class -> labelled images
    test: Skill | None  # of the model on the test split
    calibration: Skill | None
    unseen: Skill | None  # of a classifier on frozen features on training images that it was not fitted on
    side: float  # median shorter side of the images, pixels
    resolution: int  # images.resolution


def remedies(checks: Sequence[Check], facts: Facts) -> list[Remedy]:
    """The likeliest remedies for the failed `checks` of a first model; empty if none failed."""
    failed = {check.name: check for check in checks if check.status != "pass"}
    if not failed:
        return []
    found: list[Remedy] = []
    if any(check.detail.startswith(FLOOR) for check in failed.values()):
        found.append(_floor())
    if found or any(name.endswith(".skill") for name in failed):
        found += _unskilled(facts)
    if "class_collapse" in failed:
        found.append(_more_labels(facts, _weakest(facts), "the model never answers some classes"))
    for name, check in failed.items():
        if (setting := _setting(name)) and check.status == "fail":
            found.append(Remedy(kind="setting", text=setting.format(value=check.value, bound=check.bound, again=AGAIN)))
    found = found[: MOST - 1]
    return [*found, _override(facts.run_id)]


def table_remedies(checks: Sequence[Check]) -> list[Remedy]:
    """The likeliest remedies for a table that validation refused, from all checks that were made of it."""
    failed = [check for check in checks if check.status != "pass"]
    found: list[Remedy] = []
    if rows := next((check for check in failed if check.name == "rows"), None):
        found.append(
            Remedy(
                kind="labels",
                text="Too few labelled training images: label about "
                f"{1.5 * (rows.bound - rows.value):.0f} more (not all go to train): `evergreen ingest FOLDER`, "
                f"{AGAIN}.",
            )
        )
    support = [check.name.split(".", 2) for check in checks if check.name.startswith("support.")]
    short = [check.name.split(".", 2) for check in failed if check.name.startswith("support.")]
    names = list(dict.fromkeys(name for _, _, name in short))
    if names:
        text = f"Label more images of {join_names(names)}, best of new groups: `evergreen ingest FOLDER`, {AGAIN}."
        found.append(Remedy(kind="labels", classes=names, text=text))
        left = [name for _, split, name in support if split == "train" and name not in names]
        if len(left) >= 2:
            found.append(_leave_out(names, left, f"too few images in {join_names({split for _, split, _ in short})}"))
    return found[:MOST]


def _leave_out(names: list[str], left: list[str], why: str) -> Remedy:
    return Remedy(
        kind="classes",
        classes=names,
        text=f"{join_names(names)}: {why}. Leave them out for now: "
        f"`data.classes: {json.dumps(left, ensure_ascii=False)}` in params.yaml, `git commit -am classes`, {AGAIN}.",
    )


def _floor() -> Remedy:
    return Remedy(
        kind="setting",
        text="It misses a floor that you wrote, gate.first_model. Without one, a model that beats chance goes live as "
        f"provisional: `gate.first_model: null` in params.yaml, `git commit -am floor`, {AGAIN}.",
    )


def _unskilled(facts: Facts) -> list[Remedy]:
    """The answers are not shown to be better than chance, or too seldom right."""
    found = []
    if facts.unseen is not None and not facts.unseen.shown:
        seen = facts.unseen
        found.append(
            Remedy(
                kind="check_labels",
                text=f"The labels do not go with the images: on {seen.images} training images a classifier that had "
                f"not seen their labels has a balanced accuracy of {seen.value:.2f} ({seen.low:.2f} to "
                f"{seen.high:.2f}; chance {seen.chance:.2f}). Were label and image mixed up (a shifted column, "
                "sorted file names)? Correct the labels and start again from them: "
                "`evergreen init NEW_PROJECT --data CORRECTED`.",
            )
        )
    if rare := _rare(facts):
        left = [name for name in facts.images["train"] if name not in rare]
        if len(left) >= 2:
            found.append(_leave_out(rare, left, f"fewer than {FEW_IMAGES} images in all"))
    test = facts.test
    if test is not None and test.groups < test.images and test.groups < FEW_GROUPS:
        found.append(
            Remedy(
                kind="groups",
                text=f"The {test.images} test images are {test.groups} groups, and images of one group count once. "
                f"Bring images of more groups (other objects, sessions, tracks), about {_more_needed(test)} times as "
                f"many, of every class: `evergreen ingest FOLDER`, {AGAIN}.",
            )
        )
    else:
        found.append(
            _more_labels(facts, _weakest(facts), "too few images to learn from, or to tell the model from chance")
        )
    if facts.side >= SHRUNK * facts.resolution:
        larger = min(size for size in (96, 128, 192, 224, 384, 512, 1024) if size > facts.resolution)
        found.append(
            Remedy(
                kind="resolution",
                text=f"The images have {facts.side:.0f} pixels a side, and the model sees {facts.resolution}: small "
                f"details are lost. `images.resolution: {larger}` in params.yaml, "
                f"`git commit -am resolution`, {AGAIN}.",
            )
        )
    return found


def _more_labels(facts: Facts, classes: list[str], why: str) -> Remedy:
    times = _more_needed(facts.test) if facts.test is not None else 2
    total = sum(sum(split.values()) for split in facts.images.values())
    of = f", first of {join_names(classes)}" if classes else ""
    return Remedy(
        kind="labels",
        classes=classes,
        text=f"There are {why}: label about {(times - 1) * total:.0f} more images{of} (you have {total}): "
        f"`evergreen ingest FOLDER`, {AGAIN}.",
    )


def _more_needed(skill: Skill) -> int:
    """How many times the test images it takes to show a skill of `value`, by the width of its interval; 2 to 10."""
    lead, missing = skill.value - skill.chance, skill.value - skill.low
    if lead <= 0.02:
        return 4
    return int(min(max(math.ceil(1.3 * (missing / lead) ** 2), 2), 10))


def _weakest(facts: Facts, most: int = 5) -> list[str]:
    """The classes with the fewest images, if some have clearly fewer than others."""
    total = {name: sum(split.get(name, 0) for split in facts.images.values()) for name in facts.images["train"]}
    largest = max(total.values(), default=0)
    return sorted((name for name in total if total[name] < largest / 2), key=lambda name: (total[name], name))[:most]


def _rare(facts: Facts) -> list[str]:
    total = {name: sum(split.get(name, 0) for split in facts.images.values()) for name in facts.images["train"]}
    return [name for name, count in total.items() if count < FEW_IMAGES]


def _setting(name: str) -> str | None:
    """What to do about a bound: {value}, {bound} and {again} are filled in."""
    if name == "test.debiased_ece":
        return (
            "Its probabilities are off by {value:.2f}, at most {bound:.2f} is allowed: label more images (of the "
            "calibration split, too), or accept it: `gate.max_ece: 0.3` in params.yaml, "
            "`git commit -am calibration`, {again}."
        )
    if name.startswith("corruptions."):
        kind = name.split(".")[1]
        return (
            f"Under the corruption {kind} it keeps {{value:.0%}} of its accuracy, at least {{bound:.0%}} is asked "
            f"for: if your images never look like that, take {kind} out of `evaluate.corruptions` in params.yaml, "
            "`git commit -am corruptions`, {again}."
        )
    if name == "latency_ms.p99":
        return (
            "An image takes {value:.0f} ms, at most {bound:g} are allowed: judge it on a machine that is not busy "
            "(`evergreen retrain --force`), or set `gate.max_latency_ms` in params.yaml."
        )
    if name == "size_mb":
        return (
            "The model has {value:.0f} MB, at most {bound:g} are allowed: a smaller `train_backbone.backbone`, or "
            "`gate.max_size_mb` in params.yaml."
        )
    return None


def _override(run_id: str) -> Remedy:
    return Remedy(
        kind="override",
        text="You know better than the gate: "
        f'`evergreen promote {run_id} --override --why "..."` makes it live as it is.',
    )
