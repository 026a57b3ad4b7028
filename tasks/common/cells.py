"""Values from a user's table cells and file names, made fit for storage."""

import math
from typing import Any

from tasks.common.written import tidy

TEXT_LENGTH = 500  # characters of a source, annotator, slice name or value


def is_missing(value: Any) -> bool:
    """Whether `value` is None or NaN (pandas writes NaN for empty cells)."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def optional_text(value: Any) -> str | None:
    """A source, annotator or slice value as text of at most TEXT_LENGTH characters; None for an empty one."""
    if is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers in a column with gaps arrive as floats
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    found = tidy(without_surrogates(str(value)))[:TEXT_LENGTH]
    return found or None


def without_surrogates(value: str) -> str:
    """`value` with "?" for each lone surrogate: undecodable file names carry them, and Parquet refuses them."""
    return value if is_encodable(value) else value.encode("utf-8", "replace").decode()


def harmless_cell(value: str) -> str:
    """`value` for a CSV that people open: quoted if it begins like a formula, which a spreadsheet would run."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def is_encodable(value: str) -> bool:
    """Whether UTF-8 can hold `value`: false where it has a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
