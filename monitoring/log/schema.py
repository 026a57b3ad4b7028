"""Schemas of the production log and of late labels."""

import pyarrow as pa

from tasks.common.schemas import MEASURES, label_type

SCHEMA_VERSION = 1  # of answers and of late labels; files of Evergreen 0.1 do not say it


def log_schema(task: str) -> pa.Schema:
    """The production log: one row per answer.

    If the bytes are not a usable image, only the first columns are set.
    """
    return pa.schema(
        [
            ("id", pa.string()),  # sha256 of the encoded bytes, hex; late labels are joined by it
            ("at", pa.timestamp("us", tz="UTC")),  # of the request
            ("source", pa.string()),  # camera, site, session; null: unknown
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
            ("label", label_type(task)),
        ]
    )
