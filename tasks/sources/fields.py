"""Parse a manifest's raw values into the types that samples have: labels and splits.

Times are read by tasks.sources.times. Every function takes one raw value (from CSV text, JSON or Parquet) and returns
the typed one; None stays None. An unreadable value raises `Unusable` with a reason from schemas.QUARANTINE_REASONS:
only that row is quarantined.
"""

import json
import math
import unicodedata
from collections.abc import Collection
from typing import Any

from tasks.common.cells import is_encodable, is_missing
from tasks.common.schemas import SPLITS
from tasks.common.written import tidy

LABEL_LENGTH = 200  # characters

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "val": "calibration",
    "valid": "calibration",
    "validation": "calibration",
    "dev": "calibration",
    "test": "test",
    "testing": "test",
    "hard": "hard",
}


class Unusable(Exception):
    """A row that cannot be used; `reason` is one of schemas.QUARANTINE_REASONS."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def label(value: Any, task: str, classes: Collection[str] | None) -> str | list[str] | None:
    """The label of a sample: a class name, or a sorted list of them (multilabel; [] = none applies).

    In a multilabel data set a string is split at "|". Whole numbers become their decimal text. Text that is a list, as
    tables write it, is that list. A vector of zeros and ones does not name classes: it is refused.
    """
    if is_missing(value):
        return None
    value = _listed(value)
    if isinstance(value, list | tuple) and len(value) > 1 and all(_is_bit(part) for part in value):
        raise Unusable("bad_label", f"{str(value)[:40]} is a vector of zeros and ones: give the names of the classes")
    if task == "multiclass":
        if isinstance(value, list | tuple):
            if not value:
                return None
            if len(value) != 1:
                raise Unusable("bad_label", f"{len(value)} labels, data.task: multiclass expects one")
            value = value[0]
        return _class_name(value, classes)
    if isinstance(value, str):
        value = value.split("|")
    elif not isinstance(value, list | tuple):
        value = [value]
    return sorted({_class_name(part, classes) for part in value})


def _listed(value: Any) -> Any:
    """The list that the text `value` writes as JSON or Python does; any other value as it is."""
    if not isinstance(value, str) or not value.startswith("[") or not value.endswith("]"):
        return value
    for text in (value, value.replace("'", '"')):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if all(isinstance(part, str | int | float) for part in found):
            return found
    return value


def _is_bit(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


def probability(value: Any) -> float | None:
    """A sampling probability above 0 and at most 1; None for any other value. "0,5" is read as well."""
    try:
        found = float(value.replace(",", ".") if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and 0 < found <= 1 else None


def _class_name(value: Any, classes: Collection[str] | None) -> str:
    if isinstance(value, Unusable):  # the reader has already refused it
        raise value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers in a column with gaps arrive as floats
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, bytes):  # Parquet of programs that do not mark text as text
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise Unusable("bad_label", f"a {type(value).__name__}, expected text")
    name = tidy(value)  # macOS writes accents apart, spreadsheets and web pages leave blanks that nobody sees
    if not name:
        raise Unusable("bad_label", "an empty label")
    if len(name) > LABEL_LENGTH:
        raise Unusable("bad_label", f"{len(name)} characters, at most {LABEL_LENGTH} allowed")
    if not is_encodable(name):
        raise Unusable("bad_label", "not valid Unicode text")
    if any(unicodedata.category(character) == "Cc" for character in name):  # files list classes one per line
        raise Unusable("bad_label", f"{name[:60]!r} has control characters (a newline, a NUL)")
    if classes is not None and name not in classes:
        listed = next((known for known in classes if tidy(known) == name), None)
        if listed is None:
            raise Unusable("unknown_label", f"{name!r} is not in data.classes")
        return listed
    return name


def split(value: Any) -> str | None:
    """One of schemas.SPLITS; "val" and "validation" mean calibration."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    found = SPLIT_WORDS.get(str(value).strip().lower())
    if found is None:
        raise Unusable("bad_split", f"{str(value)[:60]!r} is not one of {', '.join(SPLITS)}")
    return found
