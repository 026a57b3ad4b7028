"""What the columns of a manifest mean: named by the user, or found by usual names.

A manifest that lacks a requested column raises DataError with the columns it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.common.errors import DataError
from tasks.sources.fields import Unusable
from tasks.sources.tables import plain_name

ALIASES = {
    "image": ("image", "img", "path", "file", "filename", "file_name", "filepath", "image_path", "image_file"),
    "label": ("label", "labels", "class", "class_name", "target", "category"),
    "source": ("source", "camera", "camera_id", "site", "site_id", "device"),
    "group": (
        *("group", "group_id", "session", "session_id", "track", "track_id", "sequence", "sequence_id", "video"),
        *("video_id", "patient", "patient_id", "subject", "subject_id", "user", "user_id", "person", "person_id"),
        *("object", "object_id", "instance_id", "scene_id", "burst"),
    ),
    "time": ("taken_at", "time", "timestamp", "date", "datetime", "captured_at"),
    "annotator": ("annotator", "annotator_id", "labeler", "labeller", "rater", "labelled_by", "labeled_by"),
    "labelled_at": ("labelled_at", "labeled_at", "annotated_at"),
    "split": ("split", "subset"),
    "key": (
        *("key", "order", "order_id", "order_number", "order_no", "part_id", "part_number", "part_no", "serial"),
        *("serial_number", "serial_no", "barcode", "item_id", "sample_id", "image_id", "id"),
    ),
    "picked": (),  # never guessed: the word has other meanings
    "sampling_probability": (),
}
SLICES = (
    "camera",
    "site",
    "product",
    "shift",
    "line",
    "station",
    "machine",
    "weather",
    "lighting",
)  # guessed as slices


@dataclass(frozen=True)
class Columns:
    """Names of a manifest's columns; None: found by ALIASES, ignoring case.

    Slices are the columns `slices`, those called like SLICES that have no other role, every column `slice_<name>`, and
    the entries of a column `slice`, a list of {name, value}.
    """

    image: str | None = None  # a path, or the image itself
    label: str | None = None
    source: str | None = None  # camera, site: a slice
    group: str | None = None  # object, session, track: never divided between splits
    time: str | None = None
    annotator: str | None = None
    labelled_at: str | None = None
    split: str | None = None
    key: str | None = None  # the owner's: order number, part id, file name
    picked: str | None = None  # one of tasks.common.schemas.PICKED
    sampling_probability: str | None = None
    slices: tuple[str, ...] = ()
    unlabelled: bool = False  # ignore any label column
    label_optional: bool = False  # the class is read from the path where no column has it


# (where, for messages; the columns' names; the values, or why the row cannot be read)
Record = tuple[str, Columns, dict[str, Any] | Unusable]
WORDS = frozenset(alias for aliases in ALIASES.values() for alias in aliases)


def find_columns(names: Sequence[str], columns: Columns, where: str, class_labels: Sequence[str] = ()) -> Columns:
    """`columns` with each missing name filled in from the manifest's `names` where one fits.

    Raises DataError, which lists `names`, if a named column, the image or the label is missing.
    """
    if duplicates := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{where}: more than one column is called {duplicates[0]!r}: rename one")
    found, lower = {}, {plain_name(name): name for name in reversed(names)}
    listing = ", ".join(map(repr, names[:40])) or "none"
    for role, aliases in ALIASES.items():
        wanted = getattr(columns, role)
        if wanted is not None and wanted not in names:
            raise DataError(f"{where}: no column {wanted!r} (for the {role}); columns found: {listing}")
        found[role] = wanted or next((lower[alias] for alias in aliases if alias in lower), None)
    if found["image"] is None:
        raise DataError(
            f"{where}: no image or path column; columns found: {listing}. Name it (--image NAME), or call it `image`"
        )
    if columns.unlabelled:
        found["label"] = None
    elif found["label"] is None and len(class_labels) == 1:
        found["label"] = class_labels[0]
    elif found["label"] is None and not columns.label_optional:
        raise DataError(
            f"{where}: no label column; columns found: {listing}. Name it (--label NAME), or call it `label`"
        )
    for name in columns.slices:
        if name not in names:
            raise DataError(f"{where}: no column {name!r} (for a slice); columns found: {listing}")
    used = {*columns.slices, *found.values()}
    guessed = [name for name in names if plain_name(name) in SLICES and name not in used]
    return Columns(**found, slices=(*columns.slices, *guessed), unlabelled=columns.unlabelled)
