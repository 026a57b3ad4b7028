"""Objects, tracks and sessions that only the file names tell: what `evergreen init` finds."""

from collections.abc import Sequence

import numpy as np

from tasks.common.params import ImagesParams
from tasks.dataset.decode import Undecodable
from tasks.inspection.measure import measure
from tasks.siblings.alike import thumbnail_features
from tasks.siblings.name_patterns import NamePattern, has_candidates, propose_layout
from tasks.sources.fields import Unusable
from tasks.sources.source import Offered, Source

LOOKED_AT = 400  # images that are decoded
RUN = 25  # neighbours in the order of their names: images of one object mostly follow one another


def find_hidden_groups(opened: Source) -> NamePattern | None:
    """The layout that names groups of images that are alike, from a sample; None if there are groups already."""
    rows = _sample(opened)
    if not rows or any(row.group for row in rows):
        return None
    labels = [row.label if isinstance(row.label, str) else None for row in rows]
    if not has_candidates([row.path for row in rows], labels):
        return None
    kept, thumbnails = [], []
    for number, row in enumerate(rows):
        try:
            thumbnails.append(np.frombuffer(measure(row.read(), ImagesParams().max_pixels).thumbnail, np.uint8))
            kept.append(number)
        except (Unusable, Undecodable):
            continue  # the ingest reports it
    if not kept:
        return None
    features = thumbnail_features(np.stack(thumbnails))
    return propose_layout([rows[n].path for n in kept], [labels[n] for n in kept], features)


def _sample(opened: Source) -> list[Offered]:
    """LOOKED_AT rows: runs of files in the order of their paths; the first ones where images lie in a manifest."""
    rows = []
    for row in opened.rows():
        if row.refused is not None or not row.path:
            continue
        rows.append(row)
        if isinstance(row.image, bytes) and len(rows) == LOOKED_AT:  # reading on would read all of its images
            return rows
    return [rows[n] for n in _runs(sorted(range(len(rows)), key=lambda n: rows[n].path))]


def _runs(order: Sequence[int]) -> list[int]:
    if len(order) <= LOOKED_AT:
        return list(order)
    starts = np.linspace(0, len(order) - RUN, LOOKED_AT // RUN, dtype=int)
    return [order[start + step] for start in starts for step in range(RUN)]


def hidden_group_notes(found: NamePattern | None) -> list[str]:
    """What was found, and how to use it."""
    if found is None:
        return []
    return [
        f"note: {found.sentence()}",
        "note: without groups, images of one object come into both training and test. If that is right, write",
        f"  layout: {found.template!r}",
        "  under `data:` in params.yaml before the first ingest (or start again with --layout)",
    ]
