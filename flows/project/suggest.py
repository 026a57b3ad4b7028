"""Suggest parameters for a user's images and labels, from a bounded sample.

`profile_source` measures, `suggest_params` decides. Each choice comes with the reason that params.yaml shows above it.
"""

import platform
import re
import shutil
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from flows.project.hidden_groups import find_hidden_groups
from tasks.common.errors import DataError
from tasks.common.params import ImagesParams, Params, SplitFractions, parse_params
from tasks.dataset.decode import Undecodable, open_image, upright
from tasks.ingest.coverage import preview
from tasks.ingest.found import label_names
from tasks.siblings.bursts import Bursts
from tasks.siblings.name_patterns import NamePattern
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.records import Columns
from tasks.sources.source import open_source
from tasks.sources.times import Times, fitting_formats
from tasks.sources.understood import understood

SAMPLE = 500  # images whose header is read
DECODED = 50  # of these, decoded to tell grey images from colour ones
REACH = 5_000  # the sample comes from the first rows of a manifest: reading on would read all of its images
CPU_SIZE = 128  # 224 pixels cost three times as much: an hour for 20,000 images on two cores
SIZES = (64, 96, 128, 224)


@dataclass(frozen=True)
class SourceProfile:
    """What a source contains."""

    name: str
    rows: int
    multilabel: bool
    classes: dict[str, int]  # class -> rows
    labelled: int
    splits: frozenset[str]  # given by the source
    groups: int  # distinct groups
    sides: tuple[int, ...]  # shorter side of each sampled image, pixels
    aspects: tuple[float, ...]  # longer by shorter side
    grey: bool
    bits: tuple[int, ...] = ()  # that sampled 16-bit images use, whose files do not say it
    layout: str | None = None  # the template that the paths were read with
    misfits: tuple[str, ...] = ()  # paths that do not fit it
    pattern: NamePattern | Bursts | None = None  # groups that nobody recorded
    group_notes: tuple[str, ...] = ()  # what the groups do not allow
    found: dict[str, int] = field(default_factory=dict)  # what is read from a path or column -> distinct values
    understood: tuple[str, ...] = ()  # how the source was read, for people
    time_format: str | None = None  # the only one that fits times which are otherwise unreadable


def profile_source(source: Path, columns: Columns | None = None, layout: str | None = None) -> SourceProfile:
    """Count all rows and open a sample of the images. Raises DataError if there are no rows or none can be opened."""
    opened = open_source(source, columns, layout)
    rows, labels, splits, groups, sources = 0, [], set(), set(), set()
    misfits, slices, units, bad_times = [], defaultdict(set), [], {}
    for row in opened.rows(images=False):
        rows += 1
        if row.refused is not None and row.refused.reason == "bad_path":
            misfits.append(row.where)
        if row.bad_time is not None:
            bad_times[row.bad_time] = None
        for name, value in row.slices:
            slices[name].add(value)
        labels.append(row.label)
        units.append((row.group, row.source))
        groups.add(row.group)
        sources.add(row.source)
        splits.update(row.split if len(row.split) == 1 else row.split[:1])
    if rows == 0:
        raise DataError(f"{source} has no rows: nothing to fit parameters to")
    forms = fitting_formats(bad_times) if bad_times else []
    form = forms[0] if len(forms) == 1 else None
    opened = replace(opened, times=Times(form))
    multilabel = any(_several(label, folders=not opened.manifests) for label in labels)
    task = "multilabel" if multilabel else "multiclass"
    counts, labelled = _count(labels, task)
    notes = []
    if groups - {None} and not splits:
        names = map(_class_names, labels, [task] * rows)
        notes = preview([(*unit, of) for unit, of in zip(units, names, strict=True)], SplitFractions())

    wanted = set(np.linspace(0, (min(rows, REACH) if opened.manifests else rows) - 1, SAMPLE, dtype=int).tolist())
    sides, aspects, colours, bits, problem = [], [], [], [], None
    for number, row in enumerate(islice(opened.rows(), max(wanted) + 1)):
        if number not in wanted:
            continue
        try:
            image = open_image(row.read(), ImagesParams().max_pixels)
            sides.append(min(image.size))
            aspects.append(max(image.size) / min(image.size))
            if len(colours) < DECODED:
                colours.append(_is_grey(image))
                if image.mode.startswith("I") and image.info.get("bit_depth") is None:
                    bits.append(int(np.max(image)).bit_length())
        except (Unusable, Undecodable) as error:
            problem = problem or f"{row.where}: {error}"
        except Exception as error:  # the header is fine, the pixels are not; ingest reports each such image
            problem = problem or f"{row.where}: {error}"
    if not sides:
        raise DataError(f"{source}: none of {len(wanted)} sampled images can be opened, e.g. {problem}")
    return SourceProfile(
        name=(source if source.is_dir() else source.with_suffix("")).resolve().name,
        rows=rows,
        multilabel=multilabel,
        classes=dict(counts),
        labelled=labelled,
        splits=frozenset(splits),
        groups=len(groups - {None}),
        sides=tuple(sides),
        aspects=tuple(aspects),
        grey=bool(colours) and all(colours),
        bits=tuple(bits),
        layout=layout,
        misfits=tuple(misfits),
        pattern=find_hidden_groups(opened) if layout is None else None,
        group_notes=tuple(notes),
        found={"classes": len(counts), "groups": len(groups - {None}), "sources": len(sources - {None})}
        | {f"values of {name}": len(values) for name, values in sorted(slices.items())},
        time_format=form,
        understood=tuple(understood(opened, "multilabel" if multilabel else "multiclass")),
    )


def _several(label: object, folders: bool) -> bool:
    if isinstance(label, list | tuple):
        return len(label) != 1
    return not folders and isinstance(label, str) and "|" in label


def _class_names(raw: object, task: str) -> tuple[str, ...]:
    try:
        return label_names(fields.label(raw, task, None))
    except Unusable:
        return ()


def _count(labels: list, task: str) -> tuple[Counter, int]:
    counts: Counter = Counter()
    labelled = 0
    for raw in labels:
        try:
            found = fields.label(raw, task, None)
        except Unusable:
            continue
        if found is not None:
            labelled += 1
            counts.update(found if isinstance(found, list) else [found])
    return counts, labelled


def _is_grey(image) -> bool:
    small = np.asarray(upright(image).convert("RGB").resize((32, 32)), np.int16)
    return int(np.abs(small - small[..., :1]).max()) <= 8


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


def _mirrored_differ(profile: SourceProfile) -> bool:
    """Do the class names suggest that a mirrored image has another class, or none?"""
    words = {word for name in profile.classes for word in re.split(r"[^a-z0-9]+", name.lower())}
    characters = bool(profile.classes) and all(len(name) == 1 for name in profile.classes)
    return characters or bool(words & {"left", "right", "clockwise"})


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
        return f"{profile.groups} groups: each is in one split as a whole"
    return "no group column: only near-duplicates stay together; name objects, sessions or tracks if there are any"


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
