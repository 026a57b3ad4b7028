"""Schemas of the production log and of late labels."""

import pyarrow as pa

from tasks.common.schemas import MEASURES, SLICE, label_type

SCHEMA_VERSION = 2  # of answers and of late labels; files of Evergreen 0.1 do not say it
ADDED = ("key", "path", "slices", "role", "picked", "sampling_probability")  # columns that version 1 lacks
DEFAULTS = {"role": "annotator", "picked": "unknown"}  # what stands in for them; else null


def log_schema(task: str) -> pa.Schema:
    """The production log: one row per answer.

    If the bytes are not a usable image, only the first columns are set.
    """
    return pa.schema(
        [
            ("id", pa.string()),  # sha256 of the encoded bytes, hex; late labels are joined by it
            ("at", pa.timestamp("us", tz="UTC")),  # of the request
            ("source", pa.string()),  # camera, site, session; null: unknown
            ("key", pa.string()),  # the owner's: order number, part id; late labels are joined by it, too
            ("path", pa.string()),  # the owner's, relative to what was scored
            ("slices", SLICE),  # free: product, shift
            ("image", pa.binary()),  # encoded bytes; null if only thumbnails are kept
            ("reason", pa.string()),  # null, or one of QUARANTINE_REASONS
            ("version", pa.string()),  # of the model, "v0.2.0"
            ("bundle", pa.string()),  # sha256 of its manifest
            ("latency_ms", pa.float32()),
            ("prediction", label_type(task)),
            ("confidence", pa.float32()),
            ("probabilities", pa.list_(pa.float32())),  # (K,) in the model's class order
            ("ood", pa.float32()),
            ("needs_review", pa.bool_()),
            ("features", pa.list_(pa.float32())),  # (D,)
            *MEASURES,
            ("thumbnail", pa.binary()),  # JPEG of the model's input, at most 64 pixels
        ]
    )


def late_labels_schema(task: str) -> pa.Schema:
    """True labels of production samples as they arrive; the newest label of each annotator counts."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("at", pa.timestamp("us", tz="UTC")),
            ("annotator", pa.string()),
            ("label", label_type(task)),  # null: the image is to be used for nothing
            ("role", pa.string()),  # annotator, or reviewer: whose newest word overrides
            ("picked", pa.string()),  # why it was asked for: one of tasks.common.schemas.PICKED
            ("sampling_probability", pa.float32()),  # of an audit sample
        ]
    )
