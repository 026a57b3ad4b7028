"""Suggest parameters for a user's images and labels, from a bounded sample.

`profile_source` measures, `suggest_params` decides. Each choice comes with the reason that params.yaml shows above it.
"""

import platform
import re
import shutil
import sys
from statistics import median

import numpy as np

from flows.project.source_profile import SourceProfile
from tasks.common.params import Params, parse_params

CPU_SIZE = 128  # 224 pixels cost three times as much: an hour for 20,000 images on two cores
MOSTLY = 0.9  # of the images have a time: a division by time is worth naming
SIZES = (64, 96, 128, 224)
SYMBOL_WORDS = {"sign", "signs", "arrow", "stop", "yield", "turn", "letter", "digit", "character", "glyph", "gesture"}


def suggest_params(profile: SourceProfile) -> tuple[Params, dict[str, str]]:
    """Parameters for a profile, and for every changed one ("section.key") the reason."""
    smallest = min(profile.classes.values(), default=0)
    common = median(profile.classes.values()) if profile.classes else 0
    side, aspect = median(profile.sides), median(profile.aspects)
    values: dict[str, dict] = {
        "data": {
            "task": "multilabel" if profile.multilabel else "multiclass",
            "layout": profile.layout,
            "time_format": profile.time_format,
        },
        "images": {
            "resolution": _size(side),
            "fit": "squash" if aspect < 1.25 else "pad",
            "bit_depth": _bit_depth(profile.bits),
        },
        "validate": {
            "min_rows": int(np.clip(0.35 * profile.labelled, 10, 50)),
            "min_per_class": _min_per_class(smallest, bool(profile.group_notes)),
            "expectations": _expectations(min(profile.sides)),
        },
        "clean": {"rare_class": int(np.clip(common // 4, 5, 20))},
        "train_backbone": {"epochs": _epochs(profile.rows), "augment": _augment(profile)},
        "bundle": {"name": slug(profile.name)},
    }
    why = {
        "data.task": f"{profile.rows} rows, {profile.labelled} labelled, {len(profile.classes)} classes"
        + (", some rows with several labels" if profile.multilabel else ", one label per row"),
        "images.resolution": f"the median shorter side is {side:g} pixels; a larger one costs time with its square"
        + ("" if accelerated() else f"; no GPU here, so at most {CPU_SIZE}"),
        "images.fit": f"the median aspect is {aspect:.2f}; crop keeps the shape as well, but loses the edges",
        "images.bit_depth": f"{len(profile.bits)} sampled images have 16 bits and use up to {max(profile.bits)}"
        if profile.bits
        else None,
        "validate.min_rows": f"{profile.labelled} labelled rows before they are split",
        "validate.min_per_class": f"the smallest class has {smallest} images",
        "clean.rare_class": f"half of the classes have at most {common:g} images",
        "train_backbone.epochs": f"{profile.rows} rows: less data, more epochs",
        "train_backbone.augment": _augment_note(profile),
        "train_backbone.domain": _domain_note(profile),
        "data.split": _split_note(profile),
    }
    if profile.time_format:
        why["data.time_format"] = "the only usual format that fits every time of the source"
    if profile.layout:
        why["data.layout"] = f"as given; it finds {_listed(profile.found)}"
    return parse_params(values, "the fitted parameters"), why


def _bit_depth(bits: tuple[int, ...]) -> int | None:
    """The usual depth of a sensor that holds all values; None if no 16-bit image leaves it open."""
    return next((depth for depth in (8, 10, 12, 14, 16) if depth >= max(bits)), 16) if bits else None


def _size(side: float) -> int:
    """The smallest size of at least three quarters of the median shorter side; limited if a CPU has to train it."""
    size = next((size for size in SIZES if size >= 0.75 * side), SIZES[-1])
    return size if accelerated() else min(size, CPU_SIZE)


def trainable_sizes() -> tuple[int, ...]:
    """The resolutions that this machine can train at in reasonable time, ascending."""
    return tuple(size for size in SIZES if accelerated() or size <= CPU_SIZE)


def accelerated() -> bool:
    """Is there a GPU to train on? Looks for the driver's command: importing torch would take seconds."""
    return shutil.which("nvidia-smi") is not None or (sys.platform == "darwin" and platform.machine() == "arm64")


def _min_per_class(smallest: int, few_groups: bool) -> dict[str, int]:
    """Minimum images of each class per split.

    Every class of 3 images or groups gets one in each split; images that are excluded later are the reserve.
    few_groups: some class has too few groups for that.
    """
    held_out = 1 if smallest >= 40 and not few_groups else 0
    return {"train": 3 if smallest >= 10 else 1, "calibration": held_out, "test": held_out}


def _expectations(side: int) -> list[dict]:
    between = "expect_column_values_to_be_between"
    low = min(16, side)
    return [
        {"type": between, "kwargs": {"column": "width", "min_value": low}},
        {"type": between, "kwargs": {"column": "height", "min_value": low}},
        {"type": between, "kwargs": {"column": "contrast", "min_value": 1.0}},
    ]


def _epochs(rows: int) -> dict[str, int]:
    """All of the network from the first epoch: the classifier starts as a linear probe (train_backbone)."""
    everything = next((epochs for limit, epochs in ((1_000, 15), (10_000, 7), (100_000, 4)) if rows < limit), 2)
    return {"frozen": 0, "last": 0, "all": everything}


def _words(profile: SourceProfile) -> set[str]:
    """The words in the names of the classes, in lower case."""
    return {word for name in profile.classes for word in re.split(r"[^a-z0-9]+", name.lower())}


def _mirrored_differ(profile: SourceProfile) -> bool:
    """Do the class names suggest that a mirrored image has another class, or none?"""
    characters = bool(profile.classes) and all(len(name) == 1 for name in profile.classes)
    return characters or bool(_words(profile) & {"left", "right", "clockwise"})


def _domain_note(profile: SourceProfile) -> str | None:
    """Advice for classes that are named like signs or characters; the domain itself stays the user's decision."""
    if not (_mirrored_differ(profile) or SYMBOL_WORDS & _words(profile)):
        return None
    return (
        "the classes are named like signs, directions or characters: if a mirrored one is another one, domain: symbols "
        "refuses such changes for good, docs/augmentation.md"
    )


def _augment(profile: SourceProfile) -> list[str]:
    return ["crop", *([] if _mirrored_differ(profile) else ["flip"]), *([] if profile.grey else ["colour"])]


def _augment_note(profile: SourceProfile) -> str:
    flip = (
        "no flip: class names depend on left and right"
        if _mirrored_differ(profile)
        else ("remove flip if a mirrored image would be of another class")
    )
    colour = "no colour: the images are grey" if profile.grey else "remove colour if it tells the classes apart"
    return f"{flip}; {colour}"


def _split_note(profile: SourceProfile) -> str:
    if profile.splits:
        return f"the source names {', '.join(sorted(profile.splits))}: these stay, the shares are for other images"
    if profile.groups:
        note = f"{profile.groups} groups: each is in one split as a whole"
    else:
        note = "no group column: only near-duplicates stay together; name objects, sessions or tracks if there are any"
    if profile.timed >= MOSTLY * profile.rows:
        note += f"; {profile.timed} of {profile.rows} images have a time: `by: time` would test on the newest of them"
    return note


def layout_notes(profile: SourceProfile) -> list[str]:
    """What the layout found in the paths, and which paths do not fit it."""
    if profile.layout is None:
        return []
    notes = [f"layout {profile.layout}: {_listed(profile.found)}"]
    if profile.misfits:
        shown = ", ".join(map(repr, profile.misfits[:3])) + (", ..." if len(profile.misfits) > 3 else "")
        count = f"{len(profile.misfits)} of {profile.rows} paths"
        notes.append(f"note: {count} do not fit the layout and will be quarantined: {shown}")
    taken = profile.rows - len(profile.misfits)
    for name, count in profile.found.items():
        if name.startswith("values of ") and count > max(20, taken // 5):
            advice = "too many for a slice; write {*} in the layout to ignore them"
            notes.append(f"note: {count} {name} in {taken} images: {advice}")
    return notes


def _listed(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items() if count) or "nothing"


def slug(name: str) -> str:
    """`name` as bundle.name requires it: lower case letters, digits and "-", starting with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"model-{plain}".strip("-"))[:63].rstrip("-")
