"""The facets of the index: what a person may filter images by, and the bands of measured values."""

import math

FACETS = {
    "origin": "From",
    "predicted": "Predicted",
    "true": "True label",
    "confidence": "Confidence",
    "ood": "Familiar",
    "source": "Source",
    "version": "Version",
    "window": "Window",
    "split": "Split",
    "issue": "Label issue",
    "batch": "Batch",
    "state": "In use",
}
SHOWN_NONE = "(none)"  # a row without a value for the facet; code 0
LOGGED = "production log"  # origin of an answer; images of data/ have the origin that ingest recorded
BOUNDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # of the confidence bands
SORTS = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "least-confident": "Least confident first",
    "most-confident": "Most confident first",
    "unfamiliar": "Least familiar first",
    "familiar": "Most familiar first",
}
IN_USE, EXCLUDED, TOMBSTONED = "in use", "excluded", "batch tombstoned"


def confidence_band(value: float | None) -> str | None:
    """The band of a confidence: "under 50 %", "50 to 70 %", ..., "99 % or more"."""
    if value is None or not math.isfinite(value):
        return None
    edges = [round(100 * bound) for bound in BOUNDS]
    for low, high, bound in zip([None, *edges], edges, BOUNDS, strict=False):
        if round(value, 5) < bound:  # 0.9 as float32 is a little less
            return f"under {high} %" if low is None else f"{low} to {high} %"
    return f"{edges[-1]} % or more"


def ood_band(value: float | None, threshold: float | None) -> str | None:
    """Whether an out-of-distribution score is beyond its model's threshold."""
    if value is None or threshold is None:
        return None
    if value > threshold:
        return "unfamiliar"
    return "familiar, near the limit" if value > 0.8 * threshold > 0 else "familiar"


def label_text(label: str | list[str] | None) -> str | None:
    """A label as one value of a facet; the labels of a multi-label image are one value together."""
    if label is None or isinstance(label, str):
        return label
    return " + ".join(sorted(label)) or "none of the classes"
