"""Objects, tracks and sessions that only the file names tell: what `evergreen init` finds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from tasks.common.params import ImagesParams
from tasks.dataset.decode import Undecodable, open_image
from tasks.inspection.measure import measure
from tasks.siblings.alike import thumbnail_features
from tasks.siblings.bursts import Bursts, burst_keys, camera_and_time, propose_bursts
from tasks.siblings.name_patterns import (
    MIXED,
    NamePattern,
    group_keys,
    has_candidates,
    joined_with_class,
    propose_layout,
    worth_a_test,
)
from tasks.sources.fields import Unusable
from tasks.sources.layouts import parse_layout
from tasks.sources.offered import Offered
from tasks.sources.source import Source

LOOKED_AT = 400  # images that are decoded
RUN = 25  # neighbours in the order of their names: images of one object mostly follow one another


def find_hidden_groups(opened: Source) -> NamePattern | Bursts | None:
    """Groups of images that are alike, by file names or else by bursts, from a sample.

    None if there are groups already.
    """
    rows = _readable(opened)
    if any(row.group for row in rows):
        return None
    sample = _runs(rows)
    named = has_candidates([row.path for row in sample], [_label(row) for row in sample])
    if not named and not worth_a_test(burst_keys([_taken(row) for row in sample])):
        return None
    sample, looks = _looks(sample)
    labels = [_label(row) for row in sample]
    if named and (found := propose_layout([row.path for row in sample], labels, looks)):
        return _counted_per_class(found, rows)
    return propose_bursts([_taken(row) for row in sample], labels, looks)


def _taken(row: Offered) -> tuple[str, datetime] | None:
    try:
        return camera_and_time(open_image(row.read(), ImagesParams().max_pixels))
    except (Unusable, Undecodable):
        return None


def _counted_per_class(found: NamePattern, rows: Sequence[Offered]) -> NamePattern | None:
    """`found`, with the class in the group if tracks are counted in each class: a sample of few classes hides that."""
    keys = group_keys(parse_layout(found.template), [row.path for row in rows])
    if keys is None:
        return None
    members: dict[str, dict[str | None, Offered]] = defaultdict(dict)
    for key, row in zip(keys.tolist(), rows, strict=True):
        members[key].setdefault(_label(row), row)
    mixed = sorted(key for key, of_class in members.items() if key and len(of_class) > 1)
    if sum(key in members and len(members[key]) > 1 for key in keys.tolist()) <= MIXED * len(rows):
        return found
    step = max(1, len(mixed) * 2 // LOOKED_AT)
    sample, looks = _looks([row for key in mixed[::step] for row in list(members[key].values())[:2]])
    keys = group_keys(parse_layout(found.template), [row.path for row in sample])
    labels = np.array([_label(row) for row in sample], dtype=object)
    _, template = joined_with_class(keys, found.template, labels, looks)
    return None if template is None else replace(found, template=template)


def _label(row: Offered) -> str | None:
    return row.label if isinstance(row.label, str) else None


def _readable(opened: Source) -> list[Offered]:
    """The rows with a path; of images that lie in a manifest only LOOKED_AT: reading on would read them all."""
    rows = []
    for row in opened.rows():
        if row.refused is None and row.path:
            rows.append(row)
            if isinstance(row.image, bytes) and len(rows) == LOOKED_AT:
                break
    return rows


def _looks(rows: Sequence[Offered]) -> tuple[list[Offered], np.ndarray]:
    """The rows whose image can be decoded, and what the images look like, (N, 256) float32."""
    kept, thumbnails = [], [np.empty((0, 256), np.uint8)]
    for row in rows:
        try:
            found = measure(row.read(), ImagesParams().max_pixels).thumbnail
        except (Unusable, Undecodable):
            continue  # the ingest reports it
        kept.append(row)
        thumbnails.append(np.frombuffer(found, np.uint8)[None])
    return kept, thumbnail_features(np.concatenate(thumbnails))


def _runs(rows: Sequence[Offered]) -> list[Offered]:
    """LOOKED_AT rows: runs of neighbours in the order of their paths."""
    ordered = sorted(rows, key=lambda row: row.path)
    if len(ordered) <= LOOKED_AT:
        return ordered
    starts = np.linspace(0, len(ordered) - RUN, LOOKED_AT // RUN, dtype=int)
    return [ordered[start + step] for start in starts for step in range(RUN)]


def hidden_group_notes(found: NamePattern | Bursts | None) -> list[str]:
    """What was found, and how to use it."""
    if found is None:
        return []
    if isinstance(found, Bursts):
        return [
            f"note: {found.sentence()}",
            "note: without groups, images of one object come into both training and test. If that is right, list the",
            "  images in a manifest with a column `group` that names the burst of each",
        ]
    return [
        f"note: {found.sentence()}",
        "note: without groups, images of one object come into both training and test. If that is right, write",
        f"  layout: {found.template!r}",
        "  under `data:` in params.yaml before the first ingest (or start again with --layout)",
    ]
