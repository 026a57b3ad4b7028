"""What a folder or manifest of images is like: task, classes, sides, layout."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from flows.project.hidden_groups import find_hidden_groups
from tasks.common.errors import DataError
from tasks.common.params import ImagesParams
from tasks.common.sections.data import SplitFractions
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
    timed: int = 0  # rows with a time


def profile_source(source: Path, columns: Columns | None = None, layout: str | None = None) -> SourceProfile:
    """Count all rows and open a sample of the images. Raises DataError if there are no rows or none can be opened."""
    opened = open_source(source, columns, layout)
    rows, labels, splits, groups, sources = 0, [], set(), set(), set()
    misfits, slices, units, bad_times, timed, unread = [], defaultdict(set), [], {}, 0, 0
    for row in opened.rows(images=False):
        rows += 1
        if row.refused is not None and row.refused.reason == "bad_path":
            misfits.append(row.where)
        if row.bad_time is not None:
            bad_times[row.bad_time] = None
            unread += 1
        timed += row.taken_at is not None
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
        timed=timed + unread if form else timed,
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
