"""Groups that the file names hold and nobody recorded, and how far the splits divide them."""

from collections.abc import Sequence

import numpy as np

from tasks.siblings.alike import Looks
from tasks.siblings.name_patterns import group_keys, propose_layout
from tasks.sources.layouts import parse_layout

LOOKED_AT = 20_000  # images


def find_hidden_groups(
    paths: Sequence[str | None], labels: Sequence[str | None], thumbnails: np.ndarray, splits: Sequence[str | None]
) -> dict | None:
    """What the names of N images say, and how many test images have an image of their group in train; None: nothing.

    thumbnails (N, P) uint8. Of more than LOOKED_AT images, the first in the order of their paths are looked at for the
    pattern, because images of one object mostly follow one another; all of them are counted.
    """
    names = [path or "" for path in paths]
    order = sorted(range(len(names)), key=names.__getitem__)[:LOOKED_AT]
    found = propose_layout(
        [names[row] for row in order], [labels[row] for row in order], Looks(thumbnails, np.array(order, np.int64))
    )
    if found is None:
        return None
    keys = group_keys(parse_layout(found.template), names)
    if keys is None:
        return None
    split = np.array([name or "" for name in splits])
    trained = set(keys[split == "train"].tolist()) - {""}
    tested = keys[split == "test"].tolist()
    divided = sum(key in trained for key in tested)
    return {
        "layout": found.template,
        "groups": found.groups,
        "images": found.siblings,
        "alike": round(found.alike, 3),
        "test_images": len(tested),
        "test_images_with_group_in_train": divided,
        "sentence": f"{found.sentence()}; {divided} of {len(tested)} test images have an image of their group in train",
    }
